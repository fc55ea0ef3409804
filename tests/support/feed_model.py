"""A plain model of the recommender: what is stored, what may be shown, and what was served."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import recommender
from recommender import Event
from recommender.formats import scalars, text
from tests.support.positives import Deed, is_engaged_view, is_rejected_by, positive_times

LIFETIME = timedelta(days=1)
"""The age of a session's last page after which its cursor expires."""

SERVED_AGAIN_AFTER, SERVED_ATTEMPTS = timedelta(days=1), 3

SHOWN = ("impression", "watch")


class Judged(NamedTuple):
    """An event as it was folded: whether it is an engaged view, by the duration of that time."""

    deed: Deed
    engaged: bool


@dataclass(eq=False)
class Video:
    """A video. An erased one stays, without a key."""

    key: str
    creator: User | None = None
    published_at: datetime | None = None
    status: str = "published"
    audience: str = "public"
    caption: str = ""
    hashtags: set[str] = field(default_factory=set)
    sound: str | None = None
    duration_ms: int | None = None
    is_erased: bool = False

    def is_like(self, other: Video | None) -> bool:
        """Return whether two videos have the same creator or the same sound."""
        if other is None:
            return False
        has_same_creator = self.creator is not None and self.creator is other.creator
        return has_same_creator or (self.sound is not None and self.sound == other.sound)

    def judged(self, deed: Deed) -> Judged:
        return Judged(deed, is_engaged_view(deed, self.duration_ms))


@dataclass
class Pair:
    """The state of a user and a video."""

    first_at: datetime
    last_at: datetime
    events: list[Judged] = field(default_factory=list)

    def add(self, judged: Judged) -> None:
        self.events.append(judged)
        self.first_at = min(self.first_at, judged.deed.at)
        self.last_at = max(self.last_at, judged.deed.at)

    def absorb(self, other: Pair, twice: Sequence[Body]) -> None:
        """Add the events of another pair, without the ones that both have."""
        for judged in other.events:
            self.add(judged)
        self.first_at = min(self.first_at, other.first_at)
        self.last_at = max(self.last_at, other.last_at)
        for body in twice:
            deed = Deed(*body[1:])
            self.events.remove(next(judged for judged in other.events if judged.deed == deed))

    def number(self, *kinds: str) -> int:
        return sum(judged.deed.kind in kinds for judged in self.events)

    def engaged_at(self) -> datetime | None:
        """Return the latest time of what makes the pair positive."""
        plain = [
            # A watch of unknown length is an engaged view; one of no length is none.
            Deed("watch", deed.at) if engaged else deed._replace(watch_ms=0, completion=0.0)
            for deed, engaged in self.events
        ]
        times = positive_times(plain, None)
        return times[-1] if times else None

    def is_rejected(self) -> bool:
        return is_rejected_by(judged.deed for judged in self.events)

    def is_liked(self) -> bool:
        on, off = (
            [judged.deed.at for judged in self.events if judged.deed.kind == kind]
            for kind in ("like", "unlike")
        )
        return bool(on) and (not off or max(on) > max(off))

    def statistics(self) -> tuple[int, int]:
        """Return what the pair adds to the impressions and engaged views of its video."""
        is_positive = self.engaged_at() is not None
        return int(is_positive or self.number(*SHOWN) > 0), int(is_positive)

    def row(self) -> dict[str, Any]:
        """Return columns of the stored state."""
        return {
            "impressions": self.number(*SHOWN),
            "plays": self.number("watch"),
            "engaged_views": sum(judged.engaged for judged in self.events),
            "shares": self.number("share"),
            "comments": self.number("comment"),
            "reports": self.number("report"),
            "conversions": self.number("convert"),
            "engaged_at": self.engaged_at(),
            "first_at": self.first_at,
            "last_at": self.last_at,
        }


