"""Files that other programs wrote: their delimiters, times, columns and words, by options."""

from __future__ import annotations

import gzip
import io
import json
import shlex
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from recommender import (
    BadData,
    FileFormat,
    InvalidValue,
    NotFound,
    Settings,
    cli,
    import_file,
)
from recommender.files.batches import ROW_KINDS, parsed_rows
from recommender.files.importer import ImportReport
from recommender.files.json_array import READ_CHARACTERS, JsonArray
from recommender.files.layout import Layout
from recommender.files.reader import MAX_ROW_CHARACTERS
from recommender.formats.rows import event_id
from tests.support.kinds import only_postgresql, only_sqlite
from tests.support.public_files import write_public_files
from tests.support.readme import READMES
from tests.support.worlds import NOON

DAY = timedelta(days=1)


def rows(kind: str, text: str | bytes, **options: Any) -> list[Any]:
    """Return the parsed rows of a file, and the message instead of a bad row."""
    data = text.encode() if isinstance(text, str) else text
    spec = ROW_KINDS[kind]
    layout = Layout(spec.columns, FileFormat(**options))
    try:
        read = list(parsed_rows(spec, io.BytesIO(data), layout=layout))
    except BadData as error:
        return [str(error)]
    return [str(row.error) if row.error else row.parsed for row in read]


def users(text: str | bytes, **options: Any) -> list[Any]:
    return rows("users", text, **options)


ANA = {"id": "ana", "language": "en", "interests": ("cats", "dogs")}


def test_delimiters_and_lists_are_found() -> None:
    expected = [ANA, {"id": "bo", "language": None, "interests": ()}]
    bo = {"id": "bo", "language": "", "interests": []}
    whole = json.dumps([{**ANA}, bo])
    files = {
        "id,language,interests\nana,en,cats|dogs\nbo,,\n": {},
        "id;language;interests\nana;en;cats|dogs\nbo;;\n": {},
        "id\tlanguage\tinterests\nana\ten\tcats|dogs\nbo\t\t\n": {},
        'id|language|interests\nana|en|"cats|dogs"\nbo||\n': {},
        "id|language|interests\nana|en|cats, dogs\nbo||\n": {"list_separator": ","},
        '"id";"language";"interests"\n"ana";"en";"cats|dogs"\n"bo";"";""\n': {},
        "\ufeffid;language;interests\r\nana;en;cats|dogs\r\nbo;;\r\n": {},
        'id,language,interests\nana,en,"[""cats"", ""dogs""]"\nbo,,[]\n': {},
        "id,language,interests\nana,en,cats;dogs\nbo,,\n": {"list_separator": ";"},
        "id~language~interests\nana~en~cats|dogs\nbo~~\n": {"delimiter": "~"},
        whole: {},
        f" \n{whole}\n ": {},
        f"\ufeff{json.dumps([ANA, bo], indent=2)}": {},
        f"[{json.dumps(ANA)},\n{json.dumps(bo)}\n]": {},
    }
    assert [users(text, **options) for text, options in files.items()] == [expected] * len(files)
    assert [users(gzip.compress(text.encode()), **options) for text, options in files.items()] == [
        expected
    ] * len(files)
    assert users("id|language|interests\nana|en|cats|dogs\n") == [
        "4 cells under 3 columns; quote lists, or give another --list-separator"
    ]
    assert users("id\nana\n") == [{"id": "ana"}]
    assert users("[]") == []
    odd = "id;language;a,b,c,d,e\nana;en;\n"
    assert users(odd, ignore_unknown=True) == [{"id": "ana", "language": "en"}]


def test_a_list_that_was_not_divided_is_refused() -> None:
    header = "id,interests\n"
    cells = ['"cats,dogs"', "\"['cats']\"", '"[""cats"""', "cats;dogs", "{cats}", '"""cats"""']
    found = users(header + "".join(f"u{n},{cell}\n" for n, cell in enumerate(cells)))
    marks = [" has a ,", " begins like a JSON list", " begins like a JSON list", " has a ;",
             " has a {", ' has a "']  # fmt: skip
    assert all(mark in message for mark, message in zip(marks, found, strict=True))
    assert all("cats" in message and '["' in message for message in found)
    assert users('[{"id": "a", "interests": ["a,b"]}]') == users(
        '{"id": "a", "interests": ["a,b"]}'
    )


