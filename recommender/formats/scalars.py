"""Parsers of single values: keys, counts, fractions, times and lists.

A parser takes a CSV cell (text), a JSON value or a Python value. It returns the value as the
database stores it, or raises `InvalidValue` with one sentence. The same values are accepted on
every database.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, tzinfo
from typing import Any, Literal, TypeAlias, TypeVar, get_args
from uuid import UUID

from recommender.errors import InvalidValue

KEY_LENGTH = 255

LIST_LENGTH = 300

LIST_SEPARATOR = "|"

IDENTIFIER_BYTES = 63

LARGEST_COUNT = 2**31 - 1

LARGEST_ID = 2**63 - 1

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)

LATEST = datetime(2100, 1, 1, tzinfo=UTC)

UNDATED = datetime(1, 1, 3, tzinfo=UTC)
"""The stored publication time of a video without a known one. Every known time is later.

It is in the year 1 in every time zone: a session of PostgreSQL may have any, and Python has no
earlier year. 0001-01-01T00:00:00Z, which Go and .NET write for a time that is not set, is unknown.
"""

ERASED = LATEST
"""The stored publication time of an erased video. Every accepted time is earlier."""

EventKind: TypeAlias = Literal[
    "impression", "watch", "like", "unlike", "share", "comment", "save", "unsave",
    "not_interested", "interested", "report", "convert",
]  # fmt: skip

EVENT_KINDS: tuple[EventKind, ...] = get_args(EventKind)

OnError: TypeAlias = Literal["stop", "skip"]

ON_ERROR: tuple[OnError, ...] = get_args(OnError)

VideoStatus: TypeAlias = Literal["published", "review", "removed"]

STATUSES: tuple[VideoStatus, ...] = get_args(VideoStatus)

MuteKind: TypeAlias = Literal["creator", "hashtag", "sound", "keyword"]

MUTE_KINDS: tuple[MuteKind, ...] = get_args(MuteKind)

BLOCK_DIRECTIONS = ("by_me", "of_me")

Orientation: TypeAlias = Literal["portrait", "landscape", "square"]

HANDHELD = ("phone", "mobile", "ios", "android")
"""Devices that are held upright."""

ORIENTATIONS: tuple[Orientation, ...] = get_args(Orientation)

_TIME = re.compile(
    r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d([.,]\d+)?)?"
    r"((?P<offset> (Z|UTC|GMT|[+-].*)|UTC|GMT)|Z|[+-]\d\d(:?\d\d){0,2})?)?",
    re.ASCII,
)
"""A time in ISO 8601. The group is an offset that Python does not read as it is written."""

_COUNT = re.compile(r"(\d{1,20})(\.0+)?", re.ASCII)

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)

_REFUSED_IN_TEXT = re.compile("[\x00\ud800-\udfff]")

AnyKey: TypeAlias = str | int | UUID
"""A key as an application has it. It is stored and returned as text; a bool is refused."""

Parser = Callable[[object], object]

T = TypeVar("T")


def parse_named(name: str, parse: Callable[..., T], value: object, *bounds: Any) -> T:
    """Return a parsed value; a refusal begins with the value's name.

    Args:
        name: what the caller knows the value as, such as ``user``.
        parse: raises `InvalidValue` for a value that it refuses.
        value: the value to parse.
        bounds: further arguments of `parse`.

    Raises:
        InvalidValue: the value is refused, as ``name: reason``.
    """
    try:
        return parse(value, *bounds)
    except InvalidValue as error:
        raise InvalidValue(f"{name}: {error}") from None


def text(value: object, longest: int = KEY_LENGTH) -> str:
    """Return a text of at most `longest` code points, without NUL and lone surrogates.

    Raises:
        InvalidValue: the value is no text, is too long, or has a character that no database stores.
    """
    if not isinstance(value, str):
        raise InvalidValue(f"{shown(value)} is not text")
    if len(value) <= longest and value.isprintable():
        return value
    if len(value) > longest:
        raise InvalidValue(f"is {len(value):,} characters long, more than {longest:,}")
    if refused := _REFUSED_IN_TEXT.search(value):
        raise InvalidValue(f"has the character U+{ord(refused[0]):04X}, which no database stores")
    return value


def label(value: object) -> str:
    """Return a text of 1 to 255 code points, as written, or raise `InvalidValue`."""
    if value == "":
        raise InvalidValue("is empty")
    return text(value)


def key(value: object) -> str:
    """Return a key as text of 1 to 255 code points; whole numbers and UUIDs become text.

    Raises:
        InvalidValue: the value is no text, no whole number and no UUID, or is empty or too long.
    """
    if type(value) is str and 0 < len(value) <= KEY_LENGTH and value.isprintable():
        return value  # most keys, without further calls
    is_text = isinstance(value, str)
    if is_text or isinstance(value, bool) or not isinstance(value, int | UUID):
        return label(value)
    try:
        return label(str(value))
    except ValueError:
        raise InvalidValue(f"{shown(value)} has more than {KEY_LENGTH} digits") from None


def listed_key(value: object) -> str:
    """Return a key without the separator of CSV lists, or raise `InvalidValue`."""
    if LIST_SEPARATOR in (parsed := key(value)):
        raise InvalidValue(f"{shown(value)} has a {LIST_SEPARATOR}, which separates lists")
    return parsed


def identifier(value: object) -> str:
    """Return one word of letters, digits and _, of at most 63 bytes, or raise `InvalidValue`."""
    is_word = isinstance(value, str) and value.isidentifier()
    if not is_word or len(str(value).encode()) > IDENTIFIER_BYTES:
        raise InvalidValue(
            f"{shown(value)} is not one word of letters, digits and _, which begins with no digit"
            f" and has at most {IDENTIFIER_BYTES} bytes"
        )
    return str(value)


def count(value: object) -> int:
    """Return a whole number from 0 to 2,147,483,647, or raise `InvalidValue`; 5.0 is 5."""
    if isinstance(value, str):
        value = int(matched[1]) if (matched := _COUNT.fullmatch(value)) else value
    elif isinstance(value, float):
        value = int(value) if value.is_integer() else value
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidValue(f"{shown(value)} is not a whole number")
    if not 0 <= value <= LARGEST_COUNT:
        raise InvalidValue(f"{shown(value)} is not between 0 and {LARGEST_COUNT:,}")
    return value


def number(value: object, low: float, high: float) -> float:
    """Return a finite number from `low` to `high`, or raise `InvalidValue`."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_number = is_number or (isinstance(value, str) and bool(_NUMBER.fullmatch(value)))
    try:
        parsed = float(value) if is_number else math.nan  # type: ignore[arg-type] # it is one
    except (ValueError, OverflowError):
        parsed = math.nan
    if math.isnan(parsed):
        raise InvalidValue(f"{shown(value)} is not a number")
    if not low <= parsed <= high:
        raise InvalidValue(f"{shown(value)} is not between {low:g} and {high:g}")
    return parsed + 0.0  # -0.0 becomes 0.0: PostgreSQL would store the sign, SQLite would not