@dataclass
class ServedSession:
    """A session with its pages, by the position of the first video."""

    rewatch: bool
    last_at: datetime
    started_at: datetime
    next_position: int = 1
    seen_until: int = 0
    pages: dict[int, list[Video]] = field(default_factory=dict)
    times: dict[Video, datetime] = field(default_factory=dict)

    def videos(self) -> list[Video]:
        return list(self.times)

    def looked_at(self) -> list[Video]:
        return self.videos()[: self.seen_until]


@dataclass
class Memory:
    """When and how often a video was served to a user, and what pruned sessions know of it."""

    session: UUID
    last_at: datetime
    attempts: int = 1
    seen: bool = False

    def with_other(self, other: Memory | None) -> Memory:
        """Return what two users know together; the later session counts."""
        if other is None:
            return self
        latest = max(self, other, key=lambda served: served.last_at)
        seen, attempts = self.seen or other.seen, self.attempts + other.attempts
        return Memory(latest.session, latest.last_at, attempts, seen)


class Suggested(NamedTuple):
    """The days on which someone was suggested to a user, and the last time."""

    days: int
    last_at: datetime

    def again(self, as_of: datetime) -> Suggested:
        """Return what is known after a list at a time: a day counts once."""
        is_new = self.last_at.date() < as_of.date()
        return Suggested(self.days + 1, as_of) if is_new else self

    def with_other(self, other: Suggested | None) -> Suggested:
        """Return what two users know together."""
        if other is None:
            return self
        return Suggested(self.days + other.days, max(self.last_at, other.last_at))


class Body(NamedTuple):
    """What two events with one key must have in common."""

    video: Video
    kind: str
    at: datetime
    watch_ms: int | None
    completion: float | None


