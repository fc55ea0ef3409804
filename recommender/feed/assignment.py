"""Which arm of an experiment a request is in, and so which profile ranks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from recommender.database.expressions import Statement
from recommender.formats import scalars
from recommender.formats.experiments import Arm, arm_of, numbered_arm
from recommender.models import ExperimentRow, FeedSession
from recommender.ranking.profiles import profile_in
from recommender.ranking.request import Profile


def with_experiment(viewer_query: Statement, *, resumes: bool) -> Statement:
    """Add the experiment of a request to the query of a viewer; NULL if there is none.

    It is the one that runs on the feed with the name of the bind parameter `of_feed`. A session
    that is continued keeps the experiment in which it began, or none.

    Args:
        viewer_query: the query.
        resumes: whether the query has the viewer's session.
    """
    runs = sa.and_(
        ExperimentRow.feed == sa.bindparam("of_feed"), ExperimentRow.stopped_at.is_(None)
    )
    is_its = runs
    if resumes:
        begins, is_in = FeedSession.next_position.is_(None), FeedSession.arm.is_not(None)
        is_own = sa.and_(ExperimentRow.id == FeedSession.experiment_id, is_in)
        is_its = sa.or_(sa.and_(begins, runs), is_own)
    row = ExperimentRow
    columns = (
        row.id.label("experiment_id"), row.name.label("experiment"), row.arms, row.interleaved,
    )  # fmt: skip
    return viewer_query.add_columns(*columns).outerjoin(row, is_its)


class Assignment(NamedTuple):
    """What ranks a request.

    Attributes:
        profile: the profile.
        arm: the arm of the experiment that chose it; None if the request is in none.
        rival: the variant of an interleaved experiment, whose videos take turns with the profile's.
    """

    profile: Profile
    arm: Arm | None = None
    rival: Profile | None = None


def assigned(rows: Sequence[Any], profile: str | Profile | None, assign: str | None) -> Assignment:
    """Return what ranks a request.

    A request that names a profile is in no experiment. A known viewer's row decides the arm, so a
    new key does not change it. In an interleaved experiment every viewer is in the arm 0.

    Args:
        rows: the rows of the viewer's query, with the profile outside of experiments.
        profile: what the caller asked for.
        assign: what decides the arm of an unknown viewer; None if they are in no experiment.

    Raises:
        InvalidValue: `assign` is no text, or empty.
        UnknownProfile: there is no such profile or version.
    """
    if assign is not None:
        scalars.parse_named("assign", scalars.key, assign)
    if isinstance(profile, Profile):
        return Assignment(profile)
    own, row = profile_in(rows, profile), rows[0]
    is_stranger = row.id is None and assign is None
    if profile is not None or row.experiment_id is None or is_stranger:
        return Assignment(own)
    if row.interleaved:
        control, rival = map(_stored_profile, row.arms)
        return Assignment(control, numbered_arm(row, 0), rival)
    if getattr(row, "next_position", None) is not None:
        return Assignment(own, numbered_arm(row, row.arm))
    arm, stored = arm_of(row, f"assign {assign}" if row.id is None else f"user {row.id}")
    return Assignment(_stored_profile(stored), arm)


def _stored_profile(stored: Mapping[str, Any]) -> Profile:
    """Return the profile of an arm as its experiment stores it."""
    name, _, version = stored["profile"].partition("@")
    return Profile(name, int(version), stored["weights"], id=stored["profile_id"])
