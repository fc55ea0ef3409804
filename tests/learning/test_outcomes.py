"""An outcome belongs to the last place before it, for all who read the log of places."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from recommender import audit, get_profile
from recommender.evaluation.labels import served_pages, served_rows
from recommender.models import FeedSession, Interaction, ServedVideo, User, Video
from tests.support.worlds import at, make_user, make_video

CASES: tuple[tuple[tuple[float, ...], float | None, int | None], ...] = (
    # minutes at which a video was served, its first event, and the place that it belongs to
    ((0, 10, 20), 12, 1),
    ((0, 10, 20), 30, 2),
    ((0, 10, 20), 10, 1),
    ((0, 10), 6, 1),  # a client's clock may be 5 minutes behind
    ((0, 10), 4.9, 0),
    ((10, 20), 4, None),  # seen before
    ((10, 10), 11, 1),  # the later session
    ((0, 10), None, None),
)


def serve(session: Session, user: int, case: int, video: int, minutes: tuple[float, ...]) -> None:
    """Write a place of a video in a session of its own for each time."""
    profile = get_profile(session).id
    for number, minute in enumerate(minutes):
        name = UUID(int=100 * case + number)
        times = {"started_at": at(minute), "last_at": at(minute)}
        session.add(
            FeedSession(user_id=user, session=name, next_position=2, rewatch=False, **times)
        )
        session.flush()
        place: dict[str, Any] = {
            "user_id": user, "session": name, "position": 1, "video_id": video, "page": 1,
            "asked": 1, "served_at": at(minute), "profile_id": profile, "score_key": 0,
            "sources": "", "explored": False, "crowded": False, "signals": {},
        }  # fmt: skip
        session.execute(sa.insert(ServedVideo), [place])


def test_an_outcome_belongs_to_the_last_place_before_it(session: Session) -> None:
    make_user(session)
    user = session.scalars(sa.select(User.id)).one()
    expected, places = [], 0
    for case, (minutes, first, place) in enumerate(CASES, start=1):
        make_video(session, f"v{case}")
        video = session.scalars(sa.select(Video.id).where(Video.key == f"v{case}")).one()
        places += len(minutes)
        serve(session, user, case, video, minutes)
        if first is not None:
            times = {"first_at": at(first), "last_at": at(99), "engaged_at": at(99)}
            state = {"user_id": user, "video_id": video, "impressions": 1, **times}
            session.execute(sa.insert(Interaction), [state])
        if place is not None:
            expected.append((video, at(minutes[place]), UUID(int=100 * case + place)))
    span: Any = ({"engaged": 1.0}, at(-9), at(99))
    fitted = session.execute(served_rows([], *span)).all()
    assert sorted(row[1] for row in fitted) == sorted(moment for _, moment, _ in expected)
    replayed = [row for row in session.execute(served_pages(*span)) if row.is_shown]
    assert sorted((row.video_id, row.session) for row in replayed) == [
        (video, name) for video, _, name in expected
    ]
    assert audit(session).unseen == places - len(expected)