@dataclass(eq=False)
class User:
    """A user with everything that is stored about them."""

    key: str
    follows: set[User] = field(default_factory=set)
    mutes: set[tuple[str, Any]] = field(default_factory=set)
    blocks: set[User] = field(default_factory=set)
    discoverable: bool = True
    log: dict[str, Body] = field(default_factory=dict)
    pairs: dict[Video, Pair] = field(default_factory=dict)
    sessions: dict[UUID, ServedSession] = field(default_factory=dict)
    memory: dict[Video, Memory] = field(default_factory=dict)
    candidates: dict[tuple[Video, str], tuple[float, datetime | None]] = field(default_factory=dict)
    dismissed: set[User] = field(default_factory=set)
    suggested: dict[User, Suggested] = field(default_factory=dict)
    is_reset: bool = False
    merged: set[User] = field(default_factory=set)

    def absorb(self, guest: User) -> tuple[int, int]:
        """Take over what is stored about a guest; the numbers of same and of renamed events."""
        twice = {k: body for k, body in guest.log.items() if self.has_event(k, body)}
        moved = {k: body for k, body in guest.log.items() if k not in twice}
        renamed = {k: body for k, body in moved.items() if k in self.log}
        self.log = {**moved, **self.log}
        for key, body in renamed.items():
            self.log[self.derived(key, guest.key)] = body
        for video, pair in guest.pairs.items():
            own = self.pairs.setdefault(video, Pair(pair.first_at, pair.last_at))
            own.absorb(pair, [body for body in twice.values() if body.video is video])
        self.sessions |= guest.sessions
        for video, served in guest.memory.items():
            self.memory[video] = served.with_other(self.memory.get(video))
        for name, (score, end) in guest.candidates.items():
            _, own_end = self.candidates.get(name, (0.0, scalars.EARLIEST))
            if own_end is not None and (end is None or end > own_end):
                self.candidates[name] = score, end
        self.mutes |= guest.mutes
        self.follows |= guest.follows
        self.blocks |= guest.blocks
        self.dismissed |= guest.dismissed
        for creator, shown in guest.suggested.items():
            self.suggested[creator] = shown.with_other(self.suggested.get(creator))
        self.is_reset |= guest.is_reset
        self.merged |= {guest, *guest.merged}
        return len(twice), len(renamed)

    def rename(self, guest: User, user: User) -> None:
        """Replace a guest by a user in what this user declared about others."""
        for declared in (self.follows, self.blocks, self.dismissed):
            if guest in declared:
                declared ^= {guest}
                declared |= {user}
            declared.discard(self)
        if shown := self.suggested.pop(guest, None):
            self.suggested[user] = shown.with_other(self.suggested.get(user))
        self.suggested.pop(self, None)
        if ("creator", guest) in self.mutes:
            self.mutes = (self.mutes - {("creator", guest)}) | {("creator", user)}
        self.mutes.discard(("creator", self))

    def kept(self, key: str) -> list[Body]:
        """Return the bodies of events that merges keep for a key, but its own."""
        begin = key.split(maxsplit=1)[0]
        return [body for name, body in self.log.items() if name.startswith(f"{begin} ")]

    def has_event(self, key: str, body: Body) -> bool:
        """Return whether the user has an event, under its key or under one of the same origin."""
        is_known = " " in key or key in self.log
        return is_known and body in (self.log.get(key.split(maxsplit=1)[0]), *self.kept(key))

    def derived(self, key: str, guest: str) -> str:
        """Return a free key for an event of a guest."""
        name = f"{key.split(maxsplit=1)[0]} {guest}"
        while name in self.log:
            name += "+"
        return name

    def has_seen(self, video: Video) -> bool:
        """Return whether the user has an event with a video, or looked at one of its places."""
        return video in self.pairs or self.has_looked_at(video)

    def has_looked_at(self, video: Video) -> bool:
        served = self.memory.get(video)
        is_known = served is not None and served.seen
        return is_known or any(video in own.looked_at() for own in self.sessions.values())

    def may_follow(self, creator: User, videos: Iterable[Video], as_of: datetime) -> bool:
        """Return whether a creator may be suggested, who has one of the videos for everyone."""
        has_video = any(
            video.creator is creator
            and (video.status, video.audience) == ("published", "public")
            and (video.published_at or scalars.UNDATED) <= as_of
            for video in videos
        )
        is_hidden = creator in self.follows | self.blocks | self.dismissed or creator is self
        is_muted = ("creator", creator) in self.mutes or self.is_blocked_by(creator)
        return has_video and creator.discoverable and not (is_hidden or is_muted)

    def may_see(self, video: Video, as_of: datetime) -> bool:
        """Return whether a video is not seen, and was served neither lately nor often."""
        served = self.memory.get(video)
        is_due = served is None or (
            served.last_at <= as_of - SERVED_AGAIN_AFTER and served.attempts < SERVED_ATTEMPTS
        )
        return is_due and not self.has_seen(video)

    def is_served_since(self, session: UUID | None, video: Video) -> bool:
        """Return whether a video was served in any session since one began."""
        own, served = self.sessions.get(session) if session else None, self.memory.get(video)
        return own is not None and served is not None and served.last_at >= own.started_at

    def is_served_in(self, session: UUID | None, video: Video) -> bool:
        own, served = self.sessions.get(session) if session else None, self.memory.get(video)
        is_last = served is not None and served.session == session
        return is_last or (own is not None and video in own.times)

    def is_in_audience(self, video: Video) -> bool:
        """Return whether the user is in the audience of a video outside the list of followed."""
        if video.creator is None or video.audience != "followers":
            return video.audience == "public" and (not video.creator or video.creator.discoverable)
        is_theirs = video.creator is self or video.creator in self.follows
        return video.creator.discoverable and is_theirs

    def is_blocked_by(self, other: User | None) -> bool:
        return other is not None and self in other.blocks

    def last_served(self, session: UUID) -> Video | None:
        own = self.sessions.get(session)
        return own.videos()[-1] if own else None

    def expire(self, as_of: datetime) -> int:
        """Delete expired candidates; return their number."""
        old = [name for name, (_, end) in self.candidates.items() if end and end <= as_of]
        for name in old:
            del self.candidates[name]
        return len(old)

    def prune(self, until: datetime) -> list[ServedSession]:
        """Delete old sessions; what they know as seen stays so."""
        old = {n: s for n, s in self.sessions.items() if s.last_at <= until}
        for video, served in self.memory.items():
            served.seen |= self.has_looked_at(video)
        self.sessions = {n: s for n, s in self.sessions.items() if n not in old}
        return list(old.values())