def fraction(value: object) -> float:
    """Return a number from 0 to 1, or raise `InvalidValue`."""
    return number(value, 0.0, 1.0)


def time(value: object, zone: tzinfo | None = None) -> datetime:
    """Return a time in UTC, or raise `InvalidValue`.

    Args:
        value: a `datetime`, or ISO 8601 text, from 1970 to 2100. Digits beyond microseconds are cut
            off.
        zone: the time zone of times without an offset, and of dates without a time, which begin at
            midnight. None refuses both. An hour that the clocks repeat is the first of the two.
    """
    moment = value if isinstance(value, datetime) else _time_of_text(value)
    if moment.tzinfo is not UTC:
        moment = _in_utc(moment, zone, value)
    if not EARLIEST <= moment < LATEST:
        raise InvalidValue(f"{shown(value)} is not between 1970 and 2100")
    return moment


def publication_time(value: object, zone: tzinfo | None = None) -> datetime | None:
    """Return a time in UTC, None up to `UNDATED`, or raise `InvalidValue`.

    Args:
        value: as for `time`, but from the year 1 on.
        zone: as for `time`.
    """
    moment = value if isinstance(value, datetime) else _time_of_text(value)
    moment = _in_utc(moment, zone, value)
    if moment >= LATEST:
        raise InvalidValue(f"{shown(value)} is not between the years 1 and 2100")
    return None if moment <= UNDATED else moment


