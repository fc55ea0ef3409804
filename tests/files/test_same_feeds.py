"""An export imported into the other kind of database gives the same feeds, ties included."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import (
    create_engine,
    export_file,
    import_file,
    refresh,
)
from recommender.files.batches import ROW_KINDS
from tests.conftest import DATABASES
from tests.support.tied_worlds import FEW, rounded, tied_world
from tests.support.worlds import at, names

SESSION = UUID(int=7)


def feeds(engine: Engine) -> dict[str, Any]:
    """Return what viewers are shown: videos, sources, scores, signals and reasons."""
    with Session(engine) as session:
        return {
            f"{name} {user}": shown
            for user in ("u1", "u2", "u3")
            for name, shown in lists(session, user)
        }


def lists(session: Session, user: str) -> Iterator[tuple[str, Any]]:
    """Return what one viewer is shown, with the name of each list."""
    options: dict[str, Any] = {"as_of": at(10), "limit": 12, "settings": FEW}
    page = recommender.for_you(session, user, record=False, **options)
    yield "for_you", [(i.video, i.score, i.sources, i.explored, rounded(i)) for i in page.items]
    classic = recommender.for_you(session, user, record=False, profile="classic", **options)
    yield "classic", [(item.video, item.score) for item in classic.items]
    yield "following", names(recommender.following(session, user, as_of=at(10), limit=50))
    yield "trending", names(recommender.trending(session, "en", "US", as_of=at(10), limit=50))
    for item in page.items[:1]:
        told = recommender.explain(session, user, item.video, **options)
        yield f"explain {item.video}", told.as_dict()


@pytest.fixture
def other(kind: str, new_database: Callable[..., str]) -> Iterator[Engine]:
    engine = create_engine(new_database(next(each for each in DATABASES if each != kind)))
    yield engine
    engine.dispose()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
def test_an_import_gives_the_same_feeds(
    engine: Engine, other: Engine, tmp_path: Path, seed: int
) -> None:
    tied_world(engine, seed)
    for kind in ROW_KINDS:
        export_file(engine, kind, str(tmp_path / f"{kind}.csv"))
        assert import_file(other, kind, str(tmp_path / f"{kind}.csv")).rejected == 0
    refresh(other, as_of=at(9))
    assert feeds(other) == feeds(engine)
