"""Contract tests of a registry, to run from the host's own test suite.

Write ``assert not check(registry, session)``, on a database of yours with some users and videos.
Faults that show without a database are refused when the registry is made.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

from recommender.database import lookup
from recommender.database.session import Session
from recommender.errors import InvalidValue
from recommender.feed.explain import explain_in
from recommender.feed.for_you import make_page
from recommender.feed.reasons import with_reasons
from recommender.feed.resolve import reading_time, resolve
from recommender.feed.statements import read_given_candidates
from recommender.feed.values import FeedPage
from recommender.formats.findings import Finding
from recommender.formats.scalars import shown
from recommender.logs import log
from recommender.models import User, Video
from recommender.models.tables import VIDEOS
from recommender.operations.probes import (
    Thing,
    attempt,
    given_rows,
    registered_things,
    source_videos,
    spread_keys,
    sql_of,
    statement_of,
    structure_of,
    volatile_in,
    with_several_rows,
)
from recommender.operations.registered_plans import INDEX_ADVICE, plan_fault
from recommender.ranking.registry import Registry, known_registry
from recommender.ranking.request import FeedRequest, Profile
from recommender.ranking.signals import Signal

SAMPLED_USERS, SAMPLED_VIDEOS, PLANNED_VIDEOS = 3, 500, 100

TOLERANCE = 1e-9
"""The distance from its range that a signal may have by the errors of floating-point numbers."""

READ_AS_OF = "read viewer.as_of for the time, and leave nothing to chance"

TOGETHER = "rename a CTE that two of them have, and test each with a part of the others"

STRANGER = "the unknown user of recommender.testing"
"""The key of no user."""


@dataclass(frozen=True)
class _Trial:
    """The session of a check, the requests of the users it samples, and keys of videos."""

    session: Session
    registry: Registry
    requests: tuple[FeedRequest, ...]
    videos: tuple[str, ...]

    @property
    def few_videos(self) -> tuple[str, ...]:
        """Some of the videos, spread over the whole catalogue."""
        return self.videos[:: 1 + len(self.videos) // PLANNED_VIDEOS]


class _Result(NamedTuple):
    user: str
    video: str
    value: Any

    @property
    def place(self) -> str:
        """The part of a sentence that says for whom it is."""
        return f"for the video {self.video} and {_user(self.user)}"


def _user(key: str) -> str:
    known = f"the user {key}" if key else "no user"
    return "an unknown user" if key == STRANGER else known


def check(
    registry: Registry, session: Session, *, as_of: datetime | None = None
) -> tuple[Finding, ...]:
    """Check that what is registered keeps its promises on a database; it writes nothing.

    A signal is a number in its range, a filter is true or false, and a source gives videos, each
    once. None of them depends on a clock or on chance, gives something else the second time, or
    reads too many rows. If all of this holds, a page, a ranking and an explanation run with
    everything registered. The checks sample 500 videos, 3 users and an unknown one.

    Args:
        registry: the registry; the engine of the session may have another, or none.
        session: a session of a prepared engine on a database with some users and videos. It may be
            SQLite or PostgreSQL: run the tests on the one that you use in production.
        as_of: the reading time, with an offset; None for now.

    Returns:
        One finding per fault, in the order of the registry; empty if all is well. Faults raise
        nothing, and the session stays usable.

    Raises:
        InvalidValue: the database has no users or no videos, or the reading time has no offset.
    """
    trial = _trial(known_registry(registry), session, reading_time(as_of))
    faults = [
        Finding(each.check, ok=False, found=found, advice=advice)
        for each in registered_things(registry)
        for found, advice in _faults_of(trial, each)
    ]
    return tuple(faults or _page_faults(trial))


def _trial(registry: Registry, session: Session, as_of: datetime) -> _Trial:
    users = spread_keys(session, User, SAMPLED_USERS)
    videos = spread_keys(session, Video, SAMPLED_VIDEOS)
    for name, keys in (("users", users), ("videos", videos)):
        if not keys:
            raise InvalidValue(f"testing: the database has no {name}: the checks need some")
    weights = dict.fromkeys(("freshness", *(signal.name for signal in registry.signals)), 1.0)
    profile = Profile("testing", 1, weights)
    requests = tuple(
        replace(resolve(session, user, profile, as_of=as_of), registry=registry)
        for user in (*users, STRANGER)
    )
    trial = _Trial(session, registry, requests, tuple(videos))
    return replace(trial, videos=(*videos, *_found_by_sources(trial)))


def _found_by_sources(trial: _Trial) -> list[str]:
    """Return the keys of videos that the sources find, because signals often concern them."""
    keys: dict[str, None] = {}
    for source in trial.registry.sources:
        for request in trial.requests:
            ids, _ = attempt(trial.session, partial(_column, trial, source_videos(source, request)))
            rows = lookup.find(trial.session, [VIDEOS.c.id], [(each,) for each in ids or ()],
                               [VIDEOS.c.key])  # fmt: skip
            keys.update((row.key, None) for row in rows)
    return [key for key in keys if key not in set(trial.videos)]


def _column(trial: _Trial, statement: Any) -> Sequence[Any]:
    return lookup.run(trial.session, statement).scalars().all()


class _Fault(NamedTuple):
    sentence: str
    advice: str


def _faults_of(trial: _Trial, each: Thing) -> Iterator[_Fault]:
    """Return the faults of a registered thing, without the consequences of others."""
    faults = list(_faults_of_sql(trial, each)) or list(_faults_of_results(trial, each))
    yield from faults
    plans = trial.session, each, trial.requests, trial.few_videos
    if not faults and (slow := plan_fault(*plans)) is not None:
        yield _Fault(slow.sentence, INDEX_ADVICE)


def _faults_of_sql(trial: _Trial, each: Thing) -> Iterator[_Fault]:
    """Return a fault that the SQL tells: it reads a clock or chance, in Python or in SQL."""
    if structure_of(sql_of(each)) != structure_of(sql_of(each)):
        yield _Fault(f"{each.label} makes other SQL each time, but its SQL is kept", READ_AS_OF)
        return
    dialect = lookup.connection(trial.session).dialect
    volatile, cause = attempt(trial.session, partial(volatile_in, sql_of(each), dialect))
    if cause is not None:
        yield _cannot_run(each, cause)
    elif volatile is not None:
        yield _Fault(f"{each.label} reads {volatile}, which changes by itself", READ_AS_OF)


def _cannot_run(each: Thing, cause: str) -> _Fault:
    return _Fault(f"{each.label} cannot run: {cause}", "create its tables, and test it by itself")


def _faults_of_results(trial: _Trial, each: Thing) -> Iterator[_Fault]:
    """Return the faults that the results tell; no other ones if it cannot run."""
    if each.kind != "source" and (fault := _several_rows(trial, each)) is not None:
        yield fault
        return
    read = partial(_rows_of if each.kind == "source" else _values_of, trial, each)
    first, cause = attempt(trial.session, read)
    second, again = attempt(trial.session, read)
    if first is None or second is None:
        yield _cannot_run(each, str(cause or again))
        return
    if (found := _difference(first, second)) is not None:
        yield _Fault(f"{each.label} {found} at one reading time", READ_AS_OF)
    yield from FAULTS[each.kind](trial, each, first)


def _difference(first: Sequence[_Result], second: Sequence[_Result]) -> str | None:
    """Return what differs between two readings, None if nothing does."""
    # As text, because NaN differs from itself.
    for before, after in zip(first, second, strict=False):
        if str(before) != str(after):
            place = f" {before.place}" if before.video else f" for {_user(before.user)}"
            return f"is {before.value} and then {after.value}{place}"
    return None if len(first) == len(second) else "gives more rows the second time, or fewer,"


def _several_rows(trial: _Trial, each: Thing) -> _Fault | None:
    """Return the fault that a subquery for one value gives several rows for a video."""
    values, _ = attempt(trial.session, partial(_values_of, trial, with_several_rows(each)))
    found = next((value for value in values or () if value.value), None)
    if found is None:
        return None
    return _Fault(
        f"{each.label} has a subquery of several rows {found.place}: SQLite takes one of them,"
        " and PostgreSQL fails",
        "take one of the rows by sa.func.max, or by an order and a limit of 1",
    )


def _values_of(trial: _Trial, each: Thing) -> list[_Result]:
    """Return the values of a signal, or the outcomes of a filter, which may have no viewer."""
    requests = list(trial.requests)
    if each.kind == "filter":
        requests.append(replace(requests[-1], user="", user_id=None))
    return [
        _Result(request.user, video, value)
        for request in requests
        for video, value in sorted(
            lookup.run(trial.session, statement_of(each, request, trial.videos)),
            key=lambda row: str(row.key),
        )
    ]


def _rows_of(trial: _Trial, each: Thing) -> list[_Result]:
    """Return the ids or keys that a source gives, in its order."""
    return [
        _Result(request.user, "", value)
        for request in trial.requests
        for value in _column(trial, given_rows(each.own, request))
    ]


def _faults_of_signal(_trial: _Trial, each: Thing, results: Sequence[_Result]) -> Iterator[_Fault]:
    faults = (_fault_of_value(each.own, result.value) for result in results)
    yield from _first_of_each(each, results, faults)


def _fault_of_value(signal: Signal, value: Any) -> _Fault | None:
    if value is None:
        return _Fault("is NULL", "write sa.func.coalesce(value, 0.0)")
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return _Fault(f"is {shown(value)}, which is no number,", "cast it to sa.Double")
    if math.isnan(value):
        return _Fault("is NaN", "write a case for the values that it does not hold for")
    if not signal.low - TOLERANCE <= value <= signal.high + TOLERANCE:
        found = f"is {value:g}, which is not in {signal.low:g} to {signal.high:g},"
        return _Fault(found, "declare another range, or scale the value: pages cut it off")
    return None


def _faults_of_filter(_trial: _Trial, each: Thing, results: Sequence[_Result]) -> Iterator[_Fault]:
    faults = [_fault_of_outcome(result.value) for result in results]
    yield from _first_of_each(each, results, faults)
    if not any(faults) and not any(result.value for result in results):
        yield _Fault(
            f"{each.label} is false for all {len({result.video for result in results}):,} videos"
            " that were sampled, and for every user",
            "a filter is true for the videos that may be shown",
        )


def _fault_of_outcome(value: Any) -> _Fault | None:
    if value is None:
        return _Fault("is NULL", "write sa.func.coalesce(condition, sa.false())")
    if value not in {0, 1}:
        return _Fault(f"is {shown(value)}, neither true nor false,", "compare it with a value")
    return None


def _first_of_each(
    each: Thing, results: Sequence[_Result], faults: Iterable[_Fault | None]
) -> Iterator[_Fault]:
    """Return the first fault per property, with the video and the user."""
    first: dict[str, _Fault] = {}
    for result, fault in zip(results, faults, strict=True):
        if fault is not None:
            sentence = f"{each.label} {fault.sentence} {result.place}"
            first.setdefault(fault.advice, _Fault(sentence, fault.advice))
    yield from first.values()


def _faults_of_source(trial: _Trial, each: Thing, results: Sequence[_Result]) -> Iterator[_Fault]:
    if any(result.value is None for result in results):
        yield _Fault(f"{each.label} gives NULL", "leave out rows without a video")
    given = Counter((user, value) for user, _, value in results if value is not None)
    (user, value), times = max(given.items(), key=lambda item: item[1], default=(("", None), 0))
    if times > 1:
        yield _Fault(
            f"{each.label} gives the video {value} {times:,} times for {_user(user)}: each time"
            " counts as a row",
            "select each video once, by GROUP BY",
        )
    values = {value for _, value in given}
    known = _known(trial, values)
    if values and not known:
        yield _Fault(
            f"{each.label} gives {len(values):,} ids or keys, none of which is a video",
            "select Video.id, or the keys that you gave to upsert_videos",
        )
    log(logging.INFO, "registered source", given=len(values), videos=known)


def _known(trial: _Trial, values: Iterable[Any]) -> int:
    """Return how many of some ids or keys are of videos."""
    counts = []
    for column, kind in ((VIDEOS.c.id, int), (VIDEOS.c.key, str)):
        keys = [(value,) for value in values if isinstance(value, kind)]
        counts.append(len(lookup.find(trial.session, [column], keys, [column])))
    return sum(counts)


FAULTS = {
    "signal": _faults_of_signal, "source": _faults_of_source, "filter": _faults_of_filter,
}  # fmt: skip


def _page_faults(trial: _Trial) -> Iterator[Finding]:
    """Return the first fault of the lists that have everything registered, at most one."""
    request, session = trial.requests[0], trial.session
    lists: Mapping[str, Callable[[], object]] = {
        "a page": lambda: _page(session, request),
        "a ranking of given videos": lambda: read_given_candidates(
            session, request, trial.few_videos
        ),
        "an explanation": lambda: explain_in(session, request, trial.videos[0], {}),
    }
    for name, make in lists.items():
        _, cause = attempt(session, make)
        if cause is not None:
            found = f"{name} with all of {trial.registry.name} fails: {cause}"
            yield Finding("page", ok=False, found=found, advice=TOGETHER)
            return


def _page(session: Session, request: FeedRequest) -> FeedPage:
    page = make_page(session, request, record=False)
    return with_reasons(session, request, page, {})
