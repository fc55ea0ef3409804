"""Random programs of every write, on both databases, against a plain model after each step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy.orm import Session

import recommender
from recommender import Event, FeedPage, create_engine
from recommender.feed.cursors import SessionPosition, read_cursor
from recommender.formats.scalars import EVENT_KINDS
from recommender.operations.users import show_user
from recommender.ranking.request import RequestSummary
from tests.conftest import DATABASES
from tests.support.feed_model import LIFETIME, Model, Suggested, User, Video
from tests.support.twin_databases import (
    LEARNED,
    STATE,
    Twins,
    candidates,
    compare,
    memories,
    page_of,
    states,
    suggestions,
)
from tests.support.worlds import NOON, names, preview, unspread

DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)

SOUNDS = ("s0", "s1", None)
CAPTIONS = (None, "so well", "a cat #food", "#news cat")
MUTES = (("hashtag", "food"), ("hashtag", "dance"), ("sound", "s0"), ("sound", "s1"),
         ("keyword", "cat"), ("keyword", "so well"))  # fmt: skip

users = st.sampled_from([f"u{n}" for n in range(4)])
videos = st.sampled_from([f"v{n}" for n in range(9)])
numbers = st.integers(0, 99)
lateness = st.sampled_from([timedelta(), MINUTE, timedelta(hours=9), 2 * DAY, 5 * DAY, -MINUTE])
user_rows = st.fixed_dictionaries(
    {"id": users},
    optional={
        "language": st.sampled_from([None, "en", "es"]),
        "interests": st.lists(st.sampled_from(["food", "news"]), max_size=2),
        "liked_sounds": st.lists(st.sampled_from(["s0", "s1"]), max_size=1),
        "discoverable": st.sampled_from([True, False, None]),
    },
)
changes = st.fixed_dictionaries(
    {"id": videos},
    optional={
        "creator": st.one_of(users, st.none()),
        "caption": st.sampled_from(CAPTIONS),
        "hashtags": st.lists(st.sampled_from(["food", "dance", "news"]), max_size=2, unique=True),
        "sound": st.sampled_from(SOUNDS),
        "duration_ms": st.sampled_from([None, 9_000, 60_000]),
        "status": st.sampled_from([None, "published", "review", "removed"]),
        "audience": st.sampled_from([None, "public", "followers", "unlisted"]),
        "language": st.sampled_from([None, "en"]),
        "age": st.sampled_from([-2, 0, 1, 1, 30, 400, None]),
    },
)
events = st.fixed_dictionaries(
    {"user": users, "video": videos, "kind": st.sampled_from(EVENT_KINDS), "late": lateness},
    optional={
        "watch_ms": st.sampled_from([0, 1_000, 20_000]),
        "completion": st.sampled_from([0.0, 0.5, 1.0]),
    },
)

proposals = st.fixed_dictionaries(
    {"user": users, "video": videos, "score": st.sampled_from([0.0, 0.5, 1.0])},
    optional={"end": st.sampled_from([None, -1, 1, 3])},
)


Ranked = tuple[Video, bool]
"""A video of a page that was not recorded, and whether the page was refilled with it."""


class Programs(RuleBasedStateMachine):
    """The steps of a program. Each goes to both databases and to the model."""

    def __init__(self, twins: Twins) -> None:
        super().__init__()
        twins.clear()
        self.twins = twins
        self.model = Model()
        self.now = NOON
        self.sent: list[Event] = []
        self.cursors: list[tuple[str, str]] = []
        self.previews: list[tuple[User | None, list[Ranked], list[FeedPage]]] = []
        self.count = 0

    @initialize()
    def begin(self) -> None:
        self.write_users([{"id": "u0"}, {"id": "u1", "language": "en"}])
        self.write_videos([
            {"id": f"v{n}", "creator": f"u{n % 3}", "age": n, "sound": SOUNDS[n % 3],
             "duration_ms": 9_000, "hashtags": ["food", "dance"][: n % 3]}
            for n in range(6)
        ])  # fmt: skip

    def next(self) -> int:
        """Let time go on; return a new number."""
        self.now += MINUTE
        self.count += 1
        return self.count

    # Catalogue

    @rule(rows=st.lists(user_rows, min_size=1, max_size=2))
    def write_users(self, rows: list[dict[str, Any]]) -> None:
        counts = self.twins.both(lambda session: recommender.upsert_users(session, rows))
        keys = {row["id"] for row in rows} - self.model.users.keys()
        assert counts.inserted == len(keys)
        for row in rows:
            user = self.model.user(row["id"])
            if user.key == row["id"]:
                is_discoverable = row.get("discoverable", user.discoverable)
                user.discoverable = is_discoverable is not False

    @rule(rows=st.lists(changes, min_size=1, max_size=3))
    def write_videos(self, rows: list[dict[str, Any]]) -> None:
        rows = [self._video_row(row) for row in rows]
        counts = self.twins.both(lambda session: recommender.upsert_videos(session, rows))
        assert counts.inserted == len({row["id"] for row in rows} - self.model.videos.keys())
        for row in rows:
            self.model.write_video(row)

    def _video_row(self, row: dict[str, Any]) -> dict[str, Any]:
        written = {name: value for name, value in row.items() if name != "age"}
        if "age" in row:
            age = row["age"]
            written["published_at"] = None if age is None else self.now - age * DAY
        return written

    @rule(keys=st.lists(videos, min_size=1, max_size=2, unique=True),
          status=st.sampled_from(["published", "review", "removed"]))  # fmt: skip
    def set_status(self, keys: list[str], status: Any) -> None:
        found = self.twins.both(lambda s: recommender.set_video_status(s, keys, status))
        if not set(keys) <= self.model.videos.keys():
            assert found is recommender.UnknownVideo
            return
        changed = [key for key in keys if self.model.videos[key].status != status]
        assert found.updated == len(changed)
        for key in keys:
            self.model.videos[key].status = status

    # Follows and mutes

    @rule(user=users, creator=users, on=st.booleans())
    def follow(self, *, user: str, creator: str, on: bool) -> None:
        at = self.now
        does: Callable[[Session], bool] = lambda s: (  # noqa: E731 - of the two
            recommender.follow(s, user, creator, at=at)
            if on
            else recommender.unfollow(s, user, creator)
        )
        found = self.twins.both(does)
        follower, followed = self.model.users.get(user), self.model.users.get(creator)
        if follower is None or (on and followed is None):
            assert found is recommender.UnknownUser
            return
        if on and follower is followed:
            assert found is recommender.InvalidValue
            return
        assert found == (followed in follower.follows) ^ on
        if followed:
            (follower.follows.add if on else follower.follows.discard)(followed)

    @rule(user=users, muted=st.one_of(st.sampled_from(MUTES), st.tuples(st.just("creator"), users)),
          on=st.booleans())  # fmt: skip
    def mute(self, *, user: str, muted: Any, on: bool) -> None:
        self.next()  # an audit cannot tell a mute from a page of the same moment
        at = self.now
        does: Callable[[Session], bool] = lambda s: (  # noqa: E731 - of the two
            recommender.mute(s, user, *muted, at=at) if on else recommender.unmute(s, user, *muted)
        )
        found = self.twins.both(does)
        muter, kind, value = self.model.users.get(user), *muted
        named = self.model.users.get(value) if kind == "creator" else value
        if isinstance(found, type):
            is_self = kind == "creator" and named is muter
            assert muter is None or is_self or (on and (named is None or kind == "sound"))
            return
        assert muter
        assert found == ((kind, named) in muter.mutes) ^ on
        (muter.mutes.add if on else muter.mutes.discard)((kind, named))

    @rule(user=users, other=users, on=st.booleans())
    def block(self, *, user: str, other: str, on: bool) -> None:
        self.next()  # an audit cannot tell a block from a page of the same moment
        at = self.now
        does: Callable[[Session], bool] = lambda s: (  # noqa: E731 - of the two
            recommender.block(s, user, other, at=at) if on else recommender.unblock(s, user, other)
        )
        found = self.twins.both(does)
        blocker, blocked = self.model.users.get(user), self.model.users.get(other)
        if blocker is None or (on and blocked is None):
            assert found is recommender.UnknownUser
        elif on and blocker is blocked:
            assert found is recommender.InvalidValue
        else:
            assert found == (blocked in blocker.blocks) ^ on
            if blocked:
                (blocker.blocks.add if on else blocker.blocks.discard)(blocked)

    @rule(user=users, creator=users)
    def dismiss(self, user: str, creator: str) -> None:
        found = self.twins.both(lambda session: recommender.dismiss(session, user, creator))
        owner, dismissed = self.model.users.get(user), self.model.users.get(creator)
        if owner is None or dismissed is None:
            assert found is recommender.UnknownUser
        elif owner is dismissed:
            assert found is recommender.InvalidValue
        else:
            assert found == (dismissed not in owner.dismissed)
            owner.dismissed.add(dismissed)

    @rule(user=users, limit=st.integers(1, 3))
    def suggest(self, user: str, limit: int) -> None:
        """Show a page of people; the whole list has everyone who may be suggested."""

        def suggest(session: Session) -> list[list[str]]:
            options: dict[str, Any] = {"as_of": self.now}
            page = recommender.people(session, user, limit=limit, record=True, **options)
            whole = recommender.people(session, user, **options)
            return [[item.creator for item in each.items] for each in (page, whole)]

        (shown, whole), viewer = self.twins.both(suggest), self.model.users.get(user)
        assert shown == whole[:limit]
        person, every = viewer or User("stranger"), self.model.every_video()
        model = self.model.people()
        may_come = [each for each in model if person.may_follow(each, every, self.now)]
        assert sorted(whole) == sorted(each.key for each in may_come)
        for creator in may_come:
            if viewer and creator.key in shown:
                before = viewer.suggested.get(creator, Suggested(0, self.now - DAY))
                viewer.suggested[creator] = before.again(self.now)

    # Events

    @rule(drawn=st.lists(events, min_size=1, max_size=4), skip=st.booleans())
    def record(self, *, drawn: list[dict[str, Any]], skip: bool) -> None:
        made = []
        for body in drawn:
            late = body["late"]
            rest = {name: value for name, value in body.items() if name != "late"}
            made.append(Event(key=f"e{self.next()}", at=self.now - late, **rest))
        self._record(made, skip=skip)

    @rule(which=st.lists(numbers, min_size=1, max_size=3), kind=st.sampled_from([None, "share"]),
          skip=st.booleans())  # fmt: skip
    def repeat(self, *, which: list[int], kind: Any, skip: bool) -> None:
        """Send events again, or others under their keys."""
        if self.sent:
            again = [self.sent[number % len(self.sent)] for number in which]
            self._record([replace(event, kind=kind or event.kind) for event in again], skip=skip)

    def _record(self, made: list[Event], *, skip: bool) -> None:
        def write(session: Session) -> Any:
            how: Any = "skip" if skip else "stop"
            counts = recommender.record_many(session, made, on_error=how)
            return counts.inserted, counts.unchanged, counts.too_old, sorted(counts.rejected)

        assert self.twins.both(write) == self.model.record(made, skip=skip)
        self.sent += made

    # Pages

    @rule(user=users, limit=st.integers(1, 4), rewatch=st.booleans(), exclude=videos)
    def first_page(self, *, user: str, limit: int, rewatch: bool, exclude: str) -> None:
        own = UUID(int=self.next())
        options: dict[str, Any] = {"rewatch": rewatch, "exclude": [exclude]}
        page = self._page(user, session_id=own, limit=limit, **options)
        self._check_new(page, user, SessionPosition(own, 1), limit, **options)

    @rule(user=users, limit=st.integers(1, 3), drawn=st.lists(events, min_size=1, max_size=3),
          rewatch=st.booleans())  # fmt: skip
    def visit(self, *, user: str, limit: int, drawn: list[Any], rewatch: bool) -> None:
        """Open a feed, do something with its videos, and go on to the next page."""
        known = len(self.cursors)
        self.first_page(user=user, limit=limit, rewatch=rewatch, exclude="v8")
        if len(self.cursors) > known:
            *_, opened = self.model.users[user].sessions.values()
            keys = [video.key for video in opened.videos()]
            named = zip(drawn, itertools.cycle(keys), strict=False)
            done = [{**body, "user": user, "video": key} for body, key in named]
            self.record(drawn=done, skip=True)
            self.next_page(which=-1, limit=limit, other=None)

    @rule(user=users, limit=st.integers(1, 3), rewatch=st.booleans(), is_marked=st.booleans())
    def two_devices(self, *, user: str, limit: int, rewatch: bool, is_marked: bool) -> None:
        """Open a feed, open it on another device, and only then look at the first one."""
        first = len(self.cursors)
        self.first_page(user=user, limit=limit, rewatch=False, exclude="v8")
        if len(self.cursors) > first:
            self.first_page(user=user, limit=4, rewatch=rewatch, exclude="v8")
            if is_marked:
                self.mark_seen(which=first, position=limit)
            else:
                self.next_page(which=first, limit=limit, other=None)

    @rule(which=numbers, limit=st.integers(1, 3))
    def first_page_again(self, which: int, limit: int) -> None:
        """Begin a session under an id that was used before."""
        if self.cursors:
            self.next()
            user, cursor = self.cursors[which % len(self.cursors)]
            place = SessionPosition(read_cursor(cursor).session, 1)
            page = self._page(user, session_id=place.session, limit=limit)
            self._check_at(page, user, place, limit)

    @rule(which=numbers, limit=st.integers(1, 3), other=st.one_of(st.none(), users))
    def next_page(self, which: int, limit: int, other: str | None) -> None:
        """Ask for the page of an old or a new cursor, sometimes as another user."""
        if not self.cursors:
            return
        self.next()
        owner, cursor = self.cursors[which % len(self.cursors)]
        user = other or owner
        page = self._page(user, cursor=cursor, limit=limit)
        self._check_at(page, user, read_cursor(cursor), limit)

    def _page(self, user: str, **options: Any) -> Any:
        def serve(session: Session) -> dict[str, Any]:
            return page_of(recommender.for_you(session, user, as_of=self.now, **options))

        page = self.twins.both(serve)
        if not isinstance(page, type) and page["cursor"]:
            self.cursors.append((user, page["cursor"]))
        return page

    def _check_at(self, page: Any, user: str, place: SessionPosition, limit: int) -> None:
        """Check the page at a place of a session, which may be new, served or lost."""
        viewer = self.model.users.get(user)
        own = viewer.sessions.get(place.session) if viewer else None
        if own is None and place.position == 1:
            self._check_new(page, user, place, limit)
        elif own is None or place.position > own.next_position or self.now - own.last_at > LIFETIME:
            assert page in {recommender.InvalidCursor, recommender.CursorAhead}
        elif place.position == own.next_position:
            self._check_new(page, user, place, limit, rewatch=own.rewatch)
        else:
            self._check_recorded(page, user, place, self.now)

    def _check_new(
        self, page: Any, user: str, place: SessionPosition, limit: int, **options: Any
    ) -> None:
        """Check a page that was served now, and serve it in the model."""
        viewer = self.model.users.get(user)
        options = {"session": place.session, **options}
        allowed = self.model.eligible(viewer, self.now, **options)
        again = self.model.refill(viewer, self.now, **options)
        shown = self._check_page(page, allowed, again, limit, viewer, place.session)
        if place.position == 1:
            assert (page["session"] is None) == (viewer is None or not shown)
        if viewer and shown:
            rewatch = options.get("rewatch", False)
            self.model.serve(viewer, *place[:2], shown, self.now, rewatch=rewatch)
        elif viewer and place.position > 1:
            self.model.look(viewer, *place[:2])

    def _check_page(
        self,
        page: Any,
        allowed: set[Video],
        again: set[Video],
        limit: int,
        viewer: User | None,
        session: UUID,
    ) -> list[Video]:
        """Check a new page against what may be shown, and shown again; return its videos."""
        shown, new = self._videos(page), min(limit, len(allowed))
        assert len(set(shown)) == len(shown) == min(limit, len(allowed | again))
        assert set(shown[:new]) <= allowed
        assert set(shown[new:]) <= again
        assert page["exhausted"] == (len(shown) < limit)
        assert [item[-2] for item in page["items"]] == [n >= new for n in range(len(shown))]
        before = viewer.last_served(session) if viewer else None
        left = set(allowed if new else again)
        for (last, video), item in zip(
            itertools.pairwise([before, *shown]), page["items"], strict=True
        ):
            assert video
            left = left or set(again)
            assert video.is_like(last) == item[-1]
            others = {other for other in left if not other.is_like(last)}
            assert not item[-1] or not others
            if item[-2] and viewer:
                oldest = min(viewer.memory[other].last_at for other in others or left)
                assert viewer.memory[video].last_at == oldest
            left.remove(video)
        return shown

    def _videos(self, page: Any) -> list[Video]:
        """Return the videos of a page, and check what it says of them."""
        found = []
        for _, key, creator, hashtags, sound, *_ in page["items"]:
            video = self.model.videos[key]
            assert creator == (video.creator.key if video.creator else None)
            assert (set(hashtags), sound) == (video.hashtags, video.sound)
            found.append(video)
        return found

    def _check_recorded(
        self, page: Any, user: str, place: SessionPosition, as_of: datetime
    ) -> None:
        """Check a page that was served before, less what may no longer be shown."""
        viewer = self.model.users[user]
        recorded = viewer.sessions[place.session].pages.get(place.position)
        if recorded is None:
            assert page is recommender.InvalidCursor
        else:
            left = [v.key for v in recorded if self.model.may_be_shown_again(viewer, v, as_of)]
            assert [item[1] for item in page["items"]] == left

    @rule(user=users, limit=st.integers(1, 4), rewatch=st.booleans(),
          which=st.one_of(st.none(), numbers))  # fmt: skip
    def preview(self, *, user: str, limit: int, rewatch: bool, which: int | None) -> None:
        """Rank a first or a next page without recording it."""
        own = UUID(int=self.next())
        options: dict[str, Any] = {"session_id": own, "rewatch": rewatch}
        if which is not None and self.cursors:
            user, cursor = self.cursors[which % len(self.cursors)]
            options = {"cursor": cursor}
        pages: list[FeedPage] = []

        def rank(session: Session) -> dict[str, Any]:
            page = recommender.for_you(
                session, user, limit=limit, as_of=self.now, record=False, **options
            )
            pages.append(page)
            return page_of(page)

        if isinstance(self.twins.both(rank), dict):
            items = pages[0].items
            videos = [(self.model.videos[item.video], item.refilled) for item in items]
            self.previews.append((self.model.users.get(user), videos, pages))

    @rule(which=numbers, part=st.integers(1, 3))
    def record_page(self, which: int, part: int) -> None:
        """Record a page that was ranked before, or every second or third of its videos."""
        if not self.previews:
            return
        self.next()
        viewer, videos, pages = self.previews[which % len(self.previews)]
        parts = [replace(page, items=page.items[::part]) for page in pages]

        def write(session: Session) -> dict[str, Any]:
            page = parts[DATABASES.index(session.get_bind().dialect.name)]
            return page_of(recommender.record_page(session, page))

        found = self.twins.both(write)
        if isinstance(found, dict) and found["cursor"]:
            self.cursors.append((parts[0].request.user, found["cursor"]))
        self._check_record_page(found, viewer, videos[::part], parts[0].request)

    def _check_record_page(
        self, found: Any, viewer: User | None, videos: list[Ranked], request: RequestSummary
    ) -> None:
        user = self.model.users.get(request.user)
        assert request.session
        own = user.sessions.get(request.session) if user else None
        if user is None:
            assert found is recommender.UnknownUser
        elif own and request.position < own.next_position:
            place = SessionPosition(request.session, request.position)
            self._check_recorded(found, request.user, place, request.as_of)
        elif not (shown := self._recordable(user, viewer, videos, request)):
            assert found["stale"]
            if own:
                self.model.look(user, request.session, request.position)
        elif request.position != (own.next_position if own else 1):
            assert found is recommender.InvalidCursor
        else:
            assert [item[1] for item in found["items"]] == [video.key for video in shown]
            place = request.session, request.position
            self.model.serve(user, *place, shown, request.as_of, rewatch=request.rewatch)

    def _recordable(
        self, user: User, viewer: User | None, videos: list[Ranked], request: RequestSummary
    ) -> list[Video]:
        """Return the videos of a page that may still be shown to a user, if it is their page."""
        if viewer not in {None, user, *user.merged}:
            return []
        options: Any = {"rewatch": request.rewatch, "session": request.session}
        allowed = self.model.eligible(user, request.as_of, **options)
        again = self.model.refill(user, request.as_of, **options)
        return [
            video
            for video, is_refilled in videos
            if video in allowed or (is_refilled and video in again)
        ]

    @rule(which=numbers, position=st.integers(1, 9))
    def mark_seen(self, which: int, position: int) -> None:
        """Say how far a viewer looked at a session."""
        if not self.cursors:
            return
        user, cursor = self.cursors[which % len(self.cursors)]
        found = self.twins.both(
            lambda session: recommender.mark_seen(session, user, cursor=cursor, position=position)
        )
        viewer = self.model.users.get(user)
        own = viewer.sessions.get(read_cursor(cursor).session) if viewer else None
        if viewer is None:
            assert found is recommender.UnknownUser
        elif own is None:
            assert found is recommender.InvalidCursor
        else:
            own.seen_until = max(own.seen_until, min(position, own.next_position - 1))
            assert found == own.seen_until

    # Jobs

    @rule(rebuild=st.booleans())
    def refresh(self, *, rebuild: bool) -> None:
        self.next()
        self.twins.each(lambda engine: self._refreshed(engine, rebuild=rebuild))
        if rebuild:
            self.model.rebuild()
        self._check_statistics()

    def _refreshed(self, engine: Any, *, rebuild: bool) -> Any:
        report = recommender.refresh(engine, as_of=self.now, rebuild=rebuild)
        return {name: n for name, n in report.as_dict().items() if name != "seconds"}

    def _check_statistics(self) -> None:
        with Session(self.twins.engines[0]) as session:
            stored = {row[0]: row[1:3] for row in LEARNED["statistics"](session)}
        for video in self.model.videos.values():
            assert stored[video.key] == self.model.statistics(video)

    @rule(events_days=st.sampled_from([1, 3]), sessions_days=st.sampled_from([1, 3]))
    def prune(self, events_days: int, sessions_days: int) -> None:
        self.refresh(rebuild=False)
        ages = [events_days * DAY, sessions_days * DAY]

        def prune(engine: Any) -> tuple[int, ...]:
            report = recommender.prune(
                engine, events_older_than=ages[0], sessions_older_than=ages[1], as_of=self.now
            )
            return report.events, report.sessions, report.items, report.candidates

        until = [self.now - age for age in ages]
        expired = sum(user.expire(self.now) for user in self.model.people())
        assert self.twins.each(prune) == (*self.model.prune(*until), expired)

    @precondition(lambda self: len(self.model.people()) > 2)
    @rule(guest=users, user=users)
    def merge_users(self, guest: str, user: str) -> None:
        self.next()

        def merge(engine: Any) -> tuple[int, int]:
            result = recommender.merge_users(engine, guest, user)
            return result.same, result.renamed

        found = self.twins.each(merge)
        if error := self.model.merge_refusal(guest, user):
            assert found is error
        else:
            assert found == self.model.merge(guest, user)

    @precondition(lambda self: len(self.model.people()) > 2)
    @rule(user=users)
    def erase_user(self, user: str) -> None:
        def erase(engine: Any) -> dict[str, int]:
            return dict(recommender.erase_user(engine, user).rows)

        found, known = self.twins.each(erase), self.model.users.get(user)
        if known is None:
            assert found is recommender.UnknownUser
        else:
            assert found["events"] == len(known.log)
            self.model.erase_user(known)

    @precondition(lambda self: len(self.model.videos) > 4)
    @rule(video=videos)
    def erase_video(self, video: str) -> None:
        found = self.twins.both(lambda session: recommender.erase_video(session, video))
        known = self.model.videos.get(video)
        assert found is (None if known else recommender.UnknownVideo)
        if known:
            self.model.erase_video(known)

    @rule(user=users, late=st.sampled_from([timedelta(), 3 * DAY]))
    def reset(self, user: str, late: timedelta) -> None:
        at = self.now - late
        found = self.twins.both(lambda session: recommender.reset_user(session, user, at=at))
        known = self.model.users.get(user)
        if known is None:
            assert found is recommender.UnknownUser
        elif found is not None:
            assert found is recommender.InvalidValue
            assert self.model.horizon
            assert at < self.model.horizon
        else:
            known.is_reset = True
            known.candidates.clear()
            known.suggested.clear()

    @rule(rows=st.lists(proposals, min_size=1, max_size=3),
          source=st.sampled_from(["model", "Model"]))  # fmt: skip
    def propose(self, rows: list[dict[str, Any]], source: str) -> None:
        for row in rows:
            if (days := row.pop("end", 0)) != 0:
                row["expires_at"] = None if days is None else self.now + days * DAY
        found = self.twins.both(lambda s: recommender.upsert_candidates(s, source, rows).as_dict())
        model = self.model
        known = [row["user"] in model.users and row["video"] in model.videos for row in rows]
        if not all(known):
            user = rows[known.index(False)]["user"]
            error = recommender.UnknownVideo if user in model.users else recommender.UnknownUser
            assert found is error
            return
        for row in rows:
            own, name = model.users[row["user"]].candidates, (model.videos[row["video"]], source)
            before = own.get(name, (0.0, None))
            own[name] = row["score"], row.get("expires_at", before[1])

    @rule(days=st.integers(1, 2))
    def wait(self, days: int) -> None:
        self.now += days * DAY

    # Checks

    @rule(user=users, keys=st.lists(videos, min_size=1, max_size=2, unique=True),
          number=st.sampled_from([0, 1]))  # fmt: skip
    def explain(self, user: str, keys: list[str], number: int) -> None:
        """Explanations agree with the model and with the whole filtered order."""
        viewer = self.model.users.get(user)
        keys = [key for key in keys if key in self.model.videos]
        with Session(self.twins.engines[number]) as session:
            order = names(unspread(session, user, limit=500, as_of=self.now))
            found = [recommender.explain(session, user, key, as_of=self.now) for key in keys]
        assert set(order) == {video.key for video in self.model.eligible(viewer, self.now)}
        for key, explanation in zip(keys, found, strict=True):
            filters = {outcome.name: outcome.passed for outcome in explanation.filters}
            assert filters == self.model.filters(viewer, self.model.videos[key], self.now)
            assert explanation.rank == (order.index(key) + 1 if key in order else None)
            assert explanation.shown == all(filters.values())

    @rule(user=users)
    def lists(self, user: str) -> None:
        def read(session: Session) -> Any:
            followed = recommender.following(session, user, as_of=self.now)
            trending = recommender.trending(session, as_of=self.now)
            return page_of(followed), page_of(trending), show_user(session, user).as_dict()

        found, viewer = self.twins.both(read), self.model.users.get(user)
        if viewer is None:
            assert found is recommender.UnknownUser
            return
        followed, trending, summary = found
        has = self.model.following(viewer)
        listed = {v.key for v in self.model.videos.values() if has(v, self.now)}
        assert {item[1] for item in followed["items"]} == listed
        strangers = self.model.eligible(None, self.now)
        assert set(self._videos(trending)) == strangers
        pairs = viewer.pairs.values()
        assert summary["plays"] == sum(pair.number("watch") for pair in pairs)
        assert summary["shares"] == sum(pair.number("share") for pair in pairs)
        assert summary["liked"] == sum(pair.is_liked() for pair in pairs)
        assert summary["seen"] == sum(pair.number("impression", "watch") > 0 for pair in pairs)

    @invariant()
    def states_agree(self) -> None:
        """The stored states are those of the model, on both databases."""
        expected = [
            (user.key, video.key or "erased:", *(pair.row()[name] for name in STATE))
            for user in self.model.people()
            for video, pair in user.pairs.items()
        ]
        found = self.twins.both(states)
        assert found == sorted(expected, key=lambda row: [str(value) for value in row])

    @invariant()
    def memories_agree(self) -> None:
        """What was served and looked at is stored as in the model, on both databases."""
        expected = [
            (user.key, video.key or "erased:", served.attempts, user.has_looked_at(video))
            for user in self.model.people()
            for video, served in user.memory.items()
        ]
        found = self.twins.both(memories)
        assert found == sorted(expected, key=lambda row: [str(value) for value in row])

    @invariant()
    def candidates_agree(self) -> None:
        """The stored candidates from outside are those of the model, on both databases."""
        expected = [
            (user.key, video.key or "erased:", source, *row)
            for user in self.model.people()
            for (video, source), row in user.candidates.items()
        ]
        found = self.twins.both(candidates)
        assert found == sorted(expected, key=lambda row: [str(value) for value in row])

    @invariant()
    def suggestions_agree(self) -> None:
        """The stored suggestions are those of the model, on both databases."""
        expected = [
            (user.key, creator.key, *user.suggested.get(creator, (0, None)),
             creator in user.dismissed)
            for user in self.model.people()
            for creator in user.dismissed | user.suggested.keys()
        ]  # fmt: skip
        assert self.twins.both(suggestions) == sorted(
            expected, key=lambda row: [str(value) for value in row]
        )

    @rule(number=st.sampled_from([0, 1]))
    def transfer(self, number: int) -> None:
        """Import one of the databases into an empty one of the other kind."""
        self.refresh(rebuild=False)
        model, target = self.model, self.twins.imported(number)
        if not model.is_any_erased:
            self.twins.import_again(1 - number)
        self._refreshed(target, rebuild=False)
        source = self.twins.engines[number]
        if model.horizon:
            return
        is_any_reset = any(user.is_reset for user in model.people())
        if not model.is_drifted:
            compare("states", (source, target))
            if not is_any_reset:
                compare("affinities", (source, target))
        self.refresh(rebuild=True)
        self._refreshed(target, rebuild=True)
        parts = set(LEARNED) if not is_any_reset else {"states", "statistics"}
        for name in parts:
            compare(name, (source, target))
        if not is_any_reset:
            self._compare_feeds(source, target)

    def _compare_feeds(self, source: Any, target: Any) -> None:
        """Check that an import ranks as its source; served pages are no part of an export."""
        keys = sorted(self.model.videos)

        def feeds(session: Session) -> Any:
            return [
                (user, page_of(recommender.rank(session, user, keys, as_of=self.now)),
                 page_of(preview(session, user, as_of=self.now, rewatch=True)))
                for user in (person.key for person in self.model.people())
                if keys
            ]  # fmt: skip

        with Session(source) as one, Session(target) as other:
            assert feeds(one) == feeds(other)

    def teardown(self) -> None:
        for name in LEARNED:
            compare(name, self.twins.engines)
        found = self.twins.both(lambda session: recommender.audit(session).as_dict())
        changing = {"neighbours_creator", "neighbours_sound", "muted", "blocked", "own"}
        allowed = changing if self.model.is_served_changed else set()
        assert set(found["broken"]) <= allowed


@pytest.fixture(scope="module")
def twins(
    new_database: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Twins]:
    engines = [create_engine(new_database(kind)) for kind in (*DATABASES, *DATABASES)]
    folder: Path = tmp_path_factory.mktemp("exports")
    yield Twins((engines[0], engines[1]), (engines[2], engines[3]), folder)
    for engine in engines:
        engine.dispose()


def run_programs(twins: Twins, options: settings) -> None:
    run_state_machine_as_test(lambda: Programs(twins), settings=options)


def test_short_programs_do_what_a_plain_model_does(twins: Twins) -> None:
    run_programs(twins, settings(max_examples=5, stateful_step_count=10))


@pytest.mark.slow
def test_programs_do_what_a_plain_model_does(twins: Twins) -> None:
    is_by_hand = settings.get_current_profile_name() == "programs"
    options = settings() if is_by_hand else settings(max_examples=6, stateful_step_count=30)
    run_programs(twins, options)
