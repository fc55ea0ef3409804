"""formats.scalars: TODO."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from recommender.errors import InvalidValue

KEY_LENGTH = 255

LIST_LENGTH = 300

LIST_SEPARATOR = "|"

LARGEST_COUNT = 2**31 - 1

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)

LATEST = datetime(2100, 1, 1, tzinfo=UTC)

KINDS = (
    "impression", "watch", "like", "unlike", "share", "comment", "save", "unsave",
    "not_interested", "report",
)  # fmt: skip

STATUSES = ("published", "review", "removed")

ORIENTATIONS = ("portrait", "landscape", "square")

_TIME = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.(?P<fraction>\d+))?)?(?P<offset>Z|[+-]\d\d:?\d\d)?",
    re.ASCII,
)

_COUNT = re.compile(r"\d{1,20}", re.ASCII)

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)

_REFUSED_IN_TEXT = re.compile("[\x00\ud800-\udfff]")

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
    """Any text of at most `longest` code points without NUL and lone surrogates."""
    if not isinstance(value, str):
        raise InvalidValue(f"{shown(value)} is not text")
    if len(value) <= longest and value.isprintable():
        return value
    if len(value) > longest:
        raise InvalidValue(f"is {len(value):,} characters long, more than {longest:,}")
    if refused := _REFUSED_IN_TEXT.search(value):
        raise InvalidValue(f"has the character U+{ord(refused[0]):04X}, which no database keeps")
    return value


def key(value: object) -> str:
    """A key of 1 to 255 code points, kept as written."""
    if value == "":
        raise InvalidValue("is empty")
    return text(value)


def listed_key(value: object) -> str:
    """A key that can stand in a list of a CSV cell, so one without the list separator."""
    if LIST_SEPARATOR in (parsed := key(value)):
        raise InvalidValue(f"{shown(value)} has a {LIST_SEPARATOR}, which separates lists")
    return parsed


def count(value: object) -> int:
    """A whole number from 0 to 2,147,483,647."""
    if isinstance(value, str):
        value = int(value) if _COUNT.fullmatch(value) else value
    elif isinstance(value, float):
        value = int(value) if value.is_integer() else value
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidValue(f"{shown(value)} is not a whole number")
    if not 0 <= value <= LARGEST_COUNT:
        raise InvalidValue(f"{shown(value)} is not between 0 and {LARGEST_COUNT:,}")
    return value


def number(value: object, low: float, high: float) -> float:
    """A finite number from `low` to `high`."""
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
    return parsed + 0.0  # never -0.0, which one database keeps and the other does not


def fraction(value: object) -> float:
    """A finite number from 0 to 1."""
    return number(value, 0.0, 1.0)


def time(value: object) -> datetime:
    """A time from 1970 to 2100 with an offset and at most microseconds, in UTC."""
    moment = value if isinstance(value, datetime) else _moment(value)
    if moment.tzinfo is not UTC:
        moment = _in_utc(moment, value)
    if not EARLIEST <= moment < LATEST:
        raise InvalidValue(f"{shown(value)} is not between 1970 and 2100")
    return moment


def _in_utc(moment: datetime, value: object) -> datetime:
    if moment.utcoffset() is None:
        raise InvalidValue(f"{shown(value)} has no offset from UTC (such as Z or +02:00)")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise InvalidValue(f"{shown(value)} is not between 1970 and 2100") from None


def _moment(value: object) -> datetime:
    matched = _TIME.fullmatch(value) if isinstance(value, str) else None
    if matched is None:
        raise InvalidValue(f"{shown(value)} is not a time such as 2026-01-31T12:00:00Z")
    if len(matched["fraction"] or "") > 6:
        raise InvalidValue(f"{shown(value)} is finer than a microsecond")
    try:
        return datetime.fromisoformat(matched[0])
    except ValueError as error:
        raise InvalidValue(f"{shown(value)} is not a time: {error}") from None


def written_time(moment: datetime) -> str:
    """A time in UTC as all output writes it, such as 2026-01-31T12:00:00Z."""
    return moment.isoformat().replace("+00:00", "Z")


def now() -> datetime:
    """The clock, in UTC: the default of every time that a caller leaves out."""
    return datetime.now(UTC)


def one_of(allowed: tuple[str, ...]) -> Parser:
    """A parser for one of a few words."""

    def word(value: object) -> str:
        if value not in allowed:
            raise InvalidValue(f"{shown(value)} is not one of {', '.join(allowed)}")
        return str(value)

    return word


def each(parse: Parser) -> Parser:
    """A parser for a list: each part parsed, repeats left out, 300 at the most."""

    def many(value: object) -> tuple[object, ...]:
        if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
            raise InvalidValue(f"{shown(value)} is not a list")
        parts = tuple(dict.fromkeys(parse(part) for part in value))
        if len(parts) > LIST_LENGTH:
            raise InvalidValue(f"has {len(parts):,} entries, more than {LIST_LENGTH}")
        return parts

    return many


def shown(value: object) -> str:
    """A value as a message shows it: quoted, and cut where it is long."""
    try:
        written = repr(value)
    except (ValueError, RecursionError):
        written = f"a {type(value).__name__} too large to show"
    return written if len(written) <= 60 else f"{written[:57]}…"


def is_key(value: str) -> bool:
    """Whether a value can be a key."""
    try:
        return bool(key(value))
    except InvalidValue:
        return False
