"""A host that uses every public name, as mypy and basedpyright see it; nothing runs it.

A line with `type: ignore` has a mistake that both must find: an ignore without an error is an
error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, assert_type
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session, scoped_session

import recommender
from recommender import (
    Audience,
    Candidate,
    CandidateRow,
    Contribution,
    Counts,
    EmbeddingRow,
    Event,
    EventKind,
    Experiment,
    ExperimentArm,
    Explanation,
    Feed,
    FeedItem,
    FeedPage,
    FeedRequest,
    FileFormat,
    Filter,
    FilterOutcome,
    LogFiles,
    MuteKind,
    PeoplePage,
    Person,
    PersonReason,
    Profile,
    Reason,
    Recipient,
    RecommenderError,
    Registry,
    Settings,
    Signal,
    Source,
    Space,
    UserRow,
    VideoRow,
    VideoStatus,
    Words,
    create_engine,
    for_you,
    prepare_engine,
    record,
    run_transaction,
)
from recommender.models import User, Video
from recommender.testing import check

NOW = datetime.now(UTC)


def engines(own: Engine, own_async: AsyncEngine) -> Engine:
    assert_type(prepare_engine(own), Engine)
    registry = Registry(
        signals=[Signal("weekend", 0, 1, weekend, "it is the weekend")], name="shop"
    )
    assert_type(prepare_engine(own_async, registry=registry), AsyncEngine)
    create_engine(registry=Registry)  # type: ignore[arg-type]
    settings = assert_type(Settings.from_environment(), Settings)
    recommender.upgrade(own, settings=settings)
    return assert_type(create_engine("sqlite://", settings=Settings(pool_size=3)), Engine)


def contract(session: Session) -> None:
    assert_type([fault.found for fault in check(Registry(), session, as_of=NOW)], list[str])
    check([], session)  # type: ignore[arg-type]


def writes(session: Session) -> None:
    users: list[UserRow] = [{"id": 1, "language": "en", "interests": ["cats"]}]
    video: VideoRow = {"id": UUID(int=2), "creator": None, "published_at": NOW, "caption": None}
    assert_type(recommender.upsert_users(session, users), Counts)
    assert_type(
        recommender.upsert_videos(session, [video, {"id": "v", "status": "review"}]), Counts
    )
    status: VideoStatus = "removed"
    assert_type(recommender.set_video_status(session, ["v", 3], status), Counts)
    recommender.erase_video(session, 3)
    for call in (recommender.follow, recommender.unfollow):
        assert_type(call(session, "ana", "bo"), bool)
    kind: MuteKind = "creator"
    assert_type(recommender.mute(session, "ana", kind, "bo"), bool)
    assert_type(recommender.unmute(session, "ana", "keyword", "spoiler alert"), bool)
    for between in (recommender.block, recommender.unblock, recommender.dismiss):
        assert_type(between(session, "ana", "bo"), bool)
    audience: Audience = "followers"
    recommender.upsert_videos(session, [{"id": "v", "audience": audience}])
    deed: EventKind = "watch"
    assert_type(record(session, "ana", "v", deed, completion=0.5), bool)
    event = Event("e", "ana", "v", "like", NOW)
    counts = recommender.record_many(session, [event], on_error="skip")
    assert_type(counts.rejected[0], RecommenderError)
    proposed: CandidateRow = {"user": 1, "video": "v", "score": 0.5, "expires_at": NOW}
    assert_type(recommender.upsert_candidates(session, "two_tower", [proposed]), Counts)
    embedded: EmbeddingRow = {"id": "v", "vector": [0.5, 1]}
    assert_type(recommender.upsert_embeddings(session, "captions", [embedded]), Counts)
    recommender.reset_user(session, "ana", at=NOW)


def spaces(engine: Engine) -> None:
    assert_type(recommender.create_space(engine, "captions", dim=384), Space)
    recommender.index_space(engine, "captions")
    assert_type(recommender.list_spaces(engine)[0].indexed, bool | None)
    recommender.drop_space(engine, "captions")


def mistakes(session: Session, engine: Engine) -> None:
    record(session, "ana", "v", "lik")  # type: ignore[arg-type]
    Event("e", "ana", "v", "watched", NOW)  # type: ignore[arg-type]
    recommender.mute(session, "ana", "author", "bo")  # type: ignore[arg-type]
    recommender.unmute(session, "ana", "tag", "cats")  # type: ignore[arg-type]
    recommender.set_video_status(session, "v", "deleted")  # type: ignore[arg-type]
    recommender.upsert_videos(session, [{"id": "v", "audience": "friends"}])  # type: ignore[typeddict-item]
    recommender.upsert_users(session, [{"id": "ana", "langauge": "en"}])  # type: ignore[typeddict-unknown-key]
    recommender.upsert_users(session, [{"language": "en"}])  # type: ignore[typeddict-item]
    recommender.upsert_users(session, [{"id": "ana", "interests": "cats"}])  # type: ignore[typeddict-item]
    recommender.upsert_videos(session, [{"id": "v", "creater": "bo"}])  # type: ignore[typeddict-unknown-key]
    recommender.upsert_videos(session, [{"id": "v", "orientation": "wide"}])  # type: ignore[typeddict-item]
    recommender.upsert_candidates(session, "m", [{"user": 1, "video": 2}])  # type: ignore[typeddict-item]
    recommender.record_many(session, [], on_error="ignore")  # type: ignore[arg-type]
    recommender.import_file(engine, "user", "users.csv")  # type: ignore[arg-type]
    FileFormat(time_unit="minutes")  # type: ignore[arg-type]
    recommender.export_file(engine, "users", "users.xml", form="xml")  # type: ignore[arg-type]
    for_you(session, "ana", limits=20)  # type: ignore[call-arg]
    for_you(engine, "ana")  # type: ignore[arg-type]


def weekend(candidate: Candidate) -> sa.ColumnElement[float]:
    is_new = Video.published_at > NOW
    moment = recommender.as_datetime(candidate.viewer.as_of, plus=timedelta(hours=1))
    return sa.case((is_new, candidate.fact("hashtags")), (moment > NOW, 1.0), else_=0.5)


def pages(session: Session | scoped_session[Session], flask: scoped_session[Session]) -> list[str]:
    own = {Signal("weekend", 0.0, 1.0, weekend): 0.3}
    words = {"article": Words("articles", "read", "read on", "subscribed to")}
    page = for_you(
        session, "ana", formats=["article"], exclude=[3, "v"], signals=own, reasons=True,
        words=words, budget_ms=50,
    )  # fmt: skip
    assert_type(page, FeedPage)
    assert_type(page.reduced, Literal["candidates", "sources"] | None)
    long = Video.duration_ms > 60_000
    ranked = recommender.rank(flask, "ana", ["v", 2], where=long, exclude=[2], reasons=True)
    assert_type(ranked.items[0].filters, tuple[FilterOutcome, ...])
    recommender.rank(flask, "ana", ["v"], allowed_only=True, words=words)
    assert_type(recommender.following(flask, "ana", cursor=page.cursor, where=long), FeedPage)
    recommender.following(flask, "ana", reasons=True, words=words)
    assert_type(recommender.similar(flask, ["v", 2], user="ana", where=long), FeedPage)
    reached = assert_type(recommender.reach(flask, "v", limit=5), tuple[Recipient, ...])
    assert_type(reached[0].as_dict(), dict[str, Any])
    is_spanish = User.language == "es"
    suggested = recommender.people(flask, "ana", where=is_spanish, record=True, reasons=True)
    assert_type(suggested, PeoplePage)
    assert_type(suggested.items, tuple[Person, ...])
    assert_type(suggested.items[0].reasons, tuple[PersonReason, ...])
    assert_type(recommender.trending(flask, "en", limit=5, where=long, exclude=["v"]), FeedPage)
    recommender.trending(flask, "en", reasons=True, words=words)
    assert_type(recommender.record_page(flask, page), FeedPage)
    assert_type(recommender.mark_seen(session, 1, session_id=page.session, position=3), int)
    assert_type(page.as_dict(signals=True), dict[str, Any])
    assert_type(page.request.profile, Profile)
    item = assert_type(page.items[0], FeedItem)
    assert_type(item.signals["likes"], Contribution)
    assert_type((item.reasons, item.reason), tuple[tuple[Reason, ...], str | None])
    explained = assert_type(
        recommender.explain(flask, "ana", item.video, words=words, where=long), Explanation
    )
    assert_type(explained.filters[0], FilterOutcome)
    assert_type(explained.reasons[0].as_dict(), dict[str, Any])
    return [item.video for item in page.items]


def ranking(session: Session) -> Sequence[int]:
    request = assert_type(recommender.resolve(session, "ana", "for_you@1"), FeedRequest)
    statement = recommender.feed_query(request).join(Video.creator)
    rows = session.execute(statement).all()
    assert_type(request.registry.source_names(rows[0].sources), tuple[str, ...])
    first: tuple[Signal, Source, Filter] = (
        recommender.SIGNALS[0], recommender.SOURCES[0], recommender.FILTERS[0],
    )  # fmt: skip
    mine = recommender.create_profile(session, "mine", {first[0].name: 1.0}, note="a first try")
    assert_type(recommender.activate_profile(session, mine.label), Profile)
    assert_type(recommender.get_profile(session, "mine"), Profile)
    assert_type(recommender.list_profiles(session), list[Profile])
    recommender.diff_profiles(session, "mine", "for_you").as_dict()
    quotas = {"following": 200, "neighbours": 100}
    reels = recommender.create_feed(
        session, "reels", profile="mine", sources=quotas, memory="own", limits={"creator": (2, 10)}
    )
    recommender.create_feed(session, "shorts", sources=["newest"], formats=["short"])
    assert_type(recommender.get_feed(session, reels.name), Feed)
    assert_type(recommender.list_feeds(session), list[Feed])
    tried = recommender.start_experiment(session, "tried", ["mine"], feed="shorts", share=0.1)
    assert_type(recommender.get_experiment(session, tried.name), Experiment)
    assert_type(recommender.list_experiments(session), list[Experiment])
    report = recommender.experiment_report(session, "tried", alpha=0.01, metric="like")
    assert_type(report.results[0].verdict.more_users, int | None)
    amounts = sa.select(User.key, User.id)
    recommender.experiment_report(session, "tried", metric=amounts).as_dict()
    page = recommender.for_you(session, "stranger", feed="shorts", assign="device-1")
    assert_type(page.request.arm, recommender.Arm | None)
    assert_type(recommender.stop_experiment(session, "tried").control, ExperimentArm)
    assert_type(recommender.for_you(session, "ana", feed="reels").request.feed, Feed | None)
    assert_type(recommender.delete_feed(session, "reels").as_dict(), dict[str, Any])
    return [record.version for record in recommender.profile_history(session)]


async def asynchronous(session: AsyncSession) -> FeedPage:
    return assert_type(await session.run_sync(for_you, "ana", limit=3), FeedPage)


def mails(engine: Engine) -> Iterator[str]:
    week = NOW - timedelta(days=7)
    for each in recommender.digest(engine, ["ana", 7], feed="mail", run="2026-W1", since=week):
        assert_type(each, recommender.Digest)
        assert_type(each.as_dict(), dict[str, Any])
        yield from (item.video for item in each.items)


def care(engine: Engine) -> None:
    recommender.refresh(engine).as_dict()
    recommender.import_file(engine, "users", "users.csv", on_error="skip").as_dict()
    ratings = FileFormat(columns={"user": "userId"}, constants={"kind": "watch"}, time_unit="s")
    recommender.import_file(engine, "events", "ratings.csv", form=ratings)
    recommender.export_file(engine, "events", "events.jsonl", form="jsonl").as_dict()
    recommender.export_user(engine, "ana", "ana.jsonl").as_dict()
    recommender.slice_users(engine, ["ana"], "ana.db", map_file="ana.json").as_dict()
    recommender.rename_user(engine, "bob", 7)
    assert_type(recommender.merge_users(engine, "cookie", 7).rows, Mapping[str, int])
    recommender.erase_user(engine, 7).as_dict()
    recommender.prune(engine, events_older_than=timedelta(days=400)).as_dict()
    assert_type([finding.ok for finding in recommender.diagnose(engine)], list[bool])
    report = recommender.report(engine, since=NOW - timedelta(days=7), pages=0)
    assert_type(report.html(), str)
    figures = run_transaction(engine, recommender.metrics, write=False)
    assert_type((figures.as_prometheus(), figures.as_dict()), tuple[str, dict[str, Any]])
    audit = run_transaction(engine, recommender.audit, write=False)
    assert_type(audit.broken, tuple[str, ...])


def learning(engine: Engine) -> None:
    files = LogFiles(users=("users.csv",), videos=("videos.csv",), events=("events.csv",))
    assert_type(recommender.evaluate_next(files, holdout=0.2).users, int)
    assert_type(recommender.evaluate_follow(files, cutoff=NOW).as_dict(), dict[str, Any])
    result = recommender.evaluate(files, holdout=0.2, profiles=["for_you"], segments=True)
    assert_type([(check.check, check.ok) for check in result.checks()], list[tuple[str, bool]])
    result.as_dict()
    recommender.evaluate(files, cutoff=NOW, feed="reels", database=engine).as_dict()
    recommender.replay_profile(engine, "mine", since=NOW, feed="reels").as_dict()
    assert_type(recommender.fit(engine, "mine").auc, float | None)
    recommender.fit_pages(engine, "mine", log=files, since=NOW).as_dict()


ERRORS: tuple[type[RecommenderError], ...] = (
    recommender.BadData, recommender.CursorAhead, recommender.DatabaseBusy,
    recommender.DatabaseDamaged, recommender.DatabaseUnreachable, recommender.EventConflict,
    recommender.EventTooOld, recommender.ExperimentRunning, recommender.InvalidCursor,
    recommender.InvalidValue,
    recommender.NotFound, recommender.NotPermitted, recommender.PoolTimeout,
    recommender.QueryTimeout, recommender.SchemaOutOfDate, recommender.StorageFailure,
    recommender.UnknownFeed, recommender.UnknownProfile, recommender.UnknownSignal,
    recommender.UnknownUser, recommender.UnknownVideo,
)  # fmt: skip


def served(engine: Engine) -> Sequence[int]:
    try:
        with recommender.translate_errors(), Session(engine) as session:
            assert_type(ranking(session), Sequence[int])
        return assert_type(run_transaction(engine, ranking), Sequence[int])
    except ERRORS:
        return []
