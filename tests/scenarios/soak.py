"""A soak test: clients use a PostgreSQL server for minutes while it is restarted twice.

``python -m tests.scenarios.soak --minutes 30`` prints the results, and exits with 1 if a promise
was broken. Four writers, four readers and a refresh loop run at once, with a prune and an erasure
every minute. The server shuts down after a third of the time, and crashes after two thirds. Clients
write the answers that they receive to files. In the end the database is compared with these files.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import psycopg
import sqlalchemy as sa
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

import recommender
from recommender import (
    DatabaseBusy,
    DatabaseUnreachable,
    Event,
    EventTooOld,
    InvalidCursor,
    UnknownUser,
    models,
    run_transaction,
    upsert_users,
    upsert_videos,
)
from recommender.benchmark.demo_world import DemoWorld
from recommender.database import migrations
from recommender.ingest.follows import apply_follows
from recommender.models import EventRow, Interaction, User, Video
from recommender.operations.audit import PROMISES
from tests.support import postgres
from tests.support.positives import Deed, positive_times

DAY = timedelta(days=1)
WRITERS = READERS = 4
KINDS = ("watch",) * 6 + ("impression", "like", "unlike", "share", "comment", "save")
NO_FAULT_OF_OURS = (DatabaseUnreachable, DatabaseBusy)
"""The errors of clients while the server is down; they ask again."""

COUNTED = {"impression": "impressions", "share": "shares", "comment": "comments"}
STATE = ("impressions", "plays", "shares", "comments", "watch_ms", "completion")

T = TypeVar("T")


@dataclass
class Load:
    """The state that clients share: the database, its users, and the errors.

    `told` is the folder of recorded answers. `durations` are the lengths of the videos in
    milliseconds. `pause` is the mean number of seconds between two requests of a client.
    """

    engine: Engine
    told: Path
    durations: Mapping[str, int]
    people: list[str]
    pause: float
    stop: threading.Event = field(default_factory=threading.Event)
    errors: Counter[str] = field(default_factory=Counter)
    retried: Counter[str] = field(default_factory=Counter)
    longest: Counter[str] = field(default_factory=Counter)
    used: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        event.listen(self.engine, "handle_error", self._count)

    def _count(self, context: Any) -> None:
        """Count errors of the driver, even if a second try helps."""
        self.retried[type(context.original_exception).__name__] += 1

    def answer(self, what: str, ask: Callable[[], T]) -> T:
        """Ask until the server answers, and return the answer."""
        started = time.monotonic()
        while True:
            try:
                return ask()
            except NO_FAULT_OF_OURS as error:
                self.errors[type(error).__name__] += 1
            finally:
                self.longest[what] = max(self.longest[what], time.monotonic() - started)

    def transact(self, what: str, work: Callable[[Session], T]) -> T:
        """Run a transaction until the server answers."""
        return self.answer(what, lambda: run_transaction(self.engine, work))

    def turns(self, chance: random.Random) -> Iterator[int]:
        """Yield the turns of a client, with pauses, until the soak ends."""
        number = 0
        while not self.stop.wait(self.pause * chance.uniform(0.5, 1.5)):
            yield number
            number += 1


def write(load: Load, writer: int) -> None:
    """Record events, some of them twice, and write down the acknowledged ones."""
    chance = random.Random(f"writer {writer}")  # noqa: S311 - not for secrets
    with (load.told / f"events-{writer}.jsonl").open("w") as told:
        for turn in load.turns(chance):
            events = list(swipes(load, chance, f"{writer}-{turn}"))
            record = partial(recommender.record_many, events=events)
            try:
                load.transact("write", record)
            except (UnknownUser, EventTooOld) as error:
                load.errors[type(error).__name__] += 1
                continue
            told.writelines(json.dumps(as_told(each)) + "\n" for each in events)
            if chance.random() < 0.2:
                with suppress(UnknownUser, EventTooOld):
                    load.transact("write", record)


def swipes(load: Load, chance: random.Random, name: str) -> Iterator[Event]:
    """Yield events of one user in the last day; a few are older than the pruning limit."""
    user = some(chance, load.people)
    age = DAY * 2 if chance.random() < 0.02 else (DAY - timedelta(minutes=2)) * chance.random()
    at = datetime.now(UTC) - age
    for number in range(chance.randint(1, 8)):
        video, kind = some(chance, list(load.durations)), chance.choice(KINDS)
        seen = {}
        if kind == "watch":
            seen = {"watch_ms": chance.randrange(30_000), "completion": round(chance.random(), 2)}
        yield Event(f"{name}-{number}", user, video, kind, at, **seen)


def some(chance: random.Random, names: list[str]) -> str:
    """Return a random name; earlier names are more frequent."""
    return names[int(len(names) * chance.random() ** 2)]


def as_told(one: Event) -> dict[str, Any]:
    """Return an event as a line of a file."""
    names = ("key", "user", "video", "kind", "watch_ms", "completion")
    return {**{name: getattr(one, name) for name in names}, "at": one.at.isoformat()}


def scroll(load: Load, reader: int) -> None:
    """Scroll through sessions, some of them a day old, and write down every page."""
    chance = random.Random(f"reader {reader}")  # noqa: S311 - not for secrets
    with (load.told / f"pages-{reader}.jsonl").open("w") as told:
        user, cursor, as_of, left = "", None, None, 0
        for _ in load.turns(chance):
            if not left or not cursor:
                user, cursor, left = some(chance, load.people), None, chance.randint(1, 6)
                a_day_ago = datetime.now(UTC) - DAY + timedelta(minutes=2)
                as_of = a_day_ago if chance.random() < 0.3 else None
            options = {"limit": 10, "cursor": cursor, "as_of": as_of}
            try:
                page = load.transact("page", partial(recommender.for_you, user=user, **options))
            except InvalidCursor as error:
                if user in load.people:
                    raise
                load.errors[f"{type(error).__name__} of the erased"] += 1
                cursor = None
                continue
            videos = [item.video for item in page.items]
            if page.session:
                told.write(json.dumps({"user": user, "videos": videos}) + "\n")
            cursor, left = page.cursor, left - 1


def every(load: Load, seconds: float, do: Callable[[], Any]) -> None:
    """Call a function repeatedly until the soak ends."""
    while not load.stop.wait(seconds):
        do()


def refresh(load: Load) -> None:
    """Run a refresh."""
    load.answer("refresh", lambda: recommender.refresh(load.engine))


def prune(load: Load) -> None:
    """Prune events and sessions that are a day old."""
    ages = {"events_older_than": DAY, "sessions_older_than": DAY}
    report = load.answer("prune", lambda: recommender.prune(load.engine, **ages))
    tell(load, "pruned", report.as_dict())


def erase(load: Load) -> None:
    """Erase an active user and add a new one."""
    gone = load.people.pop(0)
    try:
        load.answer("erase", lambda: recommender.erase_user(load.engine, gone))
    except UnknownUser:  # it ended as the server did, and nobody was told
        load.errors["UnknownUser of the erased"] += 1
    tell(load, "erased", gone)
    load.transact("write", lambda session: upsert_users(session, [{"id": f"after {gone}"}]))
    load.people.append(f"after {gone}")


def tell(load: Load, what: str, value: object) -> None:
    """Write down a line; only one thread writes lines of this kind."""
    with (load.told / f"{what}.jsonl").open("a") as file:
        file.write(json.dumps(value) + "\n")


def told(folder: Path, what: str) -> Iterator[Any]:
    """Yield the lines of a kind from all clients."""
    for path in sorted(folder.glob(f"{what}*.jsonl")):
        with path.open() as file:
            yield from map(json.loads, file)


@dataclass
class Expected:
    """The expected content of the database."""

    keys: dict[tuple[str, str], datetime] = field(default_factory=dict)
    states: dict[tuple[str, str], list[Any]] = field(
        default_factory=lambda: defaultdict(lambda: [0, 0, 0, 0, 0, 0.0])
    )
    deeds: dict[tuple[str, str], list[Deed]] = field(default_factory=lambda: defaultdict(list))
    durations: dict[str, int] = field(default_factory=dict)

    def add(self, line: Mapping[str, Any], duration: int) -> None:
        """Add an acknowledged event."""
        pair, at = (line["user"], line["video"]), datetime.fromisoformat(line["at"])
        self.keys[line["user"], line["key"]] = at
        self.durations[line["video"]] = duration
        deed = Deed(line["kind"], at, line.get("watch_ms"), line.get("completion"))
        self.deeds[pair].append(deed)
        state = self.states[pair]
        if line["kind"] in COUNTED:
            state[STATE.index(COUNTED[line["kind"]])] += 1
        if line["kind"] == "watch":
            state[0], state[1], state[4] = state[0] + 1, state[1] + 1, state[4] + line["watch_ms"]
            state[5] = max(state[5], line["completion"])

    def statistics(self) -> dict[str, tuple[int, int]]:
        """Return the numbers of viewers and positive viewers per video."""
        positive = {
            (user, video)
            for (user, video), deeds in self.deeds.items()
            if positive_times(deeds, self.durations[video])
        }
        viewed = positive | {pair for pair, state in self.states.items() if state[0]}
        positives = Counter(video for _, video in positive)
        viewers = Counter(video for _, video in viewed)
        return {video: (count, positives[video]) for video, count in viewers.items()}


def expected(folder: Path, durations: Mapping[str, int]) -> Expected:
    """Return the content that follows from acknowledged events of users who were not erased."""
    erased = set(told(folder, "erased"))
    found = Expected()
    for each in told(folder, "events"):
        if each["user"] not in erased:
            found.add(each, durations[each["video"]])
    return found


def rows(session: Session, *columns: Any) -> list[Any]:
    """Return all rows of some columns."""
    return list(session.execute(sa.select(*columns)))


def differences(ours: Mapping[Any, Any], theirs: Mapping[Any, Any]) -> int:
    """Return the number of keys with different values."""
    return sum(ours.get(key) != theirs.get(key) for key in ours.keys() | theirs.keys())


def broken(engine: Engine, folder: Path, durations: Mapping[str, int]) -> dict[str, int]:
    """Return how often each promise was broken."""
    due = expected(folder, durations)
    with Session(engine) as session:
        horizon = session.scalar(sa.select(models.LearningState.events_horizon))
        of_users = sa.join(EventRow, User, User.id == EventRow.user_id)
        logged = sa.select(User.key, EventRow.key).select_from(of_users)
        there = {(user, key) for user, key in session.execute(logged)}
        columns = (getattr(Interaction, name) for name in STATE)
        states = sa.select(User.key, Video.key, *columns).select_from(Interaction)
        states = states.join(User, User.id == Interaction.user_id)
        states = states.join(Video, Video.id == Interaction.video_id)
        found = {(user, video): state for user, video, *state in session.execute(states)}
        counts = rows(session, Video.key, Video.impressions, Video.engaged_views)
        pending = session.scalar(sa.select(sa.func.count()).select_from(models.PendingEvent))
        audit = recommender.audit(session)
        doctor = {each.check: each.ok for each in recommender.diagnose(engine)}
    kept = {key for key, at in due.keys.items() if horizon is None or at > horizon}
    pages = [(page["user"], page["videos"]) for page in told(folder, "pages")]
    shown = Counter((user, video) for user, videos in pages for video in videos)
    nothing = [0, 0, 0, 0, 0, 0.0]
    return {
        "acknowledged events that are not there": len(kept - there),
        "events that nobody was told of": len(there - due.keys.keys()),
        "states other than the events": differences(
            {pair: state for pair, state in due.states.items() if state != nothing},
            {pair: state for pair, state in found.items() if state != nothing},
        ),
        "statistics other than the events": differences(
            due.statistics(), {video: (v, e) for video, v, e in counts if v or e}
        ),
        "events that no refresh counted": pending or 0,
        "videos shown twice to one person": sum(count > 1 for count in shown.values()),
        **{f"audit: {name}": getattr(audit, name) for name in PROMISES},
        **{f"doctor: {check}": not doctor[check] for check in (
            "rollups", "erasures", "indexes", "copies", "statistics")},
        "transactions left open": idle(engine),
    }  # fmt: skip


def idle(engine: Engine) -> int:
    """Return the number of connections that are idle in a transaction."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
    with engine.connect() as connection:
        return int(connection.scalar(sa.text(query)) or 0)