def follows(text: str, **options: Any) -> list[Any]:
    found = rows("follows", f"user,creator,at\n{text}", **options)
    return [row if isinstance(row, str) else row["at"] for row in found]


def test_times_are_read_by_their_options() -> None:
    cases: list[tuple[str, dict[str, Any]]] = [
        ("2026-01-01 12:00:00+00", {}),
        ("2026-01-01 13:00:00", {"timezone": "Europe/Berlin"}),
        ("2026-01-01 12:00", {"timezone": "UTC"}),
        ("2026-01-01T12:00:00Z", {"timezone": "Asia/Tokyo"}),
        ("1767268800", {"time_unit": "s"}),
        ("1767268800.0", {"time_unit": "s"}),
        ("1767268800000", {"time_unit": "ms"}),
        ("2026-01-01T12:00:00Z", {"time_unit": "ms"}),
    ]
    assert [follows(f"u,c,{time}", **options) for time, options in cases] == [[NOON]] * len(cases)
    midnight = NOON - DAY / 2
    for year in ("2026", "2026.0"):
        assert follows(f"u,c,{year}", time_unit="year") == [midnight]
        tokyo = follows(f"u,c,{year}", time_unit="year", timezone="Asia/Tokyo")
        assert tokyo == [midnight - timedelta(hours=9)]
    assert follows("u,c,2026-01-01", timezone="UTC") == [midnight]
    number = json.dumps({"user": "u", "creator": "c", "at": 1767268800.5})
    assert rows("follows", number, time_unit="s")[0]["at"] == NOON + timedelta(milliseconds=500)


@pytest.mark.parametrize(
    ("written", "options", "message"),
    [
        ("1767268800", {}, ("at: '1767268800' is not a time such as 2026-01-31T12:00:00Z;"
         " for numbers, give --time-unit s, ms or year")),
        ("2026-01-01 12:00", {}, ("at: '2026-01-01 12:00' has no offset from UTC (such as Z or"
         " +02:00); --timezone gives one to all times that have none")),
        ("1767268800000", {"time_unit": "s"}, "at: 1767268800000 is not a time by --time-unit s"),
        ("-750.0", {"time_unit": "year"}, "at: -750.0 is not a time by --time-unit year"),
        ("99999999999999999999", {"time_unit": "ms"},
         "at: 99999999999999999999 is not a time by --time-unit ms"),
        ("soon", {"time_unit": "ms"}, "at: 'soon' is not a time such as 2026-01-31T12:00:00Z"),
    ],
)  # fmt: skip
def test_a_time_that_is_not_read_names_the_option(
    written: str, options: dict[str, Any], message: str
) -> None:
    assert follows(f"u,c,{written}", **options) == [message]


RATINGS = "userId,movieId,rating,timestamp\n7,31,2.5,1260759144\n7,1029,5.0,1260759179\n"
AS_EVENTS: dict[str, Any] = {
    "columns": {"user": "userId", "video": "movieId", "at": "timestamp"},
    "constants": {"kind": "watch", "completion": "1"},
    "time_unit": "s",
    "ignore_unknown": True,
}


