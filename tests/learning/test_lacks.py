"""What a log lacks is said in one sentence each."""

from __future__ import annotations

from sqlalchemy.orm import Session

from recommender.learning import lacks
from recommender.learning.lacks import log_lacks
from tests.support.worlds import make_user, make_videos, record


def said(session: Session) -> list[tuple[str, bool]]:
    return [(str(lack), lack.is_harmful) for lack in log_lacks(session)]


def test_a_log_says_what_it_lacks(session: Session) -> None:
    make_user(session)
    make_videos(session, *(f"v{n}" for n in range(lacks.YOUNG_LOG + 1)))
    assert said(session) == []
    nothing = (
        "0 of {} interactions are positive, so no taste can be learned: send likes, saves, shares,"
        " comments, purchases (convert), or watches with their lengths."
    )
    for number in range(lacks.YOUNG_LOG - 1):
        record(session, "impression", f"v{number}")
    assert said(session) == [(nothing.format(99), False)]
    record(session, "impression", "v99")
    assert said(session) == [(nothing.format(100), True)]
    record(session, "watch", "v100")
    assert said(session) == [
        (
            (
                "No watch has a length, so each counts as an engaged view: send watch_ms or"
                " completion, and an impression in place of a watch for a mere start."
            ),
            False,
        )
    ]
    record(session, "watch", "v99", completion=0.1)
    assert said(session) == []
