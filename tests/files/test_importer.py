"""Files in, rows out: both formats, plain and gzip, and what a broken file is told."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender import (
    BadData,
    Event,
    InvalidValue,
    NotFound,
    NotPermitted,
    RecommenderError,
    Settings,
    create_space,
    import_file,
    run_transaction,
    upsert_users,
    upsert_videos,
)
from recommender.database import lookup
from recommender.files.batches import ROW_KINDS, parsed_rows, raise_first, read_file
from recommender.files.importer import ImportReport
from recommender.files.layout import Layout
from recommender.files.reader import MAX_ROW_CHARACTERS, read_rows
from recommender.formats import scalars
from recommender.formats.rows import USER_COLUMNS
from recommender.formats.text import read_caption
from recommender.models import User, tables
from recommender.models.tables import VIDEO_HASHTAGS, VIDEOS
from recommender.models.types import Base
from recommender.operations.users import show_user
from tests.support.kinds import only_sqlite, slow_on_postgresql
from tests.support.worlds import (
    EXAMPLE,
    NOON,
    at,
    make_user,
    make_video,
    make_videos,
    preview,
    rows_of,
)

EXAMPLES = int(os.environ.get("RECOMMENDER_TEST_EXAMPLES", "300"))
"""How many arbitrary files each parser is given."""

DATA = Path(__file__).parents[3] / "shared" / "data"
USERS = b"id,language\nu1,en\nu2,es\n"
EVENT = "e1,u1,v1,like,2026-01-01T12:00:00Z"
WATCH = b'{"id":"e","user":"u","video":"v","kind":"watch","at":"2026-01-01T12:00:00Z",%b}'


def rows(kind: str, data: bytes) -> list[tuple[int, Any]]:
    """Every row of a file, parsed, with its line."""
    return list(parsed(kind, io.BytesIO(data)))


def parsed(kind: str, binary: Any) -> Iterator[tuple[int, Any]]:
    """The rows up to the first bad one, which is raised as an import that stops raises it."""
    for entry in parsed_rows(ROW_KINDS[kind], binary):
        raise_first([(entry, entry.error)] if entry.error else [])
        yield entry.line, entry.parsed


def read_until_broken(kind: str, binary: Any) -> tuple[list[int], BadData]:
    """The lines of the rows before the error, and the error."""
    lines: list[int] = []
    with pytest.raises(BadData) as caught:  # noqa: PT012 - the rows before it count
        for number, _row in parsed(kind, binary):
            lines.append(number)
    return lines, caught.value


def plain(data: bytes) -> bytes:
    return data


def keys_in(engine: Engine) -> list[str]:
    with Session(engine) as session:
        return sorted(session.scalars(User.__table__.select().with_only_columns(User.key)))


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., str]:
    """Makes a file of some bytes and gives its path."""

    def make(data: bytes, name: str = "file") -> str:
        path = tmp_path / name
        path.write_bytes(data)
        return str(path)

    return make


VIDEO_CSV = (
    "id,creator,caption,hashtags,duration_ms,published_at,sound\n"
    'v1,c1,"He said ""hi"", twice",a|#B|a,1500,2026-01-01T12:00:00Z,\n'
    "v2,c1,,,,2026-01-01T14:05:00+02:00,s1\n"
)
VIDEO_JSON = (
    '{"id": "v1", "creator": "c1", "caption": "He said \\"hi\\", twice", "hashtags": ["a", "#B"],'
    ' "duration_ms": 1500, "published_at": "2026-01-01T12:00:00Z", "sound": null}\n'
    '{"sound": "s1", "published_at": "2026-01-01T14:05:00+02:00", "creator": "c1", "id": "v2",'
    ' "caption": "", "hashtags": [], "duration_ms": null}\n'
)
VIDEO_ROWS = [
    {
        "id": "v1", "creator": "c1", "caption": read_caption('He said "hi", twice'),
        "hashtags": ("a", "b"), "duration_ms": 1500, "published_at": NOON, "sound": None,
    },
    {
        "id": "v2", "creator": "c1", "caption": None, "hashtags": (), "duration_ms": None,
        "published_at": at(5), "sound": "s1",
    },
]  # fmt: skip


@pytest.mark.parametrize(("rows", "is_refused"), [(40, False), (60, True)])
def test_gzip_that_expands_absurdly_is_refused(rows: int, *, is_refused: bool) -> None:
    packed = gzip.compress((json.dumps({"id": "a" * 999_900}) + "\n").encode() * rows)
    read = read_rows(Layout(USER_COLUMNS), io.BytesIO(packed))
    if is_refused:
        with pytest.raises(BadData, match=r"gzip data is broken: it expands more than 200 times"):
            list(read)
    else:
        assert len(list(read)) == rows


@pytest.mark.parametrize("pack", [plain, gzip.compress])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize(("text", "first"), [(VIDEO_CSV, 2), (VIDEO_JSON, 1)])
def test_a_row_means_the_same_in_every_form(
    pack: Callable[[bytes], bytes], mark: str, text: str, first: int
) -> None:
    data = pack((mark + text).encode())
    assert rows("videos", data) == list(enumerate(VIDEO_ROWS, start=first))
    assert rows("videos", data.rstrip(b"\n") if pack is plain else data) == rows("videos", data)


@only_sqlite
@pytest.mark.parametrize("name", ["users.csv", "users.jsonl.gz", "x"])
@pytest.mark.parametrize("pack", [plain, gzip.compress])
@pytest.mark.parametrize("text", [b"id\na\nb\n", b'{"id": "a"}\n{"id": "b"}'])
def test_the_content_tells_the_format_and_never_the_name(
    engine: Engine,
    file: Callable[..., str],
    name: str,
    pack: Callable[[bytes], bytes],
    text: bytes,
) -> None:
    assert import_file(engine, "users", file(pack(text), name)).inserted == 2
    assert keys_in(engine) == ["a", "b"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"id,language\r\na,en\r\nb,es\r\n", [(2, "a", "en"), (3, "b", "es")]),
        (b"id,language\n\n\na,en\n\nb,es\n\n", [(4, "a", "en"), (6, "b", "es")]),
        (b"id,language\r\n\r\na,en\r\n\r\nb,es", [(3, "a", "en"), (5, "b", "es")]),
        (b'id,language\n"a\nb",en\nc,es\n', [(2, "a\nb", "en"), (4, "c", "es")]),
        (b'id,language\n"a\r\n\r\nb",en\n\nc,es\n', [(2, "a\r\n\r\nb", "en"), (6, "c", "es")]),
        (b'"id","language"\n"a","e""n"\n', [(2, "a", 'e"n')]),
        (b'"id",language\n" a, b ",en\n', [(2, " a, b ", "en")]),
        (b"id,language\na,e'n\n", [(2, "a", "e'n")]),
        (b"id,language\ra,en\rb,es\r", [(2, "a", "en"), (3, "b", "es")]),
    ],
)
def test_a_row_of_csv_has_the_number_of_its_first_line(
    data: bytes, expected: list[tuple[int, str, str]]
) -> None:
    read = [(number, row["id"], row["language"]) for number, row in rows("users", data)]
    assert read == expected


def test_a_header_that_is_wrong_is_line_1() -> None:
    _lines, error = read_until_broken("users", io.BytesIO(b'id,"langu\nage"\na,en\n'))
    assert str(error).startswith("line 1: unknown column 'langu\\nage'")


def test_blank_lines_of_json_are_skipped_and_counted() -> None:
    data = b'{"id": "a"}\n\n  \r\n{"id": "b"}\r\n\n{"id": "c"}'
    assert rows("users", data) == [(1, {"id": "a"}), (4, {"id": "b"}), (6, {"id": "c"})]


def test_rows_of_json_may_have_different_columns() -> None:
    data = b' {"id": "a", "language": "en"}\n{"country": null, "id": "b"}\n'
    assert rows("users", data) == [
        (1, {"id": "a", "language": "en"}), (2, {"id": "b", "country": None}),
    ]  # fmt: skip


@pytest.mark.parametrize("text", [b"id,user,video,kind,at\n", b"id\n"])
def test_a_header_alone_is_no_rows(text: bytes) -> None:
    assert rows("events" if b"user" in text else "users", text) == []


BROKEN: dict[str, tuple[str, bytes, int, str]] = {
    "empty": ("users", b"", 1, "there is no header"),
    "only a mark": ("users", b"\xef\xbb\xbf", 1, "there is no header"),
    "an empty gzip": ("users", gzip.compress(b""), 1, "there is no header"),
    "a header after a blank line": ("users", b"\n \nid,id\na,a\n", 3, "column 'id' stands"),
    "a row after blank lines": ("users", b"\n\n{}\n", 3, "column id is missing"),
    "latin-1": ("users", b"id\n" + b"a\n" * 20 + "caf\u00e9\n".encode("latin-1"), 22, "not UTF-8"),
    "latin-1 header": ("users", b"id,\xe9\n", 1, "not UTF-8"),
    "latin-1 json": ("users", b'{"id": "a"}\n{"id": "\xe9"}\n', 2, "not UTF-8"),
    "a surrogate": ("users", b"id\na\n\xed\xa0\x80\n", 3, "not UTF-8"),
    "cut in a character": ("users", b"id\na\n\xf0\x9f\x98", 3, "not UTF-8"),

    "truncated gzip": ("users", gzip.compress(USERS)[:-12], 3, "the gzip data is broken"),
    "gzip magic alone": ("users", b"\x1f\x8b", 1, "the gzip data is broken"),
    "not really gzip": ("users", b"\x1f\x8bid\na\n", 1, "the gzip data is broken"),
    "wrong checksum": (
        "users", gzip.compress(USERS)[:-8] + b"\0" * 8, 4, "the gzip data is broken",
    ),
    "rubbish behind gzip": ("users", gzip.compress(USERS) + b"x", 4, "the gzip data is broken"),

    "few cells": ("users", b"id,language\na,en\nb\n", 3, "1 cells under 2 columns"),
    "many cells": ("users", b"id,language\na,en\nb,en,US\n", 3, "3 cells under 2 columns"),

    "twice in the header": ("users", b"id,language,id\na,en,b\n", 1, "column 'id' stands there tw"),
    "unknown column": ("users", b"id,age\na,5\n", 1, "unknown column 'age': there are id, lang"),
    "missing column": ("users", b"language\nen\n", 1, "column id is missing"),
    "no name": ("users", b"id,\na,5\n", 1, "unknown column ''"),
    "unknown json column": ("users", b'{"id": "a"}\n{"id": "b", "age": 5}', 2, "unknown column"),
    "missing json column": ("users", b'{"id": "a"}\n{"age": 5}', 2, "unknown column 'age'"),
    "empty json": ("users", b"{}\n", 1, "column id is missing"),
    "broken last line": ("users", b'{"id": "a"}\n{"id": "b', 2, "not JSON"),
    "two on a line": ("users", b'{"id": "a"} {"id": "b"}\n', 1, "not JSON"),
    "single quotes": ("users", b"{'id': 'a'}\n", 1, "not JSON"),
    "an array": ("users", b'{"id": "a"}\n["b"]\n', 2, "not a JSON object"),
    "a number": ("users", b'{"id": "a"}\n5\n', 2, "not a JSON object"),
    "null": ("users", b'{"id": "a"}\nnull\n', 2, "not a JSON object"),

    "csv behind json": ("users", b'{"id": "a"}\nid\nb\n', 2, "not JSON"),
    "deep": ("users", b'{"id": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", 1, "not JSON"),
    "deep objects": ("users", b'{"id": "a"}\n' + b'{"id":' * 100_000, 2, "not JSON"),
    "many digits": ("users", b'{"id": ' + b"9" * 10_000 + b"}\n", 1, "not JSON"),
    "a number as key": ("users", b'{"id": 5.5}\n', 1, "id: 5.5 is not text"),
    "a text as list": ("users", b'{"id": "a", "interests": "b|c"}', 1, "interests: 'b|c' is not a"),
    "an object as list": ("users", b'{"id": "a", "interests": {"b": 1}}', 1, "interests: {'b': 1}"),
    "an escaped surrogate": ("users", b'{"id": "\\ud800"}\n', 1, "id: has the character U+D800"),
    "an escaped nul": ("users", b'{"id": "\\u0000"}\n', 1, "id: has the character U+0000"),
    "nul": ("users", b"id\na\nb\0\n", 3, "id: has the character U+0000"),
    "unclosed quote": ("users", b'id\na\n"b\nc\nd\n', 3, "not CSV: unexpected end of data"),
    "text behind a quote": ("users", b'id\na\n"b\nc"d\n', 3, "not CSV: "),
    "an empty key": ("users", b'id\na\n""\n', 3, "id: is required and empty"),
    "a long key": ("users", b"id\n" + b"a" * 256, 2, "id: is 256 characters long"),
    "an empty list part": ("users", b"id,interests\na,b||c\n", 2, "interests: '' is an empty hash"),
    "a long cell": ("users", b"id\n" + b"a" * 200_000, 2, "not CSV: field larger than field limit"),
    "a long line": ("users", b"id\n" + b"a" * (MAX_ROW_CHARACTERS + 1), 2, "longer than 1,000,000"),
    "a long header": ("users", b"a" * (MAX_ROW_CHARACTERS + 1), 1, "longer than 1,000,000 ch"),
    "a long json line": (
        "users", b'{"id": "a"}\n{"id": "' + b"b" * MAX_ROW_CHARACTERS + b'"}', 2, "longer than 1,0",
    ),
    "a long row of short lines": (
        "users", b'id\na\n"' + b'","\n' * (MAX_ROW_CHARACTERS // 4) + b'"', 3, "longer than 1,000,",
    ),
    "nan": ("events", WATCH % b'"completion": NaN', 1, "not JSON: NaN is no number in JSON"),
    "infinity": ("events", WATCH % b'"watch_ms": -Infinity', 1, "not JSON: -Infinity is"),
    "an unknown kind of event": (
        "events", f"id,user,video,kind,at\n{EVENT.replace('like', 'love')}\n".encode(), 2,
        "kind: 'love' is not one of impression, watch",
    ),
    "a time without offset": (
        "follows", b"user,creator,at\nu,c,2026-01-01T12:00:00\n", 2, "at: '2026-01-01T12:00:00' h",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_read_is_bad_data_with_its_line(case: str) -> None:
    kind, data, line, reason = BROKEN[case]
    lines, error = read_until_broken(kind, io.BytesIO(data))
    assert str(error).startswith(f"line {line}: {reason}")
    assert error.exit_code == 65
    assert [number for number in lines if number >= line] == []


def test_lists_nested_to_any_depth_are_bad_data() -> None:
    for depth in range(1, 1200):
        data = b'{"id": "a", "interests": ' + b"[" * depth + b"]" * depth + b"}"
        if depth == 1:
            assert rows("users", data) == [(1, {"id": "a", "interests": ()})]
        else:
            assert str(read_until_broken("users", io.BytesIO(data))[1]).startswith("line 1: ")


class Endless(io.RawIOBase):
    """A stream of pieces that never ends."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            self._left = next(self._pieces)
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size


