"""Where a log is cut for an evaluation, and what its scratch database begins with."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender.database.schema import first_state
from recommender.database.transactions import run_transaction
from recommender.errors import InvalidValue
from recommender.evaluation.log_files import TARGETS, LogFiles
from recommender.evaluation.log_replay import Cut, Progress, Timeline, cut_per_user
from recommender.formats import scalars
from recommender.learning.affinities import RULE_COLUMNS
from recommender.models import LearningState
from recommender.settings import Settings

SAMPLE = 1_000
"""The default for the maximum number of users whose pages are made."""


def check_target(target: str) -> None:
    """Raise `InvalidValue` if a target is not one of `TARGETS`."""
    if target not in TARGETS:
        raise InvalidValue(f"target: {scalars.shown(target)} is not one of {', '.join(TARGETS)}")


def check_sample(sample: int) -> None:
    """Check the number of users in a sample.

    Raises:
        InvalidValue: it is not a whole number of at least 1.
    """
    if not isinstance(sample, int) or isinstance(sample, bool) or sample < 1:
        raise InvalidValue(f"sample: {scalars.shown(sample)} is no whole number of at least 1")


def cut_of(
    source: Engine | LogFiles,
    cutoff: datetime | None,
    until: datetime | None,
    holdout: float | None,
    target: str,
    settings: Settings,
) -> tuple[Cut, datetime]:
    """Return the cut, and the time to refresh the earlier part as of."""
    if (cutoff is None) == (holdout is None):
        raise InvalidValue("cutoff: either a cutoff or a holdout must be given, and not both")
    if cutoff is not None:
        start, end = scalars.time(cutoff), scalars.LATEST if until is None else scalars.time(until)
        if end <= start:
            raise InvalidValue(f"until: {scalars.written_time(end)} is not after the cutoff")
        return Cut(start, until=end), start
    if until is not None:
        raise InvalidValue("until: goes with a cutoff, not with a holdout")
    if not 0 < (holdout or 0) < 1:
        raise InvalidValue(f"holdout: {holdout} is not between 0 and 1")
    return cut_per_user(source, target, holdout or 0, settings)


def begin_learned(
    timeline: Timeline, source: Engine | LogFiles, start: datetime, report: Progress
) -> None:
    """Fill a scratch database with the earlier part of a log, and refresh what is learned from it.

    Args:
        timeline: its database is empty.
        source: the log. Its own half-lives and weights of learning count, the defaults for files.
        start: the time to refresh as of.
        report: told of the rows that are read.

    Raises:
        BadData: a row is not in the format, or names an unknown user or video.
        InvalidValue: nothing comes after the cut, or nothing before it is positive.
    """
    if isinstance(source, Engine):
        _learn_alike(source, timeline.engine, timeline.settings)
    timeline.begin(source, start, report)
    timeline.check_past()


def _learn_alike(source: Engine, engine: Engine, settings: Settings) -> None:
    """Give the scratch database the source's half-lives and weights of learning."""
    columns = [getattr(LearningState, name) for name in (*RULE_COLUMNS, "trend_half_life_days")]
    with Session(source) as session:
        rules = first_state(session.execute(sa.select(*columns)))._asdict()
    alike = sa.update(LearningState).values(rules)
    run_transaction(engine, lambda session: session.execute(alike), settings=settings)
