"""Start, list and stop experiments, which compare profiles on the users of a feed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from recommender.database import lookup
from recommender.database.schema import check_first_rows
from recommender.database.session import Session
from recommender.errors import ExperimentRunning, InvalidValue, NotFound
from recommender.feed.feeds import create_feed, get_feed
from recommender.formats import scalars
from recommender.formats.experiments import GUARDRAILS, INTERLEAVED, METRICS
from recommender.formats.plain import plain
from recommender.models.tables import EXPERIMENTS
from recommender.ranking.profiles import (
    NAME,
    OF_LISTS,
    activate_profile,
    get_profile,
    lock_versions,
)
from recommender.ranking.request import REFERENCE, Feed, Profile

MAX_VARIANTS = 10

MIN_SHARE = 0.001
"""The smallest share of an arm: below it, an arm of a million users is too small to compare."""

MIN_EFFECT = 0.0001
"""The smallest effect that may matter: 0.01 % takes hundreds of millions of users already."""

_COMMENT = "/* recommender.experiments */"


@dataclass(frozen=True, slots=True)
class ExperimentArm:
    """An arm of an experiment.

    Attributes:
        profile: the version of the profile that ranks its users' pages, ``name@version``.
        share: its share of the users, 0 to 1; the shares of all arms add up to 1.
    """

    profile: str
    share: float

    def as_dict(self) -> dict[str, Any]:
        """Return the arm as `experiments show --format json` prints it."""
        return {"profile": self.profile, "share": self.share}


@dataclass(frozen=True, slots=True)
class Experiment:
    """An experiment on the users of a feed.

    Attributes:
        name: the name.
        feed: the name of the feed, None for For You.
        arms: the arms, the control first.
        interleaved: whether each page holds videos of both arms.
        metric: what it wants to raise.
        guardrails: what it must not harm.
        least_effect: the smallest relative effect that matters, such as 0.02 for 2 %.
        started_at: the time of its start, in UTC.
        stopped_at: the time from which it assigns no one, in UTC; None while it runs.
        promoted: the profile that serves since its end; None if none was chosen.
        id: the row id.
    """

    name: str
    feed: str | None
    arms: tuple[ExperimentArm, ...]
    interleaved: bool
    metric: str
    guardrails: tuple[str, ...]
    least_effect: float
    started_at: datetime
    stopped_at: datetime | None
    promoted: str | None
    id: int

    @property
    def control(self) -> ExperimentArm:
        """The arm with which the others are compared."""
        return self.arms[0]

    @property
    def variants(self) -> tuple[ExperimentArm, ...]:
        """The other arms."""
        return self.arms[1:]

    def as_dict(self) -> dict[str, Any]:
        """Return the experiment as `experiments show --format json` prints it."""
        return {
            "experiment": self.name,
            "feed": self.feed,
            "control": self.control.as_dict(),
            "variants": [variant.as_dict() for variant in self.variants],
            "interleaved": self.interleaved,
            "metric": self.metric,
            "guardrails": list(self.guardrails),
            "least_effect": self.least_effect,
            "started_at": plain(self.started_at),
            "stopped_at": plain(self.stopped_at),
            "promoted": self.promoted,
        }


def start_experiment(
    session: Session,
    name: str,
    variants: Iterable[str],
    *,
    control: str | None = None,
    share: float = 0.5,
    feed: str | None = None,
    metric: str = "engaged",
    guardrails: Iterable[str] = (),
    least_effect: float = 0.02,
    interleaved: bool = False,
) -> Experiment:
    """Start an experiment: the sessions of a feed's users begin with the profile of their arm.

    Which arm a user is in follows from their row and the experiment's name: no row is written, and
    every process and device agrees. Sessions that have begun keep their profile.

    Args:
        session: the caller's transaction; nothing is committed.
        name: a letter, then letters, digits and ``_ . -``, at most 100 in all; never used before.
        variants: the profiles to try, ``name`` or ``name@version``, 1 to 10.
        control: the profile to compare with; None for the one that serves the feed now.
        share: the part of the users that get variants, in equal parts; the others get the control.
            Each arm has a part of 0.001 at least.
        feed: the name of the feed; None for For You.
        metric: what it wants to raise, one of `METRICS`.
        guardrails: what it must not harm, of `GUARDRAILS` and `METRICS`.
        least_effect: the smallest relative effect that matters, 0.0001 to 1.
        interleaved: whether each page holds videos of both arms in turn. Then there is one variant,
            every user is in both arms, and the metric is ``engaged`` without guardrails.

    Raises:
        InvalidValue: a value is malformed, or the name is taken.
        UnknownProfile: there is no such profile or version.
        UnknownFeed: there is no such feed.
        ExperimentRunning: an experiment runs on this feed already.
    """
    _check_name(name)
    about = get_feed(session, feed) if feed is not None else None
    serving = control if control is not None or about is None else about.profile
    profiles = [get_profile(session, serving), *_variants(session, variants)]
    _check_profiles(profiles, about)
    shares = _shares(share, len(profiles) - 1)
    if not isinstance(interleaved, bool):
        raise InvalidValue(f"interleaved: {scalars.shown(interleaved)} is neither true nor false")
    _check_known("metric", [metric], METRICS)
    watched = _names("guardrails", guardrails)
    if interleaved:
        _check_interleaved(profiles, [metric, *watched])
    _check_known("guardrails", watched, (*GUARDRAILS, *METRICS))
    least = scalars.parse_named("least_effect", scalars.number, least_effect, MIN_EFFECT, 1)
    lock_versions(session)
    _check_free(session, name, feed)
    values = {
        "name": name,
        "feed": feed or "",
        "arms": [_stored(profile, part) for profile, part in zip(profiles, shares, strict=True)],
        "interleaved": interleaved,
        "metric": metric,
        "guardrails": watched,
        "least_effect": least,
        "started_at": scalars.now(),
    }
    lookup.run(session, sa.insert(EXPERIMENTS).values(values))
    return get_experiment(session, name)


def list_experiments(session: Session) -> list[Experiment]:
    """Return every experiment, the running ones first, then the one that stopped last.

    Args:
        session: the caller's transaction.

    Raises:
        SchemaOutOfDate: no migration made the tables.
    """
    row = EXPERIMENTS.c
    latest = row.stopped_at.desc(), row.started_at.desc(), row.id.desc()
    query = sa.select(*row).order_by(row.stopped_at.is_not(None), *latest)
    rows = lookup.run(session, query.prefix_with(_COMMENT))
    found = [_experiment(each) for each in rows]
    if not found:
        check_first_rows(session)
    return found


def get_experiment(session: Session, name: str) -> Experiment:
    """Return an experiment.

    Args:
        session: the caller's transaction.
        name: its name.

    Raises:
        NotFound: there is no such experiment.
    """
    # PostgreSQL refuses some texts that no name can be.
    can_be = isinstance(name, str) and NAME.fullmatch(name)
    query = sa.select(*EXPERIMENTS.c).where(EXPERIMENTS.c.name == (name if can_be else ""))
    row = lookup.run(session, query.prefix_with(_COMMENT)).one_or_none()
    if row is None:
        check_first_rows(session)
        raise NotFound(f"there is no experiment {scalars.shown(name)}")
    return _experiment(row)


def stop_experiment(session: Session, name: str, *, promote: str | None = None) -> Experiment:
    """Stop an experiment: it assigns no one any more. Sessions that have begun go on.

    Args:
        session: the caller's transaction; nothing is committed.
        name: its name.
        promote: the arm that serves the feed from now on, ``name@version`` of its profile, or
            ``name`` if no other arm has this name; None to leave what serves outside of the
            experiment. In For You the profile is activated; a feed with a name gets a new version
            with the profile.

    Raises:
        NotFound: there is no such experiment.
        InvalidValue: it was stopped before, or has no such arm, or several.
        UnknownFeed: an arm is promoted, but the feed was deleted.
    """
    lock_versions(session)
    experiment = get_experiment(session, name)
    if experiment.stopped_at is not None:
        raise InvalidValue(
            f"experiment: {name} was stopped at {scalars.written_time(experiment.stopped_at)}"
        )
    chosen = None if promote is None else _arm_named(experiment, promote).profile
    if chosen is not None:
        _serve_with(session, experiment.feed, chosen)
    changed = sa.update(EXPERIMENTS).where(EXPERIMENTS.c.id == experiment.id)
    lookup.run(session, changed.values(stopped_at=scalars.now(), promoted=chosen))
    return get_experiment(session, name)


def _serve_with(session: Session, feed: str | None, profile: str) -> None:
    if feed is None:
        activate_profile(session, profile)
        return
    last = get_feed(session, feed)
    quotas = last.sources.values()
    sources: Any = dict(last.sources) if None not in quotas else list(last.sources)
    create_feed(
        session, feed, profile=profile, sources=sources, formats=last.formats, memory=last.memory,
        limits=last.limits,
    )  # fmt: skip


def _arm_named(experiment: Experiment, promote: str) -> ExperimentArm:
    found = [
        arm for arm in experiment.arms if promote in (arm.profile, arm.profile.partition("@")[0])
    ]
    if len(found) == 1:
        return found[0]
    named = ", ".join(arm.profile for arm in found or experiment.arms)
    if found:
        raise InvalidValue(
            f"promote: {scalars.shown(promote)} is several arms: name one of {named}"
        )
    raise InvalidValue(f"promote: {scalars.shown(promote)} is no arm: there are {named}")


def _experiment(row: Any) -> Experiment:
    return Experiment(
        name=row.name,
        feed=row.feed or None,
        arms=tuple(ExperimentArm(arm["profile"], arm["share"]) for arm in row.arms),
        interleaved=row.interleaved,
        metric=row.metric,
        guardrails=tuple(row.guardrails),
        least_effect=row.least_effect,
        started_at=row.started_at,
        stopped_at=row.stopped_at,
        promoted=row.promoted,
        id=row.id,
    )


def _stored(profile: Profile, share: float) -> Mapping[str, Any]:
    # Versions never change, so their weights are stored here, and a request reads one row.
    return {
        "profile": profile.label,
        "profile_id": profile.id,
        "share": share,
        "weights": dict(profile.weights),
    }


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InvalidValue(
            f"experiment: {scalars.shown(name)} is not a letter followed by letters, digits,"
            " _ . or -"
        )


def _variants(session: Session, variants: Iterable[str]) -> list[Profile]:
    names = _names("variants", variants)
    if not 1 <= len(names) <= MAX_VARIANTS:
        raise InvalidValue(f"variants: {len(names)} are given, not 1 to {MAX_VARIANTS}")
    return [get_profile(session, name) for name in names]


def _names(field: str, names: Iterable[str]) -> list[str]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise InvalidValue(f"{field}: {scalars.shown(names)} is no list of names")
    given = list(names)
    if odd := [name for name in given if not isinstance(name, str)]:
        raise InvalidValue(f"{field}: {scalars.shown(odd[0])} is no name")
    return list(dict.fromkeys(given))


def _check_profiles(profiles: Sequence[Profile], feed: Feed | None) -> None:
    labels = [profile.label for profile in profiles]
    for label in labels:
        if labels.count(label) > 1:
            raise InvalidValue(f"variants: {label} is in two arms: compare two profiles")
    for profile in profiles:
        if profile.name in OF_LISTS:
            raise InvalidValue(f"profile: {profile.name} is for the list {profile.name}")
        if profile.is_reference and feed is not None:
            raise InvalidValue(
                f"profile: {profile.name} has neither sources nor limits: choose another one"
            )


def _check_interleaved(profiles: Sequence[Profile], metrics: Sequence[str]) -> None:
    if set(metrics) != {INTERLEAVED}:
        raise InvalidValue(
            f"interleaved: compares {INTERLEAVED} only, because every user is in both arms:"
            " name no other metric and no guardrail"
        )
    if len(profiles) != len(("control", "variant")):
        raise InvalidValue("interleaved: a page holds the videos of one variant: name only one")
    if any(profile.is_reference for profile in profiles):
        raise InvalidValue(f"interleaved: {REFERENCE} has no diversity: choose another profile")


def _shares(share: float, variants: int) -> list[float]:
    part = scalars.parse_named("share", scalars.number, share, 0, 1)
    shares = [1 - part, *[part / variants] * variants]
    if min(shares) < MIN_SHARE:
        raise InvalidValue(
            f"share: {part} leaves an arm without users: give each arm {MIN_SHARE} at least"
        )
    return shares


def _check_known(field: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise InvalidValue(
                f"{field}: {scalars.shown(name)} is unknown: there are {', '.join(known)}"
            )


def _check_free(session: Session, name: str, feed: str | None) -> None:
    row = EXPERIMENTS.c
    runs = sa.and_(row.feed == (feed or ""), row.stopped_at.is_(None))
    query = sa.select(row.name).where(sa.or_(row.name == name, runs))
    found = lookup.run(session, query).all()
    if any(each.name == name for each in found):
        raise InvalidValue(f"experiment: {name} exists already: choose another name")
    if found:
        where = "For You" if feed is None else f"the feed {feed}"
        raise ExperimentRunning(
            f"the experiment {found[0].name} runs on {where}: stop it before you start another one"
        )