def compressed(pieces: Iterator[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(wbits=31)
    for piece in pieces:
        yield packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH)


def without_end(first: bytes, again: bytes) -> Iterator[bytes]:
    """More pieces than a reader with a limit ever asks for."""
    yield first
    yield from itertools.repeat(again, 10_000)  # Python 3.13 reads 128 KiB of gzip ahead
    pytest.fail("read on and on")


PACKINGS: list[Callable[[Iterator[bytes]], Iterator[bytes]]] = [iter, compressed]


@pytest.mark.parametrize("pack", PACKINGS)
@pytest.mark.parametrize(
    ("beginning", "again", "line"),
    [
        (b"", b"a" * 65_536, 1),
        (b"id\n", b"a" * 65_536, 2),
        (b'{"id": "a"}\n{"id": "', b"b" * 65_536, 2),
        (b"id\na\n", b"," * 65_536, 3),
        (b'id\na\n"', b'","\n' * 16_384, 3),
    ],
)
def test_a_line_or_row_without_end_is_bad_data(
    pack: Callable[[Iterator[bytes]], Iterator[bytes]], beginning: bytes, again: bytes, line: int
) -> None:
    stream = Endless(pack(without_end(beginning or again, again)))
    _lines, error = read_until_broken("users", stream)
    assert str(error).startswith(f"line {line}: longer than 1,000,000 characters")


@pytest.mark.parametrize("pack", PACKINGS)
@pytest.mark.parametrize(
    ("header", "row"), [(b"id\n", b"u%d\n"), (b"", b'{"id": "u%d"}\n')], ids=["csv", "json"]
)
def test_a_stream_without_end_is_read_row_by_row(
    pack: Callable[[Iterator[bytes]], Iterator[bytes]], header: bytes, row: bytes
) -> None:
    pieces = (header * (n == 0) + row % n for n in itertools.count())
    read = read_rows(Layout(USER_COLUMNS), Endless(pack(pieces)))
    first = [each.row["id"] for each in itertools.islice(read, 20_000)]
    read.close()
    assert first == [f"u{n}" for n in range(20_000)]


def test_rows_may_be_left_unread_when_the_file_is_closed(file: Callable[..., str]) -> None:
    with Path(file(USERS)).open("rb") as binary:
        read = read_rows(Layout(USER_COLUMNS), binary)
        assert next(iter(read))[:2] == (2, {"id": "u1", "language": "en"})
    read.close()
    assert list(read) == []


def test_the_stream_stays_open_for_its_owner(file: Callable[..., str]) -> None:
    with Path(file(USERS)).open("rb") as binary:
        assert len(list(read_rows(Layout(USER_COLUMNS), binary))) == 2
        assert not binary.closed


def test_the_example_is_imported_and_importing_it_again_changes_nothing(engine: Engine) -> None:
    sizes = {"users": 1, "videos": 3, "follows": 1, "events": 4}
    for inserted, unchanged in ((1, 0), (0, 1)):
        for kind, size in sizes.items():
            path = str(EXAMPLE / f"{kind}.csv")
            report = import_file(engine, kind, path).as_dict()
            assert report.pop("seconds") >= 0
            assert report == {
                "kind": kind, "file": path, "read": size, "inserted": inserted * size,
                "updated": 0, "unchanged": unchanged * size, "too_old": 0,
                "rejected": 0, "cut_times": 0,
            }  # fmt: skip
    with Session(engine) as session:
        page = preview(session, "user1", profile="classic")
    assert [(item.video, item.score) for item in page.items] == [
        ("v1", 1.45), ("v2", 0.8), ("v3", 0.0),
    ]  # fmt: skip


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5000])
def test_a_report_counts_over_all_batches(
    engine: Engine, file: Callable[..., str], batch_size: int
) -> None:
    def imported(data: bytes) -> ImportReport:
        path = file(data)
        return import_file(engine, "users", path, settings=Settings(batch_size=batch_size))

    first = imported(b"id,language\na,en\nb,en\nc,en\nd,en\n")
    second = imported(b"id,language\na,en\nb,es\nc,en\ne,en\nd,es\n")
    assert (first.read, first.inserted, first.updated, first.unchanged) == (4, 4, 0, 0)
    assert (second.read, second.inserted, second.updated, second.unchanged) == (5, 1, 2, 2)