def memory() -> float:
    """Return the memory of this process in megabytes."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmRSS")
    )  # fmt: skip
    return int(line.split()[1]) / 1024


def make_world(engine: Engine) -> DemoWorld:
    """Create a few hundred users, and more videos than they can watch."""
    world = DemoWorld(
        viewer_count=300, video_count=3_000, beginning=datetime.now(UTC) - timedelta(days=90)
    )

    def fill(session: Session) -> None:
        upsert_users(session, list(world.users()))
        upsert_videos(session, list(world.videos()))
        apply_follows(session, list(world.follows()))

    run_transaction(engine, fill)
    return world


def clients(load: Load, seconds: float) -> list[Callable[[], None]]:
    """Return the functions that run concurrently."""
    minute = min(60, seconds / 6)
    return [
        *(partial(write, load, number) for number in range(WRITERS)),
        *(partial(scroll, load, number) for number in range(READERS)),
        partial(every, load, minute / 12, partial(refresh, load)),
        partial(every, load, minute, partial(prune, load)),
        partial(every, load, minute, partial(erase, load)),
        partial(every, load, seconds / 10, lambda: load.used.append(memory())),
    ]


def run(server: postgres.Server, load: Load, seconds: float) -> list[str]:
    """Run all clients, restart the server twice, and return the errors that ended a client."""
    started = time.monotonic()
    doing = clients(load, seconds)
    with ThreadPoolExecutor(len(doing)) as threads:
        running = [threads.submit(client) for client in doing]
        try:
            wait(running, started + seconds / 3)
            restart(server, "fast")
            wait(running, started + seconds * 2 / 3)
            restart(server, "immediate")
            wait(running, started + seconds)
        finally:
            load.stop.set()
    return [repr(each.exception()) for each in running if each.exception()]


def restart(server: postgres.Server, how: Literal["fast", "immediate"]) -> None:
    """Stop the server and start it again."""
    server.stop(how)
    server.start()


def wait(running: Iterable[Future[None]], until: float) -> None:
    """Wait until a time, or until a client ends early."""
    while (left := until - time.monotonic()) > 0 and not any(each.done() for each in running):
        time.sleep(min(1.0, left))


def soak(minutes: float, say: Callable[[str], None] = print) -> int:
    """Run the soak, print the results, and return the number of broken promises."""
    with (
        postgres.own_server(autovacuum="on", synchronous_commit="on") as server,
        tempfile.TemporaryDirectory(prefix="recommender-soak-") as folder,
    ):
        url = f"{server.url}/soak"
        with psycopg.connect(f"{server.url}/postgres", autocommit=True) as admin:
            admin.execute("CREATE DATABASE soak")
        migrations.upgrade(url)
        engine = recommender.create_engine(url)
        world = make_world(engine)
        durations = {str(row["id"]): int(str(row["duration_ms"])) for row in world.videos()}
        people = [world.viewer(number) for number in range(world.viewer_count)]
        load = Load(engine, Path(folder), durations, people, min(1.0, minutes))
        ended = run(server, load, minutes * 60)
        recommender.refresh(engine)
        counts = broken(engine, load.told, durations)
        for line in report(load, ended, counts):
            say(line)
        engine.dispose()
    return sum(map(bool, counts.values())) + len(ended)


def report(load: Load, ended: list[str], counts: Mapping[str, int]) -> Iterator[str]:
    """Yield the lines of the report."""
    people = Counter(each["user"] for each in told(load.told, "events"))
    pages = list(told(load.told, "pages"))
    erased = list(told(load.told, "erased"))
    pruned: Counter[str] = Counter()
    for each in told(load.told, "pruned"):
        pruned.update({name: each[name] for name in ("events", "sessions", "items")})
    with Session(load.engine) as session:
        there = session.scalar(sa.select(sa.func.count()).select_from(EventRow))
        audit = recommender.audit(session)
        findings = [each for each in recommender.diagnose(load.engine) if not each.ok]
    gone = sum(people[user] for user in erased)
    yield f"acknowledged events: {people.total():,}; rows now: {there:,}"
    yield f"erased: {len(erased)} people, of {gone:,} of the events; pruned: {dict(pruned)}"
    yield f"pages told: {len(pages):,}, places: {sum(len(page['videos']) for page in pages):,}"
    yield f"audited: {audit.sessions:,} sessions, {audit.items:,} places"
    yield f"errors: {dict(load.errors)}; of the driver, tried again: {dict(load.retried)}"
    yield "longest, in seconds: " + str({what: round(s, 2) for what, s in load.longest.items()})
    yield "memory, in MB, each tenth of the time: " + " ".join(f"{each:.0f}" for each in load.used)
    yield from (f"doctor: {each.check}: {each.found}" for each in findings)
    yield from (f"a client ended: {each}" for each in ended)
    for promise, count in counts.items():
        yield f"{count:>6}  {promise}"


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    return min(1, soak(parser.parse_args().minutes))


if __name__ == "__main__":
    sys.exit(main())
