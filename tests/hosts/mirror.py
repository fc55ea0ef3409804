"""Models of a host, mirrored to the recommender by events of SQLAlchemy's Session."""

from contextlib import suppress
from datetime import UTC, datetime

from sqlalchemy import DateTime, ForeignKey, event, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import recommender


class Base(DeclarativeBase):
    __table_args__ = {"sqlite_autoincrement": True}  # otherwise SQLite uses deleted ids again


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    language: Mapped[str | None]

    def mirrored(self):
        return {"id": self.id, "language": self.language}


class Video(Base):
    __tablename__ = "videos"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    title: Mapped[str]
    status: Mapped[str] = mapped_column(default="published")
    published_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), default=lambda: datetime.now(UTC)
    )

    def mirrored(self):
        moment = self.published_at  # SQLite keeps no time zone: write UTC, and add it here
        moment = moment.replace(tzinfo=moment.tzinfo or UTC)
        row = {"id": self.id, "creator": self.owner_id, "caption": self.title}
        return {**row, "status": self.status, "published_at": moment}


UPSERTS = {User: recommender.upsert_users, Video: recommender.upsert_videos}


def mirror(session, objects):
    for model, upsert in UPSERTS.items():
        upsert(session, [row.mirrored() for row in objects if isinstance(row, model)])


def remove(session, keys):
    for key in keys:
        with suppress(recommender.UnknownVideo):
            recommender.set_video_status(session, key, "removed")


class HostSession(Session):
    """The session of the host's requests, with the two listeners below."""


@event.listens_for(HostSession, "after_flush")
def after_flush(session, _context):
    mirror(session, [*session.new, *session.dirty])
    remove(session, [row.id for row in session.deleted if isinstance(row, Video)])


@event.listens_for(HostSession, "do_orm_execute")
def do_orm_execute(state):
    """Mirror the rows that `update(Video)` and `delete(Video)` change without objects."""
    model = getattr(state.bind_mapper, "class_", None)
    if model not in UPSERTS or not (state.is_update or state.is_delete):
        return None
    conditions = [] if state.statement.whereclause is None else [state.statement.whereclause]
    keys = state.session.scalars(select(model.id).where(*conditions)).all()
    result = state.invoke_statement()
    if state.is_update:
        rows = select(model).where(model.id.in_(keys)).execution_options(populate_existing=True)
        mirror(state.session, state.session.scalars(rows).all())
    elif model is Video:
        remove(state.session, keys)
    return result
