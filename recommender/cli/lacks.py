"""What a log lacks, on stderr."""

from __future__ import annotations

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender.cli.progress import say
from recommender.database.transactions import translate_errors
from recommender.learning.lacks import log_lacks


def say_lacks(bind: Engine) -> None:
    """Print one sentence for everything that the log lacks."""
    with translate_errors(), Session(bind) as session:
        for lack in log_lacks(session):
            say(str(lack))