TimeParser: TypeAlias = Callable[..., datetime | None]

TIME_PARSERS: tuple[TimeParser, ...] = (time, publication_time)


def _in_utc(moment: datetime, zone: tzinfo | None, value: object) -> datetime:
    """Return a time in UTC, `LATEST` if it is not in the years 1 to 9999."""
    if moment.utcoffset() is None:
        if zone is None:
            raise InvalidValue(f"{shown(value)} has no offset from UTC (such as Z or +02:00)")
        moment = moment.replace(tzinfo=zone)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        return LATEST


def _time_of_text(value: object) -> datetime:
    matched = _TIME.fullmatch(value) if isinstance(value, str) else None
    if matched is None:
        raise InvalidValue(f"{shown(value)} is not a time such as 2026-01-31T12:00:00Z")
    if offset := matched["offset"]:
        return _time_of_text(matched.string.removesuffix(offset) + _plain_offset(offset))
    try:
        return datetime.fromisoformat(matched[0])
    except ValueError as error:
        raise InvalidValue(f"{shown(value)} is not a time: {error}") from None


def _plain_offset(offset: str) -> str:
    """Return an offset without a space before it, and without a name."""
    plain = offset.lstrip()
    return "Z" if plain in {"UTC", "GMT"} else plain


def written_time(moment: datetime) -> str:
    """Return a time in UTC as text, such as 2026-01-31T12:00:00Z."""
    return moment.isoformat().replace("+00:00", "Z")


def now() -> datetime:
    """Return the current time in UTC: the default of all times that a caller omits."""
    return datetime.now(UTC)


_TRUTHS = {"true": True, "false": False, "1": True, "0": False}


def truth(value: object) -> bool:
    """Return true or false, or raise `InvalidValue`; 1 and 0 are numbers for them."""
    found = _TRUTHS.get(str(value).lower()) if isinstance(value, str | int) else None
    if found is None:
        raise InvalidValue(f"{shown(value)} is neither true nor false")
    return found


def one_of(allowed: tuple[str, ...]) -> Parser:
    """Return a parser that accepts only the given words."""

    def word(value: object) -> str:
        if value not in allowed:
            raise InvalidValue(f"{shown(value)} is not one of {', '.join(allowed)}")
        return str(value)

    return word


def list_of(parse: Parser) -> Parser:
    """Return a parser of lists with at most 300 distinct entries; repeats are dropped."""

    def entries_of(value: object) -> tuple[object, ...]:
        if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
            raise InvalidValue(f"{shown(value)} is not a list")
        entries = tuple(dict.fromkeys(parse(entry) for entry in value))
        if len(entries) > LIST_LENGTH:
            raise InvalidValue(f"has {len(entries):,} entries, more than {LIST_LENGTH}")
        return entries

    return entries_of


def shown(value: object) -> str:
    """Return a value as messages show it: quoted, and cut to 60 characters."""
    try:
        written = repr(value)
    except (ValueError, RecursionError):
        written = f"a {type(value).__name__} too large to show"
    return written if len(written) <= 60 else f"{written[:57]}…"


def key_or_none(value: object) -> str | None:
    """Return a key as text, or None if the value cannot be a key."""
    try:
        return key(value)
    except InvalidValue:
        return None