def test_creators_that_are_numbered_like_users_get_a_prefix(
    engine: Engine, file: Callable[..., str]
) -> None:
    import_file(engine, "users", file(b"id\n1\n2\n"))
    video = b'{"id": "v", "creator": 1, "published_at": "2026-01-01T00:00:00Z"}'
    videos = file(video)
    report = import_file(engine, "videos", videos, creator_prefix="channel-")
    again = import_file(engine, "videos", videos, creator_prefix="channel-")
    follows = import_file(
        engine, "follows", file(b"user,creator\n2,1\n"), creator_prefix="channel-"
    )
    mutes = import_file(
        engine, "mutes", file(b"user,kind,value\n2,creator,1\n2,hashtag,1\n"),
        creator_prefix="channel-",
    )  # fmt: skip
    assert (report.inserted, again.unchanged, follows.inserted) == (1, 1, 1)
    assert mutes.inserted == 2
    assert keys_in(engine) == ["1", "2", "channel-1"]
    with Session(engine) as session:
        assert [show_user(session, key).videos for key in ("1", "channel-1")] == [0, 1]
        muted = show_user(session, "2")
        assert (muted.muted_creators, muted.muted_hashtags) == (("channel-1",), ("1",))
    with pytest.raises(InvalidValue, match="creator_prefix: only videos, follows and mutes name"):
        import_file(engine, "events", videos, creator_prefix="channel-")
    with pytest.raises(InvalidValue, match="creator_prefix: is empty"):
        import_file(engine, "videos", videos, creator_prefix="")
    with pytest.raises(BadData, match=r"line 1: creator: .* 255"):
        import_file(engine, "videos", file(video), creator_prefix="c" * 255)
    mute = file(b"user,kind,value\n2,creator,1\n")
    with pytest.raises(BadData, match=r"line 2: value: .* 255"):
        import_file(engine, "mutes", mute, creator_prefix="c" * 255)


