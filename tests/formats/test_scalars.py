"""How one field is read: what each parser accepts, as what, and what it refuses."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recommender import InvalidValue
from recommender.formats import rows, scalars, text

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
HUGE = 10**10_000
DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]


class NoOffset(tzinfo):
    """A time zone that does not know its offset."""

    def utcoffset(self, _when: datetime | None) -> None:
        return None


class EndOfSummer(tzinfo):
    """A time zone in the night in which an hour comes twice."""

    def utcoffset(self, when: datetime | None) -> timedelta:
        return timedelta(hours=1 if when and when.fold else 2)


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("2026-01-01T00:00:00Z", NEW_YEAR),
        ("2026-01-01 00:00:00Z", NEW_YEAR),
        ("2026-01-01T00:00Z", NEW_YEAR),
        ("2026-01-01T00:00:00+00:00", NEW_YEAR),
        ("2026-01-01T14:00:00+14:00", NEW_YEAR),
        ("2025-12-31T12:00:00-1200", NEW_YEAR),
        ("2026-01-01T05:45:00+05:45", NEW_YEAR),
        ("2026-01-01T00:00:00.5Z", NEW_YEAR + timedelta(milliseconds=500)),
        ("2026-01-01T00:00:00.000001Z", NEW_YEAR + timedelta(microseconds=1)),
        ("2026-01-01T00:00:00,5Z", NEW_YEAR + timedelta(milliseconds=500)),
        ("2026-01-01 00:00:00+00", NEW_YEAR),  # PostgreSQL
        ("2026-01-01 05:30:00.5+05:30", NEW_YEAR + timedelta(milliseconds=500)),
        ("2026-01-01 02:00:00+0200", NEW_YEAR),  # Ruby, Snowflake
        ("2026-01-01 02:00:00 +0200", NEW_YEAR),
        ("2026-01-01 00:00:00 UTC", NEW_YEAR),  # BigQuery
        ("2026-01-01T00:00:00GMT", NEW_YEAR),
        ("2026-01-01 00:00:00.0000000 +00:00", NEW_YEAR),  # .NET, SQL Server
        ("2026-01-01 00:00:00.123456789+00:00", NEW_YEAR + timedelta(microseconds=123_456)),
        ("2026-01-01 00:53:28+00:53:28", NEW_YEAR),
        ("1970-01-01T00:00:00Z", datetime(1970, 1, 1, tzinfo=UTC)),
        ("1969-12-31T23:00:00-01:00", datetime(1970, 1, 1, tzinfo=UTC)),
        ("2099-12-31T23:59:59.999999Z", datetime(2099, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
        ("2100-01-01T13:59:59+14:00", datetime(2099, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("2024-02-29T00:00:00Z", datetime(2024, 2, 29, tzinfo=UTC)),
        (NEW_YEAR, NEW_YEAR),
        (datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), NEW_YEAR),
        (datetime(2026, 1, 1, 2, tzinfo=EndOfSummer()), NEW_YEAR),
        (datetime(2026, 1, 1, 2, tzinfo=EndOfSummer(), fold=1), NEW_YEAR + timedelta(hours=1)),
    ],
)
def test_a_time_is_kept_in_utc(written: Any, moment: datetime) -> None:
    parsed = scalars.time(written)
    assert (parsed, parsed.utcoffset()) == (moment, timedelta())


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("2026-01-01T00:00:00", "no offset"),
        ("2026-01-01T00:00", "no offset"),
        (datetime(2026, 1, 1), "no offset"),  # noqa: DTZ001
        (datetime(2026, 1, 1, tzinfo=NoOffset()), "no offset"),
        ("2026-01-01", "no offset"),
        ("2026-01-01Z", "not a time such as"),
        ("2026-01-01+05:00", "not a time such as"),
        ("2026-01-01T00:00:00 PST", "not a time such as"),
        ("2026-01-01T00:00:00  Z", "not a time such as"),
        ("2026-01-01T00Z", "not a time such as"),
        ("20260101T000000Z", "not a time such as"),
        ("2026-W01-4T00:00:00Z", "not a time such as"),
        ("2026-01-01t00:00:00z", "not a time such as"),
        (" 2026-01-01T00:00:00Z", "not a time such as"),
        ("2026-01-01T00:00:00Z\n", "not a time such as"),
        ("\u0662\u0660\u0662\u0666-01-01T00:00:00Z", "not a time such as"),
        ("yesterday", "not a time such as"),
        ("1767225600", "not a time such as"),
        (1_767_225_600, "not a time such as"),
        (NEW_YEAR.date(), "not a time such as"),
        (True, "not a time such as"),
        ("2016-12-31T23:59:60Z", "not a time: "),
        ("2026-13-01T00:00:00Z", "not a time: "),
        ("2026-02-29T00:00:00Z", "not a time: "),
        ("2026-01-01T25:00:00Z", "not a time: "),
        ("2026-01-01T00:00:00+25:00", "not a time: "),
        ("0000-01-01T00:00:00Z", "not a time: "),
        ("1969-12-31T23:59:59.999999Z", "not between 1970 and 2100"),
        ("1970-01-01T00:00:00+00:01", "not between 1970 and 2100"),
        ("2100-01-01T00:00:00Z", "not between 1970 and 2100"),
        ("2099-12-31T23:59:59-00:01", "not between 1970 and 2100"),
        ("9999-12-31T23:59:59-14:00", "not between 1970 and 2100"),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=14))), "not between 1970 and 2100"),
    ],
)
def test_a_time_that_is_not_one_is_refused(written: Any, reason: str) -> None:
    with pytest.raises(InvalidValue, match=reason):
        scalars.time(written)


def test_a_time_without_an_offset_is_of_the_zone_that_is_given() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    given_and_read = {
        "2026-01-01 01:00:00": NEW_YEAR,
        "2026-01-01T01:00": NEW_YEAR,
        "2026-01-01": NEW_YEAR - timedelta(hours=1),
        "2026-01-01T00:00:00Z": NEW_YEAR,
        "2026-01-01 02:00:00+02": NEW_YEAR,
        datetime(2026, 1, 1, 1): NEW_YEAR,  # noqa: DTZ001
        "2025-10-26 02:30:00": datetime(2025, 10, 26, 0, 30, tzinfo=UTC),  # comes twice
        "2025-03-30 02:30:00": datetime(2025, 3, 30, 1, 30, tzinfo=UTC),  # does not come
    }
    assert {given: scalars.time(given, berlin) for given in given_and_read} == given_and_read


def test_a_publication_time_is_of_the_year_1_or_later() -> None:
    east = timezone(timedelta(hours=14))
    for written, moment in (
        ("0001-01-03T00:00:00.000001Z", scalars.UNDATED + timedelta(microseconds=1)),
        ("0001-01-03T00:00:00-14:00", scalars.UNDATED + timedelta(hours=14)),
        ("1895-12-28T20:00:00Z", datetime(1895, 12, 28, 20, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", None),
        ("0001-01-02T23:59:59-00:00", None),
        (scalars.UNDATED, None),
    ):
        assert scalars.publication_time(written) == moment
    for written in ("2100-01-01T00:00:00Z", datetime.min.replace(tzinfo=east)):
        with pytest.raises(InvalidValue, match="not between the years 1 and 2100"):
            scalars.publication_time(written)


@given(st.datetimes(datetime(1970, 1, 2), datetime(2099, 12, 30)), st.integers(-1439, 1439))  # noqa: DTZ001
def test_a_time_as_python_writes_it_reads_back_equal(moment: datetime, offset: int) -> None:
    moment = moment.replace(tzinfo=timezone(timedelta(minutes=offset)))
    assert scalars.time(moment.isoformat()) == moment


@pytest.mark.parametrize(
    ("written", "count"),
    [
        (0, 0), ("0", 0), ("5", 5), ("007", 7), (5.0, 5), (-0.0, 0),
        (2**31 - 1, 2**31 - 1), ("2147483647", 2**31 - 1), (2147483647.0, 2**31 - 1),
        ("5000.0", 5000), ("0.00", 0),
    ],
)  # fmt: skip
def test_a_count_is_a_whole_number(written: Any, count: int) -> None:
    parsed = scalars.count(written)
    assert (parsed, type(parsed)) == (count, int)


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (2**31, "not between 0 and 2,147,483,647"),
        ("2147483648", "not between 0 and 2,147,483,647"),
        (2**63, "not between 0 and 2,147,483,647"),
        (-(2**63) - 1, "not between 0 and 2,147,483,647"),
        (-1, "not between 0 and 2,147,483,647"),
        (-1.0, "not between 0 and 2,147,483,647"),
        (1e300, "not between 0 and 2,147,483,647"),
        pytest.param(HUGE, "a int too large to show is not between", id="huge"),
        ("-1", "not a whole number"),
        ("+1", "not a whole number"),
        ("1_000", "not a whole number"),
        ("5.5", "not a whole number"),
        ("5.", "not a whole number"),
        (" 5", "not a whole number"),
        ("5\n", "not a whole number"),
        ("\u0665", "not a whole number"),
        pytest.param("9" * 10_000, "not a whole number", id="huge text"),
        ("", "not a whole number"),
        (True, "not a whole number"),
        (1.5, "not a whole number"),
        (float("nan"), "not a whole number"),
        (float("inf"), "not a whole number"),
        (None, "not a whole number"),
        ([5], "not a whole number"),
    ],
)
def test_a_count_that_is_not_one_is_refused(written: Any, reason: str) -> None:
    with pytest.raises(InvalidValue, match=reason):
        scalars.count(written)


@pytest.mark.parametrize(
    ("written", "fraction"),
    [
        (0, 0.0), (1, 1.0), (0.5, 0.5), ("0.5", 0.5), ("1", 1.0), (".5", 0.5), ("1.", 1.0),
        ("+0.5", 0.5), ("5e-1", 0.5), ("5E-1", 0.5), (5e-324, 5e-324), ("1e-400", 0.0),
    ],
)  # fmt: skip
def test_a_fraction_is_0_to_1(written: Any, fraction: float) -> None:
    parsed = scalars.fraction(written)
    assert (parsed, type(parsed)) == (fraction, float)


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (float("nan"), "not a number"),
        ("nan", "not a number"),
        ("inf", "not a number"),
        ("infinity", "not a number"),
        (True, "not a number"),
        (False, "not a number"),
        (None, "not a number"),
        ("", "not a number"),
        ("0,5", "not a number"),
        ("50%", "not a number"),
        ("0_1", "not a number"),
        (" 0.5", "not a number"),
        ("0.5\n", "not a number"),
        ("\u0660.\u0665", "not a number"),
        ("0x1p-1", "not a number"),
        pytest.param(HUGE, "not a number", id="huge"),
        ([0.5], "not a number"),
        (float("inf"), "not between 0 and 1"),
        (float("-inf"), "not between 0 and 1"),
        (float("1e400"), "not between 0 and 1"),
        ("1e400", "not between 0 and 1"),
        pytest.param("9" * 10_000, "not between 0 and 1", id="huge text"),
        (1.0000001, "not between 0 and 1"),
        ("1.0000001", "not between 0 and 1"),
        (-5e-324, "not between 0 and 1"),
        (2**63, "not between 0 and 1"),
    ],
)
def test_a_fraction_that_is_not_one_is_refused(written: Any, reason: str) -> None:
    with pytest.raises(InvalidValue, match=reason):
        scalars.fraction(written)


@pytest.mark.parametrize(
    "written",
    [
        "",
        " ",
        "\x01\x1b\x7f\x85",
        "tab\tline\nreturn\r",
        "\u202eright to left",
        "e\u0301",
        "👩‍👩‍👧",
        "\ufeff\ufffe\uffff",
        "\U0010ffff",
        "'; DROP TABLE rec_users; -- % _ \\ :name ${x}",
    ],
)
def test_any_other_text_is_kept_as_written(written: str) -> None:
    assert scalars.text(written) == written


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("a\0b", r"U\+0000"),
        ("\ud800", r"U\+D800"),
        ("\udfff", r"U\+DFFF"),
        ("ok\udc80", r"U\+DC80"),
        (b"bytes", "not text"),
        (5, "not text"),
        (None, "not text"),
        (["a"], "not text"),
    ],
)
def test_what_no_database_keeps_is_refused(written: Any, reason: str) -> None:
    with pytest.raises(InvalidValue, match=reason):
        scalars.text(written)


@pytest.mark.parametrize(
    ("parse", "longest"),
    [(scalars.key, 255), (scalars.listed_key, 255), (text.caption, 10_000), (text.hashtag, 100)],
)
@pytest.mark.parametrize("character", ["a", "é", "ل", "漢", "😂"])
def test_lengths_are_counted_in_code_points(parse: Any, longest: int, character: str) -> None:
    assert parse(character * longest) == character * longest
    with pytest.raises(InvalidValue, match=rf"more than {longest:,}"):
        parse(character * (longest + 1))


def test_a_key_is_not_empty_and_otherwise_as_written() -> None:
    assert scalars.key(" A|a ") == " A|a "
    with pytest.raises(InvalidValue, match="is empty"):
        scalars.key("")


def test_a_key_in_a_list_has_no_list_separator() -> None:
    assert scalars.listed_key("a b") == "a b"
    with pytest.raises(InvalidValue, match="separates lists"):
        scalars.listed_key("a|b")


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("comedy", "comedy"),
        ("#Comedy", "comedy"),
        ("##comedy", "comedy"),
        (" # # comedy ", "comedy"),
        ("c#", "c#"),
        ("Straße", "strasse"),
        ("STRASSE", "strasse"),
        ("STRAẞE", "strasse"),
        ("caf\u00e9", "caf\u00e9"),
        ("cafe\u0301", "caf\u00e9"),
        ("CAFE\u0301", "caf\u00e9"),
        ("\uff44\uff41\uff4e\uff43\uff45", "dance"),
        ("\uff03\uff24\uff21\uff2e\uff23\uff25", "dance"),
        ("\u0130stanbul", "i\u0307stanbul"),
        ("I\u0307stanbul", "i\u0307stanbul"),
        (
            "\u03a3\u038a\u03a3\u03a5\u03a6\u039f\u03a3",
            "\u03c3\u03af\u03c3\u03c5\u03c6\u03bf\u03c3",
        ),
        (
            "\u03c3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2",
            "\u03c3\u03af\u03c3\u03c5\u03c6\u03bf\u03c3",
        ),
        ("\ufb01t", "fit"),
        ("two words", "two words"),
        ("Children's", "children's"),
        ("(no genre)", "(no genre)"),
        ("\u201cdance\u201d", "\u201cdance\u201d"),
        ("رقص", "رقص"),
        ("舞蹈", "舞蹈"),
    ],
)
def test_the_spellings_of_a_hashtag_have_one_form(written: str, name: str) -> None:
    assert text.hashtag(written) == name


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("", "empty hashtag"),
        ("#", "empty hashtag"),
        (" ## ", "empty hashtag"),
        ("\u3000", "empty hashtag"),
        ("a|b", "separates lists"),
        ("a\uff5cb", "separates lists"),
        ("dance,cooking", r"has a , and .* --list-separator"),
        ("dance\uff0ccooking", "has a ,"),
        ("#dance; #cooking", "has a ;"),
        ("['dance']", r"has a \["),
        ("dance]", r"has a \]"),
        ("{dance}", "has a {"),
        ('"dance"', 'has a "'),
        ("'dance'", "has a '"),
        ("\ufdfa" * 6, "more than 100"),
        pytest.param("a" * 10_001, "more than 10,000", id="long"),
        ("a\0", r"U\+0000"),
        ("\ud800", r"U\+D800"),
        (5, "not text"),
        (None, "not text"),
    ],
)
def test_a_hashtag_that_is_not_one_is_refused(written: Any, reason: str) -> None:
    with pytest.raises(InvalidValue, match=reason):
        text.hashtag(written)


@given(st.text(max_size=30))
@example("\u0345")
@example("\u1fb3\u0301")
@example("\u2100#")
def test_the_form_of_a_hashtag_is_its_own_form(written: str) -> None:
    try:
        name = text.hashtag(written)
    except InvalidValue:
        return
    assert text.hashtag(name) == name
    assert text.hashtag(f"#{name}") == name


def test_the_form_of_every_single_character_is_its_own_form() -> None:
    for number in range(0x110000):
        try:
            name = text.hashtag(chr(number))
        except InvalidValue:
            continue
        assert text.hashtag(name) == name
        assert unicodedata.is_normalized("NFKC", name)


def test_a_list_keeps_its_order_and_leaves_repeats_out() -> None:
    parse = scalars.list_of(text.hashtag)
    assert parse(["b", "#B", "a", "b"]) == ("b", "a")
    assert parse(name for name in "ba") == ("b", "a")
    assert parse([]) == ()


def test_a_list_has_300_different_entries_at_most() -> None:
    parse = scalars.list_of(text.hashtag)
    names = [f"tag{number}" for number in range(301)]
    assert parse(names[:300] * 2) == tuple(names[:300])
    with pytest.raises(InvalidValue, match="has 301 entries, more than 300"):
        parse(names)


@pytest.mark.parametrize("written", ["a", "a|b", b"a", 5, True, {"a": 1}, {}])
def test_what_is_no_list_is_refused(written: Any) -> None:
    with pytest.raises(InvalidValue, match="is not "):
        scalars.list_of(text.hashtag)(written)


@pytest.mark.parametrize("parts", [[None], [""], [5], [["a"]], [{"a": 1}], DEEP])
def test_a_part_of_a_list_that_is_not_of_its_form_is_refused(parts: Any) -> None:
    with pytest.raises(InvalidValue):
        scalars.list_of(text.hashtag)(parts)


def test_one_of_a_few_words() -> None:
    parse = scalars.one_of(("portrait", "square"))
    assert parse("square") == "square"
    for other in ("Square", "square ", "", None, 1, ["square"]):
        with pytest.raises(InvalidValue, match="is not one of portrait, square"):
            parse(other)


def test_a_long_value_is_cut_in_a_message() -> None:
    assert scalars.shown("a") == "'a'"
    assert len(scalars.shown("a" * 10_000)) == 58
    assert scalars.shown(HUGE) == "a int too large to show"
    assert scalars.shown(DEEP) == "a list too large to show"


def test_an_empty_cell_clears_and_an_absent_column_stays_absent() -> None:
    parsed = rows.parse_row(rows.USER_COLUMNS, {"id": "u", "language": "", "interests": ""})
    assert parsed == {"id": "u", "language": None, "interests": ()}
    cleared = rows.parse_row(rows.USER_COLUMNS, {"id": "u", "country": None, "interests": []})
    assert cleared == {"id": "u", "country": None, "interests": ()}


def test_a_whole_row() -> None:
    row = {
        "id": "v", "creator": "c", "caption": "hi", "hashtags": ["#A"], "sound": "s",
        "language": "en", "country": "US", "duration_ms": "1000", "orientation": "square",
        "published_at": "2026-01-01T00:00:00Z", "status": "review",
    }  # fmt: skip
    assert rows.parse_row(rows.VIDEO_COLUMNS, row) == {
        **row, "hashtags": ("a",), "duration_ms": 1000, "published_at": NEW_YEAR,
        "caption": text.read_caption("hi"),
    }  # fmt: skip


def test_a_caption_is_read_with_all_that_it_says() -> None:
    read = text.read_caption("Look, #Cats!")
    assert read == ("Look, #Cats!", " look cats ", text.terms(" look cats "), ("cats",))


VIDEO = {"id": "v", "creator": "c", "published_at": NEW_YEAR}


@pytest.mark.parametrize(
    ("columns", "row", "message"),
    [
        (rows.USER_COLUMNS, {"id": "u", "age": 5}, "unknown column 'age': there are id, lang"),
        (rows.USER_COLUMNS, {"id": "u", "": 5}, "unknown column '': there are id, "),
        (rows.USER_COLUMNS, {"id": "u", "ID": 5}, "unknown column 'ID': there are id, "),
        (rows.USER_COLUMNS, {}, "column id is missing"),
        (rows.USER_COLUMNS, {"language": "en"}, "column id is missing"),
        (rows.FOLLOW_COLUMNS, {"user": "u"}, "column creator is missing"),
        (rows.VIDEO_COLUMNS, {"creator": "c"}, "column id is missing"),
        (rows.USER_COLUMNS, {"id": []}, "id: [] is not text"),
        (rows.USER_COLUMNS, {"id": ""}, "id: is required and empty"),
        (rows.USER_COLUMNS, {"id": None}, "id: is required and empty"),
        (rows.FOLLOW_COLUMNS, {"user": "u", "creator": ""}, "creator: is required and empty"),
        (rows.VIDEO_COLUMNS, {**VIDEO, "caption": 5}, "caption: 5 is not text"),
        (rows.VIDEO_COLUMNS, {**VIDEO, "hashtags": "a"}, "hashtags: 'a' is not a list"),
        (rows.VIDEO_COLUMNS, {**VIDEO, "hashtags": ["a", ""]}, "hashtags: '' is an empty hash"),
        (rows.VIDEO_COLUMNS, {**VIDEO, "sound": "a|b"}, "sound: 'a|b' has a |"),
        (rows.VIDEO_COLUMNS, {**VIDEO, "duration_ms": -1}, "duration_ms: -1 is not between"),
        (rows.VIDEO_COLUMNS, {**VIDEO, "orientation": "up"}, "orientation: 'up' is not one of"),
        (rows.VIDEO_COLUMNS, {**VIDEO, "status": "live"}, "status: 'live' is not one of"),
        (rows.USER_COLUMNS, {"id": "u", "created_at": "now"}, "created_at: 'now' is not a time"),
        (rows.USER_COLUMNS, {"id": "u", "liked_sounds": ["a|b"]}, "liked_sounds: 'a|b' has a |"),
        (rows.FOLLOW_COLUMNS, {"user": "u", "creator": "c", "at": 5}, "at: 5 is not a time"),
    ],
)
def test_a_message_names_the_column(
    columns: rows.Columns, row: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidValue) as caught:
        rows.parse_row(columns, row)
    assert str(caught.value).startswith(message)


def test_a_refusal_begins_with_the_name_of_the_value() -> None:
    assert scalars.parse_named("limit", scalars.number, "2.5", 0, 3) == 2.5
    with pytest.raises(InvalidValue, match=r"^limit: 4 is not between 0 and 3$") as refused:
        scalars.parse_named("limit", scalars.number, 4, 0, 3)
    assert refused.value.__suppress_context__


def test_only_refused_values_are_named() -> None:
    def broken(_value: object) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        scalars.parse_named("limit", broken, 4)
