"""The registry: the signals, sources and filters that there are, ours and the host's."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.orm import aliased

from recommender.database.expressions import Number
from recommender.database.registered import Registered
from recommender.errors import InvalidValue, UnknownSignal
from recommender.formats import scalars
from recommender.formats.scalars import shown
from recommender.formats.vectors import space_name
from recommender.models import Video
from recommender.ranking.filters import Filter
from recommender.ranking.outside import (
    alike_signal,
    alike_source,
    near_source,
    outside_signal,
    outside_source,
    taste_signal,
)
from recommender.ranking.registration import (
    MAX_QUOTA,
    OF_SPACE,
    bounded_select,
    check_count,
    check_filter,
    check_filter_names,
    check_signal,
    check_signal_names,
    check_source,
    check_source_names,
    columns_read,
    stored_type,
)
from recommender.ranking.request import PEOPLE, PEOPLE_SIGNALS, POOL, Profile
from recommender.ranking.signals import SIGNALS, Candidate, Signal, within_range
from recommender.ranking.similar import SIMILAR_SIGNALS, SIMILAR_SOURCES
from recommender.ranking.sources import SOURCES, Source
from recommender.ranking.viewer import Viewer

REGISTRY_HINT = "; one of your own needs a registry, see RECOMMENDER_REGISTRY"
"""The end of an error about an unknown name if the host registered nothing of the kind."""

SPACE_HINT = "; this one needs a registry with a space, see RECOMMENDER_REGISTRY"
"""The end of an error about a signal or source of a space if there is no space."""


def hint_of(name: object, own: Sequence[object]) -> str:
    """Return the end of an error about an unknown signal or source: how to get it.

    Args:
        name: the unknown name.
        own: the signals or sources that the host registered.
    """
    if name in OF_SPACE:
        return SPACE_HINT
    return "" if own else REGISTRY_HINT


@dataclass(frozen=True, eq=False)
class Registry:
    """The host's own signals, sources and filters, in addition to ours.

    Hand it to `create_engine` or `prepare_engine`, or name it by ``RECOMMENDER_REGISTRY``. Make it
    once, at import time: statements are kept for each registry. Everything is called with stand-ins
    when the registry is made, so that most mistakes are found at once; `testing.check` finds the
    others.

    Args:
        signals: known by name to profiles, fits, evaluations and explanations.
        sources: candidates beside ours; at most 50 sources in all.
        filters: conditions of every list.
        outside: names of candidates that `upsert_candidates` stores, each with its quota: a source
            and a signal of that name.
        space: the name of a space of vectors (`create_space`). It adds the signal `taste` and the
            source `near` to For You, and the signal and the source `alike` to `similar`.
        near: the quota of these sources, 1 to 1,000.
        name: its name in messages.

    Attributes:
        columns_read: the host's tables that these read, each with the columns that they name.

    Raises:
        InvalidValue: one of them is malformed; the message names it.
    """

    signals: Sequence[Signal] = ()
    sources: Sequence[Source] = ()
    filters: Sequence[Filter] = ()
    outside: Mapping[str, int] = field(default_factory=dict)
    space: str | None = field(default=None, kw_only=True)
    near: int = field(default=40, kw_only=True)
    name: str = field(default="the registry", kw_only=True)
    columns_read: Mapping[sa.TableClause, Sequence[sa.ColumnClause[Any]]] = field(
        init=False, repr=False
    )

    def __post_init__(self) -> None:
        for part, kind in (("signals", Signal), ("sources", Source), ("filters", Filter)):
            object.__setattr__(self, part, _all_of(part, kind, getattr(self, part)))
        if not isinstance(self.name, str):
            raise InvalidValue(f"registry: name: {shown(self.name)} is no text")
        if not isinstance(self.outside, Mapping):
            raise InvalidValue(f"registry: outside: {shown(self.outside)} gives no quota to a name")
        signals = map(outside_signal, self.outside)
        sources = itertools.starmap(outside_source, self.outside.items())
        object.__setattr__(self, "signals", (*self.signals, *signals))
        object.__setattr__(self, "sources", (*self.sources, *sources))
        if self.space is not None:
            named = scalars.parse_named("registry: space", space_name, self.space)
            object.__setattr__(self, "space", named)
            check_count("registry: near", self.near, 1, MAX_QUOTA)
        check_signal_names(self.signals)
        check_source_names(self.sources, has_space=self.space is not None)
        check_filter_names(self.filters)
        clauses = (
            *_checked("signal", check_signal, self.signals),
            *_checked("source", check_source, self.sources),
            *_checked("filter", check_filter, self.filters),
        )
        object.__setattr__(self, "columns_read", columns_read(clauses))

    @cached_property
    def every_signal(self) -> Mapping[str, Signal]:
        """The signals of For You by name: ours, then the host's."""
        of_space = [taste_signal(self.space)] if self.space else []
        return {signal.name: signal for signal in (*SIGNALS, *of_space, *self.signals)}

    @cached_property
    def _known(self) -> Mapping[str, Signal]:
        """All signals by name, also of the list `similar`."""
        of_space = [alike_signal(self.space)] if self.space else []
        others = {signal.name: signal for signal in (*SIMILAR_SIGNALS, *of_space)}
        return {**self.every_signal, **others}

    @cached_property
    def every_source(self) -> tuple[Source, ...]:
        """All sources: ours, then the host's, each reading a limited number of rows."""
        of_space = [near_source(self.space, self.near)] if self.space else []
        return (*SOURCES, *of_space, *map(_limited, self.sources))

    @cached_property
    def similar_sources(self) -> tuple[Source, ...]:
        """The sources of the list `similar`."""
        of_space = [alike_source(self.space, self.near)] if self.space else []
        return (*SIMILAR_SOURCES, *of_space)

    def signal(self, name: str) -> Signal:
        """Return the signal of a name.

        Raises:
            UnknownSignal: there is no such signal.
        """
        if (signal := self._known.get(name)) is not None:
            return signal
        if name in PEOPLE_SIGNALS:
            raise UnknownSignal(
                f"the signal {name} is about people, not videos: only the profile {PEOPLE} has it,"
                f" for the list of people to follow"
            )
        place, there_are = f" in {self.name}" if self.name else "", ", ".join(self._known)
        hint = hint_of(name, self.signals)
        raise UnknownSignal(f"there is no signal {shown(name)}{place}: there are {there_are}{hint}")

    def check(self, profile: Profile) -> None:
        """Raise `UnknownSignal` if a profile weighs a signal that there is not."""
        for name in profile.weights:
            self.signal(name)

    def value_of(self, name: str, candidate: Candidate) -> Number:
        """Return the expression of a signal; a host's is clamped to its range.

        Raises:
            UnknownSignal: there is no such signal.
        """
        signal = self.signal(name)
        is_hosts = signal in self.signals
        return within_range(signal, candidate) if is_hosts else signal.expression(candidate)

    def source_names(self, sources: float) -> tuple[str, ...]:
        """Return the names of the sources in a value of the `sources` column of `feed_query`.

        Args:
            sources: a sum of powers of 2, whose exponents are indexes in `every_source`, and after
                the last for `POOL`; 0 for none.
        """
        every = enumerate(self._source_names)
        return tuple(name for bit, name in every if int(sources) >> bit & 1)

    @cached_property
    def _source_names(self) -> tuple[str, ...]:
        return (*(source.name for source in self.every_source), POOL)

    def reason_against(self, rule: str) -> str | None:
        """Return the host's sentence for one of its filters, None if it is not the host's."""
        return next((each.otherwise for each in self.filters if each.name == rule), None)


