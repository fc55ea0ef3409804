"""All that a user of a database may do, with a marker in everything that somebody wrote."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import (
    BadData,
    diagnose,
    explain,
    for_you,
    import_file,
    prune,
    rank,
    record,
    refresh,
    run_transaction,
)
from tests.support.worlds import at, make_user, make_video

MARKER = "marker5"
DAY = timedelta(days=1)


def behave(engine: Engine, folder: Path) -> None:
    """All that somebody may do, with a marker in whatever they wrote."""
    user, video = f"{MARKER} user", f"{MARKER} video"

    def write(session: Session) -> None:
        make_user(session, user, interests=[MARKER], liked_sounds=[MARKER])
        about = {"caption": f"{MARKER} caption", "hashtags": [MARKER], "sound": MARKER}
        make_video(session, video, creator=f"{MARKER} creator", **about)
        record(session, user, video, "watch", completion=1.0, key=f"{MARKER} event", at=at())
        recommender.follow(session, user, f"{MARKER} creator")
        recommender.mute(session, user, "keyword", f"{MARKER} word")
        page = for_you(session, user, rewatch=True, limit=1)
        for_you(session, user, cursor=page.cursor)
        rank(session, user, [video])
        explain(session, user, video)

    run_transaction(engine, write)
    file = folder / f"{MARKER}.jsonl"
    rows = [
        {
            "id": f"{MARKER} e{n}",
            "user": user,
            "video": video,
            "kind": kind,
            "at": at(n).isoformat(),
        }
        for n, kind in enumerate(("like", "share", f"{MARKER} kind", "watch"))
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert import_file(engine, "events", str(file), on_error="skip").rejected == 1
    with pytest.raises(BadData, match=MARKER):
        import_file(engine, "events", str(file))
    refresh(engine)
    prune(engine, events_older_than=DAY, sessions_older_than=DAY)
    refresh(engine, rebuild=True)
    assert import_file(engine, "events", str(file), on_error="skip").too_old == 3
    diagnose(engine)