def test_columns_words_and_constants_are_what_the_options_say() -> None:
    events = rows("events", RATINGS, **AS_EVENTS)
    assert [(e["user"], e["video"], e["kind"], e["completion"]) for e in events] == [
        ("7", "31", "watch", 1.0), ("7", "1029", "watch", 1.0),
    ]  # fmt: skip
    lines = [
        dict(zip(RATINGS.split("\n", maxsplit=1)[0].split(","), line.split(","), strict=True))
        for line in RATINGS.split("\n")[1:3]
    ]
    assert rows("events", json.dumps(lines), **AS_EVENTS) == events
    numbers = [{name: json.loads(value) for name, value in line.items()} for line in lines]
    assert rows("events", "\n".join(map(json.dumps, numbers)), **AS_EVENTS) == events
    stars = {"columns": {"completion": "rating"}, "constants": {"kind": "watch"}}
    by_stars = AS_EVENTS | {"columns": {**AS_EVENTS["columns"], **stars["columns"]}}
    by_stars |= {
        "constants": stars["constants"],
        "values": {"completion": {"5.0": "1", "2.5": "0"}},
    }
    for text in (RATINGS, json.dumps(numbers)):
        assert [event["completion"] for event in rows("events", text, **by_stars)] == [0, 1]
    own = "id,user,lang\ne1,ana,english\ne2,ana,\ne3,bo,dansk\n"
    by_user = {
        "columns": {"id": "user", "language": "lang", "device": "user"},
        "ignore_unknown": True,
    }
    words = {"language": {"english": "en", "": "xx"}, "device": {"bo": ""}}
    assert users(own, **by_user, values=words, constants={"interests": "a|b"}) == [
        {"id": "ana", "language": "en", "device": "ana", "interests": ("a", "b")},
        {"id": "ana", "language": "xx", "device": "ana", "interests": ("a", "b")},
        {"id": "bo", "language": "dansk", "device": None, "interests": ("a", "b")},
    ]
    assert users("id,language\na,en\n", constants={"language": "es"}) == [
        {"id": "a", "language": "es"}
    ]


def test_an_event_without_an_id_has_one_by_its_content() -> None:
    first, second = rows("events", RATINGS, **AS_EVENTS)
    assert first["id"] != second["id"]
    assert len(first["id"]) == 32
    again = rows("events", RATINGS.replace("\n7,31,2.5", "\n7,031,2.5"), **AS_EVENTS)
    assert (again[0]["id"] == first["id"], again[1]["id"] == second["id"]) == (False, True)
    columns = {name: value for name, value in first.items() if name != "id"}
    assert event_id({**columns, "watch_ms": None}) == first["id"]
    assert rows("events", "id,user,video,kind,at\n,u,v,like,2026-01-01T12:00:00Z\n") == [
        "id: is required and empty"
    ]
    assert users("language\nen\n")[0].startswith("line 1: column id is missing; give --column id=")


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("id,userId\n", {}, ("line 1: unknown column 'userId': there are id, user, video, kind, at,"
         " watch_ms, completion; give --column user=userId to read it, or --ignore-unknown to leave"
         " such columns out")),
        ('{"user id": 1}', {}, ("unknown column 'user id': there are id, user, video, kind, at,"
         " watch_ms, completion; give --column user='user id' to read it, or --ignore-unknown to"
         " leave such columns out")),
        ('{"userId": 1, "x": 1}', {"columns": {"user": "userId"}}, ("unknown column 'x': there are"
         " id, user, video, kind, at, watch_ms, completion; give --column COLUMN=x to read it, or"
         " --ignore-unknown to leave such columns out")),
        ("user,video,at\n", {}, ("line 1: column kind is missing; give --column kind=NAME to read"
         " another column of the file, or --set kind=VALUE to give it one value")),
        ('{"user": 1, "video": 1, "at": 1}', {}, ("column kind is missing; give --column kind=NAME"
         " to read another column of the file, or --set kind=VALUE to give it one value")),
        ("user,video,at\n", {"columns": {"kind": "event"}},
         "line 1: the file has no column 'event', it has user, video, at"),
        ("user,userId\n", {"columns": {"user": "userId"}}, ("line 1: column 'user' is not read,"
         " because --column reads 'userId' as it; give --ignore-unknown to leave such columns"
                " out")),
        ("1,2,3\n", {}, (
            "line 1: unknown column '1': there are id, user, video, kind, at, watch_ms, completion;"
            " the first line of CSV has the names of the columns"
        )),
        ("{\n", {}, (
            "not JSON: Expecting property name enclosed in double quotes; a row is one line, or an"
            " entry of a JSON array"
        )),
        ("x,x,user,user\n", {"ignore_unknown": True}, "line 1: column 'user' stands there twice"),
        ("user,video,kind,at,rating\n", {"values": {"completion": {"5": "1"}}, "ignore_unknown": 1},
         "line 1: the file has no column 'completion', it has user, video, kind, at, rating"),
        ("user,video,kind,at\n1,1,page view,2026-01-01T00:00:00Z", {}, (
            "kind: 'page view' is not one of impression, watch, like, unlike, share, comment, save,"
            " unsave, not_interested, interested, report, convert; give --value"
            " 'kind:page view'=WORD to say which of them it means"
        )),
    ],
)  # fmt: skip
def test_a_refused_column_is_told_with_the_way_out(
    text: str, options: dict[str, Any], message: str
) -> None:
    assert rows("events", text, **options) == [message]