@pytest.mark.parametrize(
    ("most", "sizes"),
    [
        (400, [400] * 13),
        (1_000, [1_000] * 5 + [200]),
        (1_500, [1_000, 1_500, 1_500, 1_200]),
        (5_000, [1_000, 2_000, 2_200]),
    ],
)
def test_batches_grow_from_a_first_that_is_soon_read(
    file: Callable[..., str], most: int, sizes: list[int]
) -> None:
    path = file(b"id\n" + b"".join(b"u%d\n" % number for number in range(5_200)))
    read = [batch.rows for batch in read_file("users", path, most)]
    assert [len(batch) for batch in read] == sizes
    keys = [entry.parsed["id"] for batch in read for entry in batch if entry.parsed]
    assert keys == [f"u{number}" for number in range(5_200)]


def test_good_rows_are_kept_unparsed_only_for_a_file_of_errors() -> None:
    kept = {}
    for keeps in (False, True):
        kind = replace(ROW_KINDS["users"], keeps_rows=keeps)
        kept[keeps] = [row.row for row in parsed_rows(kind, io.BytesIO(b"id\nu1\nb\0d\n"))]
    assert kept == {False: [None, {"id": "b\0d"}], True: [{"id": "u1"}, {"id": "b\0d"}]}


def test_only_the_batches_before_a_bad_row_are_in(engine: Engine, file: Callable[..., str]) -> None:
    good = [b"u%d" % n for n in range(1, 11)]
    bad = [*good[:7], b"b\0d", *good[7:]]
    path = file(b"id\n" + b"\n".join(bad))
    with pytest.raises(BadData) as caught:
        import_file(engine, "users", path, settings=Settings(batch_size=3))
    assert str(caught.value) == (
        f"{path}: line 9: id: has the character U+0000, which no database stores;"
        " lines 1 to 7 are in"
    )
    assert keys_in(engine) == ["u1", "u2", "u3", "u4", "u5", "u6"]
    mended = import_file(engine, "users", file(b"id\n" + b"\n".join(good)))
    assert (mended.inserted, mended.unchanged) == (4, 6)


