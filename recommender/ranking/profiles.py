"""Ranking profiles: named, versioned sets of weights, kept in the database."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from itertools import groupby
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Select
from sqlalchemy.orm import aliased

from recommender.database import lookup
from recommender.database.expressions import Statement
from recommender.database.schema import check_first_rows
from recommender.database.session import Session
from recommender.errors import InvalidValue, UnknownProfile, UnknownSignal
from recommender.formats import scalars
from recommender.formats.profiles import ProfileRecord
from recommender.models import ProfileVersion, ProfileWeight
from recommender.models.types import LARGEST_WEIGHT
from recommender.ranking.registry import known_registry
from recommender.ranking.request import (
    PEOPLE,
    PEOPLE_SIGNALS,
    REFERENCE,
    SIMILAR,
    Profile,
)

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,99}", re.ASCII)
"""The form of the names of profiles and feeds."""

OF_LISTS = (PEOPLE, SIMILAR)
"""The profiles of lists beside For You. Their newest version serves, and none can be activated."""

LONGEST_NOTE = 10_000

_VERSION = re.compile(r"[1-9]\d{0,8}", re.ASCII)


def get_profile(session: Session, profile: str | None = None) -> Profile:
    """Return a version of a profile, by one statement.

    Args:
        session: the caller's transaction.
        profile: ``name`` for its newest version, ``name@version`` for that one, None for the
            version activated last.

    Raises:
        UnknownProfile: there is no such profile or version.
    """
    wanted = WantedProfile.of(profile)
    rows = session.execute(_read_one(wanted.form), wanted._asdict()).all()
    if not rows:
        check_first_rows(session)
        raise _unknown(profile)
    return _profiles(rows)[0]


def profile_of_id(session: Session, row_id: int) -> Profile:
    """Return the version of a profile by its row id, by one statement."""
    return _profiles(session.execute(_read().where(ProfileVersion.id == row_id)))[0]


def list_profiles(session: Session) -> list[Profile]:
    """Return every version of every profile, by name and version.

    Args:
        session: the caller's transaction.

    Raises:
        SchemaOutOfDate: no migration made the tables.
    """
    profiles = _profiles(session.execute(_read()).all())
    if not profiles:
        check_first_rows(session)
    return profiles


def profile_history(session: Session, name: str | None = None) -> list[ProfileRecord]:
    """Return the origins of versions, by name and version.

    Args:
        session: the caller's transaction.
        name: the name of a profile; None for all.

    Raises:
        UnknownProfile: there is no such profile.
    """
    version, parent = ProfileVersion, aliased(ProfileVersion)
    about = (version.source, version.author, version.note, version.metrics)
    statement = (
        sa.select(
            version.name, version.version, version.created_at, version.activated_at, *about,
            parent.name.label("parent_name"), parent.version.label("parent_version"),
        )
        .outerjoin(parent, parent.id == version.parent_id)
        .order_by(version.name, version.version)
        .prefix_with("/* recommender.profile_history */")
    )  # fmt: skip
    if name is not None:
        statement = statement.where(version.name == name)
    records = [_record(row) for row in session.execute(statement)]
    if not records:
        check_first_rows(session)
        raise UnknownProfile(f"there is no profile {scalars.shown(name)}")
    return records


def _record(row: Any) -> ProfileRecord:
    return ProfileRecord(
        profile=row.name,
        version=row.version,
        created_at=row.created_at,
        activated_at=row.activated_at,
        source=row.source,
        author=row.author,
        note=row.note,
        parent=f"{row.parent_name}@{row.parent_version}" if row.parent_name else None,
        metrics=row.metrics,
    )


def create_profile(
    session: Session,
    name: str,
    weights: Mapping[str, float],
    *,
    author: str | None = None,
    note: str | None = None,
    parent: str | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Profile:
    """Create a version of a profile; it serves by default once it is activated.

    Versions never change: other weights are a new version. A version of ``people`` or ``similar``
    ranks the list of this name at once.

    Args:
        session: the caller's transaction; nothing is committed.
        name: a letter, then letters, digits and ``_ . -``, at most 100 in all; not ``classic``.
        weights: the weights by signal, at least one, -100 to 100; all others are 0. ``people``
            has signals about people, any other profile signals about videos.
        author: the author, 1 to 255 characters.
        note: the reason, 1 to 10,000 characters.
        parent: ``name`` or ``name@version`` it is made from; None for the version before it.
        metrics: the results of a fit, as JSON; None if the weights were chosen by hand.

    Raises:
        InvalidValue: a name, weight, author or note is malformed.
        UnknownSignal: there is no such signal.
        UnknownProfile: there is no such parent.
    """
    checked_name(name)
    if not weights:
        raise InvalidValue("weights: a profile needs at least one")
    known = known_registry(lookup.registry(session))
    for signal in weights:
        check_person_signal(signal) if name == PEOPLE else known.signal(signal)
    checked = {signal: checked_weight(signal, weight) for signal, weight in weights.items()}
    about = checked_origin(author, note)
    lock_versions(session)
    version, origin = _next(session, name, parent)
    row = ProfileVersion(
        name=name, version=version, created_at=scalars.now(), parent_id=origin, **about,
        source="hand" if metrics is None else "fit", metrics=metrics,
    )  # fmt: skip
    row.weights = [
        ProfileWeight(signal=signal, position=position, weight=weight)
        for position, (signal, weight) in enumerate(checked.items(), start=1)
    ]
    session.add(row)
    session.flush()
    return Profile(name, version, checked, id=row.id)


def check_person_signal(name: str) -> None:
    """Raise `UnknownSignal` if a signal is none of the profile `people`."""
    if name not in PEOPLE_SIGNALS:
        raise UnknownSignal(
            f"there is no signal {scalars.shown(name)} in the profile {PEOPLE}, which ranks people:"
            f" there are {', '.join(PEOPLE_SIGNALS)}"
        )


def checked_name(name: str) -> str:
    """Return a name for a new version, or raise `InvalidValue`."""
    if not NAME.fullmatch(name):
        raise InvalidValue(
            f"profile: {scalars.shown(name)} is not a letter followed by letters, digits, _ . or -"
        )
    if name == REFERENCE:
        raise InvalidValue(f"profile: {REFERENCE} is the reference formula: choose another name")
    return name


def _next(session: Session, name: str, parent: str | None) -> tuple[int, int | None]:
    """Return the number of a profile's next version, and the row id of its parent."""
    newest = (
        sa.select(ProfileVersion.version, ProfileVersion.id)
        .where(ProfileVersion.name == name)
        .order_by(ProfileVersion.version.desc())
        .limit(1)
    )
    row = session.execute(newest).one_or_none()
    version, before = (0, None) if row is None else row
    return version + 1, before if parent is None else get_profile(session, parent).id


