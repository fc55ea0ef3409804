"""Evaluate lists beside the feed: whether a list holds what its user wanted next.

A task says for whom a list is made, what they wanted, and which lists are compared. Each user is
asked about once. The lists know only what was known at the cut.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender.database.transactions import translate_errors
from recommender.errors import InvalidValue
from recommender.evaluation.log_cut import begin_learned, check_sample, check_target, cut_of
from recommender.evaluation.log_files import LogFiles
from recommender.evaluation.log_replay import Progress, Timeline, no_progress, scratch_timeline
from recommender.evaluation.results import CandidateRecall, PageQuality, PageVideo, RankedPages
from recommender.formats import scalars
from recommender.formats.plain import plain_fields
from recommender.ranking.profiles import get_profile
from recommender.ranking.registry import Registry
from recommender.ranking.request import Profile
from recommender.settings import Settings

A = TypeVar("A")
"""What a list is about: a user, or a user with a given video."""

Sourced = Sequence[tuple[str, Collection[str]]]
"""The keys of a list in order, each with the names of the sources that found it."""


@dataclass(frozen=True, slots=True)
class ListEvaluation:
    """The results of an evaluation of lists. Every interval is over users.

    Attributes:
        target: the target outcome.
        cutoff: when the log was cut, None if each user's log was cut separately.
        until: events at this time or later were left out; None if there was no bound.
        users: the number of users, each with one list.
        choices: the number of videos or creators that could be in a list.
        found: how much of what users wanted is among the first 20 of the first list, and how much
            each of its sources found.
        lists: each list.
        seconds: the duration.
    """

    target: str
    cutoff: datetime | None
    until: datetime | None
    users: int
    choices: int
    found: CandidateRecall
    lists: tuple[PageQuality, ...]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the evaluation as JSON; an interval has a value, a low and a high end."""
        return plain_fields(self)


class Asked(NamedTuple, Generic[A]):
    """A list that is asked for.

    Attributes:
        user: the key of the user.
        about: what the list is about.
        wanted: the keys that it should hold.
    """

    user: str
    about: A
    wanted: frozenset[str]


class Cases(NamedTuple, Generic[A]):
    """The lists that are asked for, and what can be in them.

    Attributes:
        choices: the videos or creators that can be in a list, by key.
        users: the number of users in the database.
        asked: the lists, of users in random order.
    """

    choices: Mapping[str, PageVideo]
    users: int
    asked: Iterable[Asked[A]]


@dataclass(frozen=True, slots=True)
class ListTask(Generic[A]):
    """A kind of list to evaluate.

    Attributes:
        profile: the name of the profile that is evaluated by default.
        sources: returns the names of the sources of the list in a registry.
        check: raises an error if a profile of a name cannot rank the list.
        listed: returns the first 20 of the list of a profile.
        others: returns the lists to compare with, by name; they may use the first profile.
        cases: returns the lists that are asked for, from a session on the scratch database, the
            timeline, the target, the cut and the seed.
        nothing: the error if no list is asked for.
    """

    profile: str
    sources: Callable[[Registry], Sequence[str]]
    check: Callable[[Registry, str, Profile], None]
    listed: Callable[[A, Profile], Sourced]
    others: Callable[[Profile], Mapping[str, Callable[[A], list[str]]]]
    cases: Callable[[Session, Timeline, str, datetime, int], Cases[A]]
    nothing: str


def evaluate_lists(
    source: Engine | LogFiles,
    task: ListTask[A],
    *,
    cutoff: datetime | None,
    until: datetime | None,
    holdout: float | None,
    profiles: Sequence[str],
    target: str,
    sample: int,
    scratch: str | None,
    seed: int,
    settings: Settings | None,
    progress: Progress | None,
) -> ListEvaluation:
    """Evaluate the lists of a task; see `evaluate_next` for the arguments and errors."""
    started = time.monotonic()
    settings = settings or Settings.from_environment()
    report = progress or no_progress
    check_target(target)
    check_sample(sample)
    cut, start = cut_of(source, cutoff, until, holdout, target, settings)
    host = None if isinstance(source, LogFiles) else source
    with scratch_timeline(cut, scratch, settings, host) as timeline, translate_errors():
        named = _profiles(host or timeline.engine, profiles or [task.profile])
        for name, profile in named.items():
            task.check(timeline.registry, name, profile)
        begin_learned(timeline, source, start, report)
        with Session(timeline.engine) as session:
            cases = task.cases(session, timeline, target, start, seed)
            shown = _ranked(task, named, cases, sample, report)
        sources = task.sources(timeline.registry)
    if not shown.relevant:
        raise InvalidValue(task.nothing)
    return ListEvaluation(
        target=target,
        cutoff=None if holdout else start,
        until=None if cut.until == scalars.LATEST else cut.until,
        users=len(shown.relevant),
        choices=len(shown.videos),
        found=shown.recall(sources, seed),
        lists=shown.qualities(seed),
        seconds=round(time.monotonic() - started, 3),
    )


def _profiles(engine: Engine, names: Sequence[str]) -> dict[str, Profile]:
    """Return the profiles to evaluate by name."""
    with translate_errors(), Session(engine) as session:
        return {name: get_profile(session, name) for name in names}


def _ranked(
    task: ListTask[A],
    profiles: Mapping[str, Profile],
    cases: Cases[A],
    sample: int,
    report: Progress,
) -> RankedPages:
    """Return all lists for a sample of users, beginning with the list of the first profile."""
    shown = RankedPages(cases.choices, cases.users)
    first, *more = profiles.values()
    others = task.others(first)
    names = [_label(name, profile, others) for name, profile in profiles.items()]
    for asked, done in zip(cases.asked, range(1, sample + 1), strict=False):
        shown.viewers.append(asked.user)
        shown.relevant.append(asked.wanted)
        listed = task.listed(asked.about, first)
        shown.found.append([sources for key, sources in listed if key in asked.wanted])
        of_profiles = [listed, *(task.listed(asked.about, profile) for profile in more)]
        for name, keys in zip(names, of_profiles, strict=True):
            shown.pages[name].append([key for key, _ in keys])
        for name, keys_of in others.items():
            shown.pages[name].append(keys_of(asked.about))
        report("pages", done, sample)
    report("pages", sample, sample)
    return shown


def _label(name: str, profile: Profile, taken: Collection[str]) -> str:
    """Return the name that a profile was asked for by, with the version if a list has it."""
    return profile.label if name in taken else name