def test_a_bad_row_of_the_first_batch_leaves_nothing(
    engine: Engine, file: Callable[..., str]
) -> None:
    path = file(b"id\na\nb\n\n\0\nc\n\0\n")
    with pytest.raises(BadData, match=r": line 5: id: .*; nothing was imported$"):
        import_file(engine, "users", path)
    assert keys_in(engine) == []


@pytest.mark.parametrize(
    ("kind", "good", "bad", "message"),
    [
        ("follows", "u1,c1,", "u9,c1,", "line 4: user: there is no user 'u9'"),
        ("events", EVENT, EVENT.replace("u1", "u9"), "line 4: there is no user 'u9'"),
        ("events", EVENT, EVENT.replace("v1", "v9"), "line 4: there is no video 'v9'"),
        ("events", EVENT, EVENT.replace("like", "save"), "line 4: event 'e1' of user 'u1' was re"),
    ],
)
def test_what_a_row_refers_to_must_be_there(
    engine: Engine, file: Callable[..., str], kind: str, good: str, bad: str, message: str
) -> None:
    def prepare(session: Session) -> None:
        upsert_users(session, [{"id": "u1"}])
        upsert_videos(session, [{"id": "v1", "creator": "c1", "published_at": NOON}])

    run_transaction(engine, prepare)
    header = {"follows": "user,creator,at", "events": "id,user,video,kind,at"}[kind]
    path = file("\n".join([header, good, good, bad, bad]).encode())
    with pytest.raises(BadData) as caught:
        import_file(engine, kind, path, settings=Settings(batch_size=2))
    assert str(caught.value).startswith(f"{path}: {message}")
    assert str(caught.value).endswith("; lines 1 to 3 are in")
    assert caught.value.exit_code == 65
    again = file("\n".join([header, good]).encode())
    assert import_file(engine, kind, again).unchanged == 1