def test_an_option_that_makes_no_sense_is_refused() -> None:
    cases = [
        ({"delimiter": "::"}, "delimiter: '::' is not one character"),
        ({"delimiter": '"'}, "delimiter: '\"' is not one character"),
        ({"list_separator": ""}, "list_separator: is empty"),
        ({"time_unit": "minutes"}, "time_unit: 'minutes' is not one of s, ms, year"),
        ({"timezone": "Berlin"}, "timezone: there is no time zone 'Berlin'"),
        ({"timezone": "../../etc/passwd"}, "timezone: there is no time zone "),
        ({"timezone": ""}, "timezone: there is no time zone ''"),
        ({"columns": {"id": "a"}, "constants": {"id": "b"}}, "id: is read from a column and has a"),
        ({"columns": {"id": 5}}, "columns: 5 is not text"),
        ({"constants": {"interests": ["a"]}}, "constants: ['a'] is not text"),
        ({"values": {"id": {"a": None}}}, "values of id: None is not text"),
        ({"columns": {"usr": "a"}}, "column: 'usr' is not one of id, language"),
        ({"values": {"usr": {}}}, "column: 'usr' is not one of id, language"),
        ({"constants": {"usr": ""}}, "column: 'usr' is not one of id, language"),
        ({"values": {"interests": {}}}, "values: interests is a list"),
        ({"constants": {"interests": "['a']"}}, "interests: \"['a']\" begins like a JSON list"),
        ({"values": {"id": {"a": "b"}}, "constants": {"id": "b"}}, "id: is read from a column and"),
        ({"constants": {"id": ""}}, "id: is required and empty"),
        ({"constants": {"created_at": "yesterday"}}, "created_at: 'yesterday' is not a time"),
        ({"values": {"created_at": {"a": "b"}}}, "created_at: 'b' is not a time"),
    ]
    for options, message in cases:
        with pytest.raises(InvalidValue) as refused:
            Layout(ROW_KINDS["users"].columns, FileFormat(**options))  # type: ignore[arg-type]
        assert str(refused.value).startswith(message)


@only_sqlite
def test_options_that_are_no_file_format_are_refused(engine: Engine) -> None:
    with pytest.raises(InvalidValue, match=r"^form: .* is no FileFormat"):
        import_file(engine, "users", "users.csv", form={"time_unit": "s"})  # type: ignore[arg-type]


