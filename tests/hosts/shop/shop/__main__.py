"""Make the shop's tables, and fill them with examples: `python -m shop`."""

from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from recommender import create_engine, models
from shop.feed import Base, Clip, Customer, Pick

engine = create_engine()
Base.metadata.create_all(engine)
with Session(engine.execution_options(recommender_write=True)) as session, session.begin():
    videos = session.scalars(select(models.Video.key).order_by(models.Video.id)).all()
    session.add(Customer(id="ana", email="ana@example.org", town="York"))
    session.add_all(
        Clip(id=key, town="York" if number % 3 else "Bath", members_only=not number % 10)
        for number, key in enumerate(videos)
    )
    picked_at = datetime(2026, 1, 15, tzinfo=UTC)
    session.add_all(Pick(clip_id=key, since=picked_at) for key in videos[1:40:2])
engine.dispose()