def test_videos_are_taken_down_by_a_file_of_ids_and_status(
    engine: Engine, file: Callable[..., str]
) -> None:
    run_transaction(engine, lambda s: make_videos(s, "v", "w", "x", creator="c", hashtags=["a"]))
    taken_down = file(b"id,status\nv,removed\nw,review\nnew,removed\n")
    report = import_file(engine, "videos", taken_down)
    assert (report.inserted, report.updated, report.rejected) == (1, 2, 0)
    with Session(engine) as session:
        rows = rows_of(session, VIDEOS, "key", "status")
        listed = rows_of(session, VIDEO_HASHTAGS, "video_id", "listed_at")
    assert rows == [("new", "removed"), ("v", "removed"), ("w", "review"), ("x", "published")]
    assert [at is None for _, at in listed].count(True) == 2


@only_sqlite
@pytest.mark.parametrize("pack", [plain, gzip.compress])
def test_a_dash_is_standard_input(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, pack: Callable[[bytes], bytes]
) -> None:
    stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(pack(USERS))))
    monkeypatch.setattr(sys, "stdin", stdin)
    report = import_file(engine, "users", "-")
    assert (report.file, report.inserted) == ("-", 2)
    assert keys_in(engine) == ["u1", "u2"]
    assert not stdin.closed


@only_sqlite
@pytest.mark.parametrize("name", ["missing.csv", ".", "file/inside", "a\0b", "x" * 300])
def test_a_file_that_is_not_there_is_not_found(
    engine: Engine, file: Callable[..., str], tmp_path: Path, name: str
) -> None:
    file(USERS)
    with pytest.raises(NotFound) as caught:
        import_file(engine, "users", f"{tmp_path}/{name}")
    assert caught.value.exit_code == 66


def test_a_file_that_may_not_be_read_is_not_permitted(
    engine: Engine, file: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError

    path = file(USERS)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(NotPermitted, match="may not be read") as caught:
        import_file(engine, "users", path)
    assert caught.value.exit_code == 77


@only_sqlite
@pytest.mark.parametrize("kind_of_row", ["", "Users", "sounds"])
def test_an_unknown_kind_of_row_is_refused(engine: Engine, kind_of_row: str) -> None:
    with pytest.raises(
        InvalidValue,
        match="is not one of users, videos, follows, mutes, blocks, events, candidates",
    ):
        import_file(engine, kind_of_row, "-")


TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
GOOD: dict[str, list[str]] = {
    "id": ["a", "b"],
    "user": ["u"],
    "video": ["v"],
    "creator": ["c"],
    "other": ["o"],
    "kind": [*scalars.EVENT_KINDS, *scalars.MUTE_KINDS * 3],
    "value": ["x y"],
    "source": ["model"],
    "space": ["captions"],
    "vector": ["[1, 2]"],
    "score": ["0.5", "1"],
    "at": ["2026-01-01T12:00:00Z", "2026-01-01T12:00:00+02:00"],
    "published_at": ["2026-01-01T12:00:00Z"],
}
CELL = st.one_of(
    TEXT,
    st.sampled_from([
        "", "0", "0.5", "-1", "1e400", "nan", "9" * 5000, "a|b", "|", "#", '"', '"a\nb"', "a,b",
        "2026-01-01T12:00:00Z", "2026-13-01T00:00:00Z", "published", "portrait",
    ]),
)  # fmt: skip
JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        CELL,
        st.sampled_from([2**63, 1e308, [], {}]),
    ),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=4)
        | st.dictionaries(TEXT, inner, min_size=1, max_size=3)
    ),
    max_leaves=5,
)


def some_columns(kind: str) -> st.SearchStrategy[list[str]]:
    columns = ROW_KINDS[kind].columns
    required = [name for name in columns if columns[name].required]
    others = [name for name in columns if name not in required]
    one = st.sampled_from(others) if others else st.nothing()
    chosen = st.lists(one, unique=True, max_size=min(3, len(others)))
    return chosen.map(lambda optional: [*required, *optional]).flatmap(st.permutations)


@st.composite
def some_row(draw: st.DrawFn, names: list[str], other: st.SearchStrategy[Any]) -> list[Any]:
    """A good row, in half of the cases, or one with anything in some columns."""
    good = [st.sampled_from(GOOD.get(name, [""])) for name in names]
    some = st.sets(st.sampled_from(range(len(names))), max_size=3)
    odd = draw(st.one_of(st.just(set[int]()), some))
    return [draw(other if place in odd else each) for place, each in enumerate(good)]


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@st.composite
def csv_files(draw: st.DrawFn, kind: str) -> bytes:
    """A good header, rows written well or badly, and anything at all behind them."""
    header = draw(some_columns(kind))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(header)
    for _ in range(draw(st.integers(0, 3))):
        cells = draw(some_row(header, CELL))
        if draw(st.booleans()):
            writer.writerow(cells)
        else:
            text.write(",".join(cells) + "\n")
    return encoded(text.getvalue() + draw(st.one_of(st.just(""), TEXT)))