def test_a_json_array_of_any_size_is_read_entry_by_entry() -> None:
    long = [{"id": f"u{number}", "language": "é" * 50} for number in range(5_000)]
    text = json.dumps(long, ensure_ascii=False)
    assert len(text) > 3 * READ_CHARACTERS
    assert users(text) == long
    broken = {
        '[{"id": "a"}': "line 2: not JSON: the array does not go on with a comma, or end with a ]",
        '[{"id": "a"} {"id": "b"}]': "line 2: not JSON: the array does not go on with a comma,",
        '[{"id": "a"},]': "line 2: not JSON: Expecting value",
        '[{"id": "a"}]\n[': "line 2: there is text after the array",
        '[{"id": "a"}, {"id: 1}]': "line 2: not JSON: Unterminated string starting at",
        "[": "line 1: not JSON: Expecting value",
        "[" * 100_000: "line 1: not JSON: ",
        f'[{{"id": "{"a" * MAX_ROW_CHARACTERS}': "line 1: longer than 1,000,000 characters",
        f'[{{"id": "{"a" * MAX_ROW_CHARACTERS}"}}]': "line 1: longer than 1,000,000 characters",
    }
    for text, message in broken.items():
        assert users(text)[-1].startswith(message), text[:50]
    mixed = '[{"id": "a"}, 5, {"id": NaN}, {"id": "b", "id": "c"}, {"id": 5.5}, {"id": "d"}]'
    assert users(mixed) == [
        {"id": "a"}, "not a JSON object", "not JSON: NaN is no number in JSON",
        "not JSON: a name stands twice in one object", "id: 5.5 is not text", {"id": "d"},
    ]  # fmt: skip
    latin = b'[{"id": "a"}, {"id": "\xe9"}, {"id": "b"}]'
    assert users(latin) == [{"id": "a"}, "not UTF-8: save the file in UTF-8", {"id": "b"}]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_json_array_may_be_cut_anywhere(size: int) -> None:
    entries = [
        '{"id": "\\u00e9\\\\\\"", "n": -1.5e-7}',
        "true",
        "null",
        '[[], {}, "a"]',
        '"b, ]"',
        "12",
    ]
    text = io.StringIO(" [ " + " ,\n".join(entries) + " ] ")
    array = JsonArray(lambda _size: text.read(size), 1_000)
    assert [json.loads(entry) for entry in array] == [json.loads(entry) for entry in entries]


WRONG = {
    b"PK\x03\x04\x14\0": "a zip archive or an Excel workbook",
    b"\xd0\xcf\x11\xe0\xa1\xb1": "an old Excel workbook",
    b"%PDF-1.7\n": "a PDF",
    b"PAR1\x15\x04": "a Parquet file",
    b"SQLite format 3\0": "an SQLite database",
    b"BZh91AY": "compressed by bzip2",
    b"\x28\xb5\x2f\xfd\x04": "compressed by zstd",
    gzip.compress(b"id\na\n"): "compressed by gzip twice",
    b"takeout/a.json".ljust(257, b"\0") + b"ustar": "a tar archive",
    "id\na\n".encode("utf-16"): "in UTF-16",
    "id\na\n".encode("utf-16-be"): "in UTF-16 or UTF-32, or no text",
    "id\na\n".encode("utf-16-le"): "in UTF-16 or UTF-32, or no text",
    b"\n <!DOCTYPE html><html>": "an HTML or XML page",
    b"\xef\xbb\xbf<?xml version='1.0'?>": "an HTML or XML page",
}


@only_sqlite
def test_a_wrong_kind_of_file_is_told_what_to_do(engine: Engine, tmp_path: Path) -> None:
    for data, content in WRONG.items():
        packed = gzip.compress(data)
        for written in (packed,) if data[:2] == b"\x1f\x8b" else (data, packed):
            assert users(written)[0].startswith(f"the file is {content}, not CSV or JSON: ")
    assert users("PK,id\n1,a\n", ignore_unknown=True) == [{"id": "a"}]
    path = tmp_path / "page.csv"
    path.write_bytes(b"<html>")
    with pytest.raises(BadData) as refused:
        import_file(engine, "users", str(path))
    assert str(refused.value) == (
        f"{path}: the file is an HTML or XML page, not CSV or JSON: download the data itself, as"
        " CSV or JSON; nothing was imported"
    )
    with pytest.raises(NotFound, match="is a folder, not a file: import the files in it one by"):
        import_file(engine, "users", str(tmp_path))