@dataclass
class Model:
    """Everything that is stored.

    `is_drifted` tells that what was learned is no longer what the log would teach today: a video
    changed after its events. A rebuild ends that.
    """

    users: dict[str, User] = field(default_factory=dict)
    videos: dict[str, Video] = field(default_factory=dict)
    erased: list[Video] = field(default_factory=list)
    horizon: datetime | None = None
    is_drifted: bool = False
    is_served_changed: bool = False
    is_any_erased: bool = False

    def user(self, key: str) -> User:
        """Return a user, who is created if missing."""
        return self.users.setdefault(key, User(key))

    def people(self) -> list[User]:
        """Return the users, once each: aliases are further keys of a user."""
        return list(dict.fromkeys(self.users.values()))

    def every_video(self) -> list[Video]:
        return [*self.videos.values(), *self.erased]

    # Videos

    def write_video(self, row: Mapping[str, Any]) -> None:
        """Create or update a video from a row."""
        video = self.videos.setdefault(row["id"], Video(row["id"]))
        before = (video.creator, video.sound, set(video.hashtags), video.duration_ms)
        is_served = any(video in user.pairs or video in user.memory for user in self.people())
        old_caption = video.caption
        if "creator" in row:
            video.creator = self.user(row["creator"]) if row["creator"] else None
        for name in ("published_at", "sound", "duration_ms"):
            setattr(video, name, row.get(name, getattr(video, name)))
        video.status = row.get("status", video.status) or "published"
        video.audience = row.get("audience", video.audience) or "public"
        video.caption = row.get("caption", video.caption) or ""
        video.hashtags = _hashtags(row, video, old_caption)
        is_other = before != (video.creator, video.sound, video.hashtags, video.duration_ms)
        if is_served and (is_other or old_caption != video.caption):
            self.is_drifted = self.is_served_changed = True

    def erase_video(self, video: Video) -> None:
        """Clear a video; its key is free afterwards."""
        del self.videos[video.key]
        self.erased.append(video)
        self.is_any_erased = True
        video.key, video.is_erased, video.status = "", True, "removed"
        video.audience = "public"
        video.caption, video.hashtags, video.sound = "", set(), None
        video.duration_ms, video.published_at = None, scalars.EARLIEST
        self.is_drifted = self.is_served_changed = True

    def erase_user(self, user: User) -> None:
        """Delete a user and what others said of them; clear their videos."""
        self.users = {key: other for key, other in self.users.items() if other is not user}
        self.is_any_erased = True
        for video in [video for video in self.videos.values() if video.creator is user]:
            self.erase_video(video)
        for other in self.people():
            other.follows.discard(user)
            other.blocks.discard(user)
            other.dismissed.discard(user)
            other.suggested.pop(user, None)
            other.mutes.discard(("creator", user))

    def merge_refusal(self, guest: str, user: str) -> type[Exception] | None:
        """Return the error of two users who cannot be merged."""
        one, other = self.users.get(guest), self.users.get(user)
        if one is None or other is None:
            return recommender.UnknownUser
        if one is other:
            return recommender.InvalidValue if one.key == guest else None
        return recommender.InvalidValue if one.key != guest else None

    def merge(self, guest: str, user: str) -> tuple[int, int]:
        """Merge a guest into a user; the numbers of same and of renamed events."""
        one, other = self.users[guest], self.users[user]
        if one is other:
            return 0, 0
        numbers = other.absorb(one)
        self.users = {k: other if each is one else each for k, each in self.users.items()}
        for person in self.people():
            person.rename(one, other)
        for video in self.every_video():
            video.creator = other if video.creator is one else video.creator
        return numbers

    # Events

    def refusal(self, event: Event) -> type[Exception] | None:
        """Return the error of an event that cannot be recorded, conflicts left aside."""
        if event.user not in self.users:
            return recommender.UnknownUser
        if event.video not in self.videos:
            return recommender.UnknownVideo
        is_old = self.horizon is not None and event.at <= self.horizon
        return recommender.EventTooOld if is_old else None

    def record(self, events: Sequence[Event], *, skip: bool) -> Any:
        """Record events as `record_many` does: its four counts, or the error."""
        refused = {n: error for n, event in enumerate(events) if (error := self.refusal(event))}
        if refused and not skip:
            return refused[min(refused)]
        bodies: dict[tuple[User, str], Body] = {}
        new: dict[tuple[User, str], Event] = {}
        unchanged, conflicts = 0, {}
        for number, event in enumerate(events):
            if number in refused:
                continue
            body = self._body(event)
            user = self.users[event.user]
            logged = user.log.get(event.key)
            before = logged or bodies.setdefault((user, event.key), body)
            key = event.key
            if before != body and body not in user.kept(key) and event.user != user.key:
                key = f"{key} {event.user}"  # as a merge would have kept it
                logged = user.log.get(key)
                before = logged or bodies.setdefault((user, key), body)
            if before != body and body not in user.kept(key):
                conflicts[number] = recommender.EventConflict
            elif logged or (user, key) in new:
                unchanged += 1
            else:
                new[user, key] = event
        if conflicts and not skip:
            return conflicts[min(conflicts)]
        for (_, key), event in new.items():
            self._fold(event, key)
        too_old = sum(error is recommender.EventTooOld for error in refused.values())
        return len(new), unchanged, too_old, sorted([*refused, *conflicts])

    def _body(self, event: Event) -> Body:
        video = self.videos[event.video]
        return Body(video, event.kind, event.at, event.watch_ms, event.completion)

    def _fold(self, event: Event, key: str) -> None:
        user, body = self.users[event.user], self._body(event)
        user.log[key] = body
        pair = user.pairs.setdefault(body.video, Pair(event.at, event.at))
        pair.add(body.video.judged(Deed(*body[1:])))

    def rebuild(self) -> None:
        """Judge events again by the durations of today, except in states of a pruned time."""
        for user in self.people():
            for video, pair in user.pairs.items():
                if not (self.horizon and pair.first_at <= self.horizon):
                    pair.events = [video.judged(judged.deed) for judged in pair.events]
        self.is_drifted = False

    def statistics(self, video: Video) -> tuple[int, int]:
        """Return the impressions and engaged views of a video after a refresh."""
        pairs = [user.pairs[video] for user in self.people() if video in user.pairs]
        numbers = [pair.statistics() for pair in pairs]
        return sum(viewed for viewed, _ in numbers), sum(engaged for _, engaged in numbers)

    def prune(self, events_until: datetime, sessions_until: datetime) -> tuple[int, int, int]:
        """Delete old events and sessions; the numbers of events, sessions and places."""
        horizon = max(events_until, self.horizon or events_until)
        bodies = [body for user in self.people() for body in user.log.values()]
        old = [body for body in bodies if body.at <= horizon]
        if old:
            self.horizon = horizon
        sessions = places = 0
        for user in self.people():
            user.log = {key: body for key, body in user.log.items() if body.at > horizon}
            gone = user.prune(sessions_until)
            sessions, places = sessions + len(gone), places + sum(len(s.times) for s in gone)
        return len(old), sessions, places

    # Feeds

    def filters(self, user: User | None, video: Video, as_of: datetime) -> dict[str, bool]:
        """Return which filters a video passes for a user, or for a stranger."""
        viewer = user or User("")
        pair = viewer.pairs.get(video)
        return {
            "published": video.status == "published",
            "not_in_future": video.published_at is None or video.published_at <= as_of,
            "available": viewer.is_in_audience(video) and not viewer.is_blocked_by(video.creator),
            "creator_not_blocked": video.creator not in viewer.blocks,
            "not_own": video.creator is not viewer,
            "not_rejected": pair is None or not pair.is_rejected(),
            "not_seen": viewer.may_see(video, as_of),
            "creator_not_muted": ("creator", video.creator) not in viewer.mutes,
            "sound_not_muted": ("sound", video.sound) not in viewer.mutes,
            "hashtag_not_muted": not any(("hashtag", t) in viewer.mutes for t in video.hashtags),
            "keyword_not_muted": not any(
                kind == "keyword" and text.words(value) in text.words(video.caption)
                for kind, value in viewer.mutes
            ),
        }

    def eligible(
        self,
        user: User | None,
        as_of: datetime,
        *,
        rewatch: bool = False,
        session: UUID | None = None,
        exclude: Collection[str] = (),
    ) -> set[Video]:
        """Return the videos that a page may show before it is refilled."""

        def passes(video: Video) -> bool:
            filters = self.filters(user, video, as_of)
            if rewatch:
                filters["not_seen"] = True
            is_new = user is None or (
                not user.is_served_in(session, video)
                if rewatch
                else not user.is_served_since(session, video)
            )
            return all(filters.values()) and is_new and video.key not in exclude

        return set(filter(passes, self.videos.values()))

    def refill(
        self,
        user: User | None,
        as_of: datetime,
        *,
        rewatch: bool = False,
        session: UUID | None = None,
        exclude: Collection[str] = (),
    ) -> set[Video]:
        """Return the videos that a page may show again if no others are left."""
        if user is None or rewatch:
            return set()

        def passes(video: Video) -> bool:
            filters = {**self.filters(user, video, as_of), "not_seen": not user.has_seen(video)}
            is_other = video in user.memory and not user.is_served_in(session, video)
            return all(filters.values()) and is_other and video.key not in exclude

        options: Any = {"rewatch": rewatch, "session": session, "exclude": exclude}
        return set(filter(passes, self.videos.values())) - self.eligible(user, as_of, **options)

    def following(self, user: User) -> Callable[[Video, datetime], bool]:
        """Return whether the list of followed creators has a video."""

        def has(video: Video, as_of: datetime) -> bool:
            filters = {**self.filters(user, video, as_of), "not_seen": True}
            filters["available"] = video.audience != "unlisted"
            is_blocked = user.is_blocked_by(video.creator)
            return video.creator in user.follows and not is_blocked and all(filters.values())

        return has

    def may_be_shown_again(self, user: User, video: Video, as_of: datetime) -> bool:
        """Return whether a video may be shown that was seen."""
        filters = {**self.filters(user, video, as_of), "not_seen": True}
        return all(filters.values())

    def serve(
        self,
        user: User,
        session: UUID,
        position: int,
        videos: Iterable[Video],
        as_of: datetime,
        *,
        rewatch: bool,
    ) -> None:
        """Record a page as served."""
        listed = list(videos)
        own = user.sessions.setdefault(session, ServedSession(rewatch, as_of, as_of))
        assert own.next_position == position
        self.look(user, session, position)
        for video in listed:
            moment = max(as_of, own.started_at)
            new = Memory(session, moment)
            if old := user.memory.get(video):
                new.last_at, new.attempts = max(moment, old.last_at), old.attempts + 1
                new.seen = old.seen
            user.memory[video] = new
        own.pages[position] = listed
        own.times |= dict.fromkeys(listed, as_of)
        own.next_position += len(listed)
        own.last_at = max(own.last_at, as_of)

    def look(self, user: User, session: UUID, position: int) -> None:
        """Note that the page at a position was asked for, so those before were looked at."""
        own = user.sessions[session]
        own.seen_until = max(own.seen_until, min(position, own.next_position) - 1)


def _hashtags(row: Mapping[str, Any], video: Video, old_caption: str) -> set[str]:
    """Return the hashtags of a video after a write: listed ones, and those of the caption."""
    in_old, in_caption = _in_caption(old_caption), _in_caption(video.caption)
    if row.get("hashtags", ...) is ...:
        is_same = in_old == in_caption
        return set(video.hashtags) if is_same else (video.hashtags - in_old) | in_caption
    return set(row["hashtags"] or ()) | in_caption


def _in_caption(caption: str) -> set[str]:
    return {word[1:] for word in caption.split() if word.startswith("#")}