@st.composite
def json_files(draw: st.DrawFn, kind: str) -> bytes:
    """Good objects with any values, then perhaps any value, then perhaps any text."""
    lines = []
    for _ in range(draw(st.integers(1, 3))):
        names = draw(some_columns(kind))
        row = dict(zip(names, draw(some_row(names, JSON)), strict=True))
        if row.get("vector") in GOOD["vector"]:
            row["vector"] = json.loads(row["vector"])
        lines.append(json.dumps(row, ensure_ascii=draw(st.booleans())))
    lines += draw(st.lists(JSON.map(json.dumps), max_size=1))
    return encoded("\n".join([*lines, draw(st.one_of(st.just(""), TEXT))]))


def any_files(kind: str) -> st.SearchStrategy[bytes]:
    """Any bytes, with or without a beginning that leads further in."""
    header = ",".join(ROW_KINDS[kind].columns).encode() + b"\n"
    json_beginnings = (b"{", b'{"id":', b"[", b'[{"id":')
    beginnings = st.sampled_from([b"", header, *json_beginnings, b"\xef\xbb\xbf", b"\x1f\x8b\x08"])
    return st.tuples(beginnings, st.binary(max_size=200)).map(b"".join)


QUICK_FORMS = {(any_files, "users"), (csv_files, "follows"), (json_files, "follows")}


@pytest.mark.parametrize(
    ("form", "kind_of_row"),
    [
        pytest.param(form, kind, marks=[] if (form, kind) in QUICK_FORMS else pytest.mark.slow)
        for form in (any_files, csv_files, json_files)
        for kind in ROW_KINDS
    ],
)
def test_any_file_is_rows_or_an_error_of_ours(
    kind_of_row: str, form: Callable[[str], st.SearchStrategy[bytes]]
) -> None:
    outcomes: set[str] = set()
    packed = st.tuples(form(kind_of_row), st.sampled_from([plain, plain, gzip.compress]))

    @settings(max_examples=EXAMPLES)
    @given(packed, st.one_of(st.none(), st.integers(0, 40)))
    def read(given_file: tuple[bytes, Callable[[bytes], bytes]], cut: int | None) -> None:
        data, pack = given_file
        try:
            for _, row in rows(kind_of_row, pack(data)[: cut and -cut]):
                outcomes.add("row")
                assert isinstance(row, dict | Event)
        except RecommenderError:
            outcomes.add("error")

    read()
    assert outcomes >= ({"error"} if form is any_files else {"row", "error"})


REAL = [
    ("kuairand", "users", "users"), ("kuairand", "videos", "videos"),
    ("kuairand", "follows", "follows"), ("kuairand", "events", "events"),
    ("kuairand", "history", "events"), ("tiktok", "users", "users"),
    ("tiktok", "videos", "videos"), ("tiktok", "follows", "follows"),
    ("tiktok", "events", "events"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "name", "kind_of_row"),
    [pytest.param(*file, marks=[] if file[1] == "follows" else pytest.mark.slow) for file in REAL],
)
def test_real_data_is_read_completely(source: str, name: str, kind_of_row: str) -> None:
    folder = DATA / source
    path = folder / f"{name}.csv.gz"
    if not path.exists():
        pytest.skip("the real data is not beside this checkout")
    readme = (folder / "README.md").read_text("utf-8")
    listed = re.search(rf"^\| {name}\.csv\.gz \| ([\d,]+) \|", readme, re.MULTILINE)
    assert listed
    with path.open("rb") as binary:
        read = sum(1 for _ in parsed(kind_of_row, binary))
    assert read == int(listed[1].replace(",", ""))


BAD_EVENTS = b"""id,user,video,kind,at,completion
e1,u1,v1,like,2026-01-01T12:00:00Z,
e2,nobody,v1,like,2026-01-01T12:00:00Z,
e3,u1,v1,watch,2026-01-01T12:00:00Z,1.5
e4,u1,v1,like
e1,u1,v1,share,2026-01-01T12:00:00Z,
e5,u1,v1,like,2026-01-01T12:00:01Z,
"""


@pytest.fixture
def viewer(engine: Engine) -> Engine:
    def write(session: Session) -> None:
        make_user(session, "u1")
        make_video(session, "v1")

    run_transaction(engine, write)
    return engine


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_bad_rows_can_be_skipped_and_kept_with_their_reasons(
    viewer: Engine, file: Callable[..., str], tmp_path: Path, batch_size: int
) -> None:
    kept = tmp_path / "bad.jsonl"
    report = import_file(
        viewer, "events", file(BAD_EVENTS), on_error="skip", errors=str(kept),
        settings=Settings(batch_size=batch_size),
    )  # fmt: skip
    assert (report.read, report.inserted, report.unchanged, report.rejected) == (6, 2, 0, 4)
    bad = [json.loads(line) for line in kept.read_text("utf-8").splitlines()]
    assert [(row["line"], row["error"].split(",")[0]) for row in bad] == [
        (3, "there is no user 'nobody'"),
        (4, "completion: '1.5' is not between 0 and 1"),
        (5, "4 cells under 6 columns"),
        (6, "event 'e1' of user 'u1' was recorded before as like of 'v1' 2026-01-01T12:00:00Z"),
    ]
    assert [row["row"] for row in bad][2] == ["e4", "u1", "v1", "like"]
    assert kept.stat().st_mode & 0o777 == 0o600