@pytest.fixture
def imported(engine: Engine, tmp_path: Path) -> Callable[..., ImportReport]:
    """Imports a text with format options."""

    def run(kind: Any, text: str, batch_size: int = 5_000, **options: Any) -> ImportReport:
        path = tmp_path / "file"
        path.write_text(text)
        form = FileFormat(**options)
        return import_file(
            engine, kind, str(path), form=form, settings=Settings(batch_size=batch_size)
        )

    return run


def test_a_log_without_ids_and_catalogue_is_imported_by_three_commands(
    imported: Callable[..., ImportReport],
) -> None:
    log = RATINGS + "7,31,2.5,1260759144\n"
    only = {"ignore_unknown": True}
    with pytest.raises(BadData, match="no user '7', so import the users first, perhaps from the "):
        imported("events", log, **AS_EVENTS)
    people = imported("users", log, columns={"id": "userId"}, **only)
    assert (people.read, people.inserted, people.rejected) == (3, 1, 0)
    films = imported("videos", log, columns={"id": "movieId"}, **only)
    assert (films.read, films.inserted, films.rejected) == (3, 2, 0)
    for batch_size in (1, 2, 5_000):
        report = imported("events", log, batch_size, **AS_EVENTS)
        assert (report.read, report.inserted, report.rejected) == (3, 2 * (batch_size == 1), 0)


def test_times_that_were_cut_are_counted(imported: Callable[..., ImportReport]) -> None:
    times = [
        "2026-01-01T12:00:00.123456789Z", "2026-01-01 12:00:00.1234567+02", "2026-01-01 12:00:00Z",
        "2026-01-01T12:00:00.123456000Z", "1767268800.1234567", "1767268800.123456", "",
    ]  # fmt: skip
    text = "id,created_at\n" + "".join(f"u{n},{time}\n" for n, time in enumerate(times))
    for batch_size in (1, 2, 5_000):
        report = imported("users", text, batch_size, time_unit="s")
        assert (report.read, report.rejected, report.cut_times) == (7, 0, 3)


@only_sqlite
def test_the_commands_of_the_readme_import_public_files(
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_public_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECOMMENDER_DATABASE_URL", database)
    readme = next(readme for readme in READMES if readme.name == "recommender/files/README.md")
    commands = [shlex.split(command.split("|")[0]) for command, _ in readme.steps()]
    reports = []
    for command in [words for words in commands if words[:2] == ["recommender", "import"]]:
        if "/" in command[3]:
            assert cli.run(command[1:]) == 0
            reports.append(json.loads(capsys.readouterr().out))
    assert [(r["kind"], r["file"], r["read"], r["rejected"]) for r in reports] == [
        ("users", "movielens/ratings.csv", 4, 0),
        ("videos", "movielens/movies.csv", 2, 0),
        ("events", "movielens/ratings.csv", 4, 0),
        ("users", "retailrocket/events.csv", 4, 0),
        ("videos", "retailrocket/events.csv", 4, 0),
        ("events", "retailrocket/events.csv", 4, 0),
        ("videos", "goodbooks/books.csv", 4, 1),
    ]


@only_postgresql
def test_two_processes_read_a_file_by_the_same_options(
    engine: Engine, imported: Callable[..., ImportReport], tmp_path: Path
) -> None:
    lines = [f"{n % 7},{n % 3},5.0,{1445714835 + n}.1234567\n" for n in range(100)]
    log = "userId,movieId,rating,timestamp\n" + "".join(lines)
    only = {"ignore_unknown": True}
    imported("users", log, columns={"id": "userId"}, **only)
    imported("videos", log, columns={"id": "movieId"}, **only)
    form = FileFormat(**AS_EVENTS)  # type: ignore[arg-type]
    file = str(tmp_path / "file")
    by_two = import_file(engine, "events", file, form=form, jobs=2, settings=Settings(batch_size=9))
    again = import_file(engine, "events", file, form=form)
    assert (by_two.inserted, by_two.cut_times) == (100, 100)
    assert (again.unchanged, again.cut_times) == (100, 100)