def checked_origin(author: str | None, note: str | None) -> dict[str, str | None]:
    """Return author and note as columns, or raise `InvalidValue`."""
    return {
        "author": _optional_text("author", author, scalars.KEY_LENGTH),
        "note": _optional_text("note", note, LONGEST_NOTE),
    }


def _optional_text(name: str, value: str | None, longest: int) -> str | None:
    if value == "":
        raise InvalidValue(f"{name}: is empty")
    return None if value is None else scalars.parse_named(name, scalars.text, value, longest)


def lock_versions(session: Session) -> None:
    """Lock the creation of profiles and feeds, so that version numbers follow one another."""
    reference = sa.select(ProfileVersion.id).where(ProfileVersion.name == REFERENCE)
    if session.execute(reference.with_for_update(key_share=True)).first() is None:
        check_first_rows(session)


def activate_profile(session: Session, profile: str) -> Profile:
    """Activate a version: it serves requests that name no profile.

    Args:
        session: the caller's transaction; nothing is committed.
        profile: ``name`` for its newest version, ``name@version`` for that one.

    Raises:
        UnknownProfile: there is no such profile or version.
        InvalidValue: it is the profile ``people`` or ``similar``, whose newest version serves.
    """
    version = get_profile(session, profile)
    if version.name in OF_LISTS:
        raise InvalidValue(
            f"profile: {version.name} is for the list {version.name}, which its newest version"
            " ranks without activation"
        )
    last = session.scalar(sa.select(sa.func.max(ProfileVersion.activated_at)))
    session.execute(
        sa.update(ProfileVersion)
        .where(ProfileVersion.name == version.name, ProfileVersion.version == version.version)
        .values(activated_at=_after(last))
    )
    return replace(version, active=True)


def _after(last: datetime | None) -> datetime:
    """Return now, or just after `last` if this machine's clock is behind it."""
    now = scalars.now()
    return max(now, last + timedelta(microseconds=1)) if last else now


