"""The registry of an engine: the host's own signals, sources and filters, found by every session.

This wing only keeps it. What it may hold is decided in `ranking/registry.py`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import sqlalchemy as sa

from recommender import settings
from recommender.errors import InvalidValue
from recommender.formats.scalars import shown
from recommender.settings import REGISTRY_VARIABLE

OPTION = "recommender_registry"
"""The execution option of engines and connections that holds the registry."""


@runtime_checkable
class Registered(Protocol):
    """The parts of a `Registry` that an engine needs to know."""

    @property
    def name(self) -> str:
        """The name in messages."""
        ...

    @property
    def signals(self) -> Sequence[Any]:
        """The host's signals."""
        ...

    @property
    def sources(self) -> Sequence[Any]:
        """The host's sources."""
        ...

    @property
    def filters(self) -> Sequence[Any]:
        """The host's filters."""
        ...

    @property
    def space(self) -> str | None:
        """The name of the space whose vectors are read, None for none."""
        ...

    @property
    def columns_read(self) -> Mapping[sa.TableClause, Sequence[sa.ColumnClause[Any]]]:
        """The host's tables that these read, each with the columns that they name."""
        ...


def keep_registry(engine: sa.Engine, registry: Registered | None) -> None:
    """Let every session on an engine find a registry; None is the one of the environment.

    Raises:
        InvalidValue: it is no registry, or the environment names none.
    """
    found = configured_registry() if registry is None else _checked("registry", registry)
    if found is not None:
        engine.update_execution_options(**{OPTION: found})


def kept_registry(bind: sa.Engine | sa.Connection) -> Registered | None:
    """Return the registry of an engine or a connection, else the environment's, or None.

    Raises:
        InvalidValue: the environment names no registry.
    """
    return bind.get_execution_options().get(OPTION) or configured_registry()


def configured_registry() -> Registered | None:
    """Return the registry that the environment names; None if it names none.

    Raises:
        InvalidValue: it cannot be imported, or is no registry.
    """
    written = settings.configured_registry()
    return _imported(written) if written else None


@lru_cache(maxsize=10)
def _imported(written: str) -> Registered:
    if ":" not in written:
        raise InvalidValue(
            f"{REGISTRY_VARIABLE}: {shown(written)} is not of the form package.module:name"
        )
    try:
        found = pkgutil.resolve_name(written)
    except InvalidValue as error:
        raise InvalidValue(f"{REGISTRY_VARIABLE}: {written}: {error}") from error
    except (Exception, SystemExit) as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise InvalidValue(f"{REGISTRY_VARIABLE}: {written} cannot be imported: {cause}") from error
    return _checked(REGISTRY_VARIABLE, found)


def _checked(name: str, found: Any) -> Registered:
    if isinstance(found, Registered) and not isinstance(found, type):
        return found
    raise InvalidValue(f"{name}: {shown(found)} is no Registry")