def known_registry(kept: Registered | None) -> Registry:
    """Return the registry that an engine keeps, ours if it keeps none.

    Raises:
        InvalidValue: it is no `Registry`.
    """
    if kept is None:
        return OURS
    if isinstance(kept, Registry):
        return kept
    raise InvalidValue(f"registry: {shown(kept)} is no Registry")


def _all_of(part: str, kind: type, given: Any) -> tuple[Any, ...]:
    if isinstance(given, str | Mapping) or not isinstance(given, Sequence | set | frozenset):
        raise InvalidValue(f"registry: {part}: {shown(given)} is no list")
    if odd := [each for each in given if not isinstance(each, kind)]:
        raise InvalidValue(f"registry: {part}: {shown(odd[0])} is no {kind.__name__}")
    return tuple(given)


def _checked(kind: str, check: Callable[[Any], Any], things: Sequence[Any]) -> Iterator[Any]:
    """Yield the SQL of things of the host's; what their functions raise becomes one sentence."""
    for each in things:
        try:
            yield check(each)
        except InvalidValue:
            raise
        except Exception as error:
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            raise InvalidValue(f"{kind} {each.name}: its function fails: {cause}") from error


def _limited(source: Source) -> Source:
    """Return a host's source whose SELECT gives each video once, from a limited number of rows."""

    def select(viewer: Viewer, quota: int) -> sa.Select[int]:
        rows = bounded_select(source, viewer, quota).subquery("rows")
        # The rows come in the host's order, which their places keep through joins and groups.
        place = sa.func.row_number().over().label("place")
        placed = sa.select(rows.c[0].label("video"), place).subquery("places")
        video_id: ColumnElement[Any] = placed.c.video
        statement = sa.select(video_id)
        if isinstance(stored_type(placed.c.video), sa.String):
            video = aliased(Video)
            video_id = video.id.expression
            key = sa.type_coerce(placed.c.video, Video.key.type)
            statement = sa.select(video_id).join_from(placed, video, video.key == key)
        return statement.group_by(video_id).order_by(sa.func.min(placed.c.place))

    return replace(source, select=select, is_listed=True)


OURS = Registry(name="")
"""The registry of an engine without the host's."""