def checked_weight(signal: str, weight: float) -> float:
    """Return the weight of a signal, or raise `InvalidValue` if it is not -100 to 100."""
    name = f"weight of {signal}"
    return scalars.parse_named(name, scalars.number, weight, -LARGEST_WEIGHT, LARGEST_WEIGHT)


def _split(profile: str) -> tuple[str, int | None]:
    if not isinstance(profile, str):
        raise _unknown(profile)
    name, at, version = profile.partition("@")
    if not NAME.fullmatch(name) or (at and not _VERSION.fullmatch(version)):
        raise _unknown(profile)
    return name, int(version) if at else None


class WantedProfile(NamedTuple):
    """Which version of a profile a statement reads: the active one, a named or a numbered one.

    Attributes:
        name: the name of the profile; None for the active one.
        version: the number of the version; None for the newest.
    """

    name: str | None = None
    version: int | None = None

    @classmethod
    def of(cls, profile: str | None) -> WantedProfile:
        """Return what ``name`` or ``name@version`` asks for; `UnknownProfile` if malformed."""
        return cls() if profile is None else cls(*_split(profile))

    @property
    def form(self) -> tuple[bool, bool]:
        """Whether a name and a version are given."""
        return self.name is not None, self.version is not None


def version_id(form: tuple[bool, bool]) -> ColumnElement[int]:
    """Return the row id of the wanted version.

    Execute it with the fields of a `WantedProfile` of this form as bind parameters.
    """
    is_named, is_numbered = form
    wanted = _named(is_numbered=is_numbered) if is_named else _active()
    return wanted.scalar_subquery()


def with_profile(statement: Statement, row_id: ColumnElement[int]) -> Statement:
    """Add a version of a profile to a statement of one row, which gets a row per weight.

    `profile_in` reads the version from these rows.
    """
    return (
        statement.add_columns(*_columns())
        .outerjoin(ProfileVersion, ProfileVersion.id == row_id)
        .outerjoin(ProfileWeight, ProfileWeight.profile_id == ProfileVersion.id)
        .order_by(ProfileWeight.position)
    )


def profile_in(rows: Sequence[Any], profile: str | None) -> Profile:
    """Return the version of a profile in the rows of a statement of `with_profile`.

    Args:
        rows: the rows, one or more.
        profile: what the caller asked for.

    Raises:
        UnknownProfile: there is no such profile or version.
    """
    if rows[0].profile_id is None:
        raise _unknown(profile)
    return _profiles(rows)[0]


def _unknown(profile: object) -> UnknownProfile:
    return UnknownProfile(f"there is no profile {scalars.shown(profile)}")


@cache
def _read_one(form: tuple[bool, bool]) -> Statement:
    return _read().where(ProfileVersion.id == version_id(form))


def _named(*, is_numbered: bool) -> Select[int]:
    version = aliased(ProfileVersion)
    named = sa.select(version.id).where(version.name == sa.bindparam("name"))
    if is_numbered:
        return named.where(version.version == sa.bindparam("version"))
    return named.order_by(version.version.desc()).limit(1)


def _active() -> Select[int]:
    version = aliased(ProfileVersion)
    latest = (version.activated_at.desc(), version.id.desc())
    activated = sa.select(version.id).where(version.activated_at.is_not(None))
    return activated.order_by(*latest).limit(1)


def _columns() -> tuple[ColumnElement[Any], ...]:
    version, weight = ProfileVersion, ProfileWeight
    return (
        version.id.label("profile_id"),
        version.name.label("profile"),
        version.version.label("version"),
        (version.id == _active().scalar_subquery()).label("active"),
        weight.signal.label("signal"),
        weight.weight.label("weight"),
    )


def _read() -> Statement:
    version, weight = ProfileVersion, ProfileWeight
    statement: Statement = sa.select(*_columns())
    return (
        statement.join(weight, weight.profile_id == version.id)
        .order_by(version.name, version.version, weight.position)
        .prefix_with("/* recommender.profiles */")
    )


def _profiles(rows: Iterable[Any]) -> list[Profile]:
    return [
        Profile(name, version, {row.signal: row.weight for row in group}, bool(active), number)
        for (number, name, version, active), group in groupby(
            rows, key=lambda row: (row.profile_id, row.profile, row.version, row.active)
        )
    ]