def test_what_was_skipped_can_be_mended_and_imported(
    viewer: Engine, file: Callable[..., str], tmp_path: Path
) -> None:
    kept = tmp_path / "bad.jsonl"
    import_file(viewer, "events", file(BAD_EVENTS), on_error="skip", errors=str(kept))
    rows = [json.loads(line)["row"] for line in kept.read_text("utf-8").splitlines()]
    whole = [row for row in rows if isinstance(row, dict)]
    mended = [{**row, "id": f"m{row['id']}", "user": "u1", "completion": ""} for row in whole]
    lines = "\n".join(map(json.dumps, mended)).encode()
    assert import_file(viewer, "events", file(lines)).inserted == 3


@slow_on_postgresql
@pytest.mark.parametrize("kind_of_row", ROW_KINDS)
def test_a_dry_run_tells_the_same_and_keeps_nothing(
    viewer: Engine, file: Callable[..., str], kind_of_row: str
) -> None:
    rows = {
        "users": b"id\nu1\nu2\n",
        "videos": b"id,creator,published_at\nv2,u1,2026-01-01T00:00:00Z\n",
        "follows": b"user,creator\nu1,star\n",
        "mutes": b"user,kind,value\nu1,creator,star\n",
        "blocks": b"user,other\nu1,star\n",
        "candidates": b"source,user,video,score\nmodel,u1,v1,0.5\n",
        "embeddings": b'space,id,vector\ncaptions,v1,"[1, 2]"\n',
        "events": f"id,user,video,kind,at\n{EVENT}\n".encode(),
    }
    create_space(viewer, "captions", dim=2)
    path = file(rows[kind_of_row])
    with Session(viewer) as session:
        before = {table.name: rows_of(session, table) for table in Base.metadata.sorted_tables}
    dry = import_file(viewer, kind_of_row, path, dry_run=True)
    with Session(viewer) as session:
        after = {table.name: rows_of(session, table) for table in Base.metadata.sorted_tables}
    assert after == before
    real = import_file(viewer, kind_of_row, path)
    assert replace(dry, seconds=0) == replace(real, seconds=0)
    assert real.inserted == 1


def test_progress_is_told_after_each_batch(engine: Engine, file: Callable[..., str]) -> None:
    told: list[tuple[int, int]] = []
    text = b"id\n" + b"".join(b"u%d\n" % number for number in range(7))
    import_file(
        engine, "users", file(text), progress=lambda rows, at: told.append((rows, at)),
        settings=Settings(batch_size=3),
    )  # fmt: skip
    assert [rows for rows, _ in told] == [3, 3, 1]
    assert told[-1][1] == len(text)


def test_errors_that_cannot_be_written_stop_the_import_at_once(
    engine: Engine, file: Callable[..., str], tmp_path: Path
) -> None:
    with pytest.raises(NotPermitted, match="may not be written"):
        import_file(engine, "users", file(USERS), on_error="skip", errors=str(tmp_path))
    with Session(engine) as session:
        assert rows_of(session, User.__table__) == []  # type: ignore[arg-type]


def test_a_row_too_deep_to_be_written_again_is_skipped_all_the_same(
    engine: Engine, file: Callable[..., str], tmp_path: Path
) -> None:
    for depth in range(100, 1000, 100):
        kept = tmp_path / f"bad{depth}.jsonl"
        line = b'{"id": ' + b"[" * depth + b"]" * depth + b"}"
        report = import_file(engine, "users", file(line), on_error="skip", errors=str(kept))
        assert (report.rejected, json.loads(kept.read_text("utf-8"))["line"]) == (1, 1)


@slow_on_postgresql
def test_two_hundred_thousand_keys_are_looked_up_at_once(session: Session) -> None:
    make_user(session, "u77")
    keys = [f"u{number}" for number in range(200_000)]
    assert list(lookup.ids(session, tables.USERS, keys)) == ["u77"]


MEMORY = """
import re, sys
from pathlib import Path
from sqlalchemy import event
from recommender import Settings, create_engine, export_file, import_file

def keep_little(connection, _record):
    connection.execute("PRAGMA cache_size = -2000")

def most():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

engine, peaks = create_engine(sys.argv[1]), []
event.listen(engine, "connect", keep_little)
import_file(
    engine, "users", sys.argv[2], progress=lambda *_: peaks.append(most()),
    settings=Settings(batch_size=1000),
)
export_file(engine, "users", sys.argv[3])
print(len(peaks), peaks[2], peaks[-1], most())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read where Linux tells it")
@only_sqlite
def test_memory_does_not_grow_with_the_file(
    database: str, file: Callable[..., str], tmp_path: Path
) -> None:
    """Beyond what three batches take, a file of thirty takes at most 8 MB more.

    What SQLite keeps of its own file, which has a bound, is left out of it.
    """
    text = b"id\n" + b"".join(b"%0200d\n" % number for number in range(30_000))
    command = [sys.executable, "-c", MEMORY, database, file(text), str(tmp_path / "out.csv")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    batches, begun, imported, exported = map(int, done.stdout.split())
    assert batches == 30
    assert begun <= imported <= begun + 8_000
    assert exported <= imported + 8_000
