"""How one field is read: a parser per kind of value, for files and for Python callers alike.

A parser takes what a CSV cell (text), a JSON value or a Python caller gives, returns the value as
the database keeps it, and raises `InvalidValue` with one sentence about what is wrong. What is
accepted does not depend on the database.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from recommender.errors import InvalidValue

KEY_LENGTH = 255
HASHTAG_LENGTH = 100
CAPTION_LENGTH = 10_000
LIST_LENGTH = 300
MOST_TERMS = 20
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

_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x2FDF),  # radicals of Han
    (0x3005, 0x3007),  # Han iteration and closing marks, zero
    (0x3021, 0x303C),  # Han numerals and marks
    (0x3041, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),  # small Katakana
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),  # Han
    (0xA9E0, 0xA9FF),  # Myanmar
    (0xAA60, 0xAA7F),  # Myanmar
    (0xF900, 0xFAFF),  # Han
    (0x1AFF0, 0x1B16F),  # Kana
    (0x20000, 0x3FFFF),  # Han
)
"""Where the characters of scripts written without spaces between words are."""

_SELECTORS = ((0x180B, 0x180F), (0xFE00, 0xFE0F), (0xE0100, 0xE01EF))
"""Where the variation selectors are: marks that show nothing of their own."""

_URL = re.compile(r"(?:https?://|www\.|\w\.[a-z]{2,}/)\S*", re.IGNORECASE)
_SPECIAL = dict(zip("#\uff03\ufe5f&_\u200c\u200d", "###&_jj", strict=True))
_HASHES = frozenset("#\uff03\ufe5f")
_WORD = re.compile("a[amv]*|u[mv]*")
_TAG = re.compile("#+([au_][au_mv]*(?:j[au_mv]+)*)")

Parser = Callable[[object], object]


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


def caption(value: object) -> str:
    """A caption of at most 10,000 code points."""
    return text(value, CAPTION_LENGTH)


def hashtag(value: object) -> str:
    """The one canonical form of a hashtag, 1 to 100 code points, without leading ``#``.

    NFKC of case-folded NFKC, to a fixed point: one pass is not idempotent for hundreds of
    characters.
    """
    name, before = text(value, CAPTION_LENGTH), None
    while name != before:
        before = name
        name = _folded(name).strip().lstrip("#")
    if len(name) > HASHTAG_LENGTH:
        raise InvalidValue(f"{shown(value)} is a hashtag of more than {HASHTAG_LENGTH} characters")
    if not name:
        raise InvalidValue(f"{shown(value)} is an empty hashtag")
    return listed_key(name)


def _folded(written: str) -> str:
    """One pass of folding, to be repeated until nothing changes."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", written).casefold())


class _Characters(dict[int, str | None]):
    """What `str.translate` puts for each character, found out when it is first met."""

    def __init__(self, put: Callable[[str], str | None]) -> None:
        self._put = put

    def __missing__(self, code: int) -> str | None:
        put = self._put(chr(code))
        if code < 0x20000:  # the rest is rare, and would only fill the memory
            self[code] = put
        return put


def _is_within(ranges: tuple[tuple[int, int], ...], character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in ranges)


def _shown_part(character: str) -> str | None:
    """The character, None where it shows nothing of its own, such as a joiner or a selector."""
    is_hidden = unicodedata.category(character) in {"Cf", "Me"}
    return None if is_hidden or _is_within(_SELECTORS, character) else character


def _shape(character: str) -> str:
    """What a character is to words and hashtags, as a letter for their patterns.

    ``a`` a letter or digit, ``m`` a combining mark; ``u`` and ``v`` the same in an unspaced script;
    ``j`` a joiner; ``#``, ``&`` and ``_`` themselves; a space all else.
    """
    if character in _SPECIAL:
        return _SPECIAL[character]
    category = unicodedata.category(character)
    if category[0] not in "LNM" or category == "Me" or _is_within(_SELECTORS, character):
        return " "
    is_mark, is_unspaced = category[0] == "M", _is_within(_UNSPACED, character)
    return ("mv" if is_mark else "au")[is_unspaced]


_SHOWN = _Characters(_shown_part)
_SHAPES = _Characters(_shape)


def words(text: object) -> str:
    """The words of a text with a space between and around them; empty where there are none.

    Case and compatible forms are folded as in a hashtag. A word is a run of letters, digits and
    combining marks; in scripts without spaces between words every letter with its marks is one. So
    a phrase is in a text where its words are a part of the text's: ``" a b "`` of ``" look a b "``.
    """
    written, before = str(text), None
    while written != before:
        before = written
        written = written.lower() if written.isascii() else _folded(written.translate(_SHOWN))
    found = [written[slice(*word.span())] for word in _WORD.finditer(written.translate(_SHAPES))]
    return f" {' '.join(found)} " if found else ""


def letters(words: str) -> int:
    """How many letters and digits words have, combining marks left out."""
    return sum(_SHAPES[ord(character)] in {"a", "u"} for character in words)


def terms(words: str) -> tuple[int, ...]:
    """What captions are matched by: 20 words of a text at most, as numbers from 0 to 2^63 - 1.

    Words of one character and numbers say nothing; in scripts without spaces between words each
    pair of neighbouring characters is taken.

    Args:
        words: as the function of that name gives them.
    """
    parts = words.split()
    found: dict[str, None] = {}
    for part, following in pairwise([*parts, ""]):
        if _is_unspaced(part):
            found |= {part + following: None} if _is_unspaced(following) else {}
        elif len(part) > 1 and not part.isnumeric():
            found[part] = None
        if len(found) == MOST_TERMS:
            break
    return tuple(dict.fromkeys(map(_term, found)))


def _is_unspaced(word: str) -> bool:
    return _SHAPES[ord(word[0])] == "u" if word else False


@lru_cache(maxsize=2**16)
def _term(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest()) >> 1


def caption_hashtags(caption: str | None) -> tuple[str, ...]:
    """The hashtags written in a caption, in canonical form and in its order, 300 at most.

    A `#` begins one, but not inside a word, after `&` or in a URL; letters, digits, marks and `_`
    of any script follow. What `hashtag` refuses is none.
    """
    if not caption or _HASHES.isdisjoint(caption):
        return ()
    plain = _URL.sub(lambda url: " " * len(url[0]), caption)
    shapes = plain.translate(_SHAPES)
    found: dict[str, None] = {}
    end = 0
    for tag in _TAG.finditer(shapes):
        if tag.start() == end or shapes[tag.start() - 1] not in "am_&":
            end = tag.end()
            found |= dict.fromkeys(_canonical(plain[slice(*tag.span(1))]))
    return tuple(found)[:LIST_LENGTH]


@lru_cache(maxsize=2**14)
def _canonical(written: str) -> tuple[str, ...]:
    try:
        return (hashtag(written),)
    except InvalidValue:
        return ()


class Caption(NamedTuple):
    """A caption as written, and what it says: its words, terms and hashtags."""

    text: str
    words: str
    terms: tuple[int, ...]
    hashtags: tuple[str, ...]


def read_caption(value: object) -> Caption:
    """A caption of at most 10,000 code points with all that it says."""
    written = caption(value)
    found = words(written)
    return Caption(written, found, terms(found), caption_hashtags(written))


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


@dataclass(frozen=True, slots=True)
class Column:
    """One column of an interchange row: how it is parsed, and whether a row must have it."""

    parse: Parser
    required: bool = False
    many: bool = False

    def value(self, given: object) -> object:
        """The parsed value; an empty cell is None, or the empty list.

        Raises:
            InvalidValue: the value is not of this column's form, or is required and empty.
        """
        if given is None or given == "":
            if self.required:
                raise InvalidValue("is required and empty")
            return () if self.many else None
        return self.parse(given)


Columns = Mapping[str, Column]

USER_COLUMNS: Columns = {
    "id": Column(key, required=True),
    "language": Column(key),
    "country": Column(key),
    "device": Column(key),
    "created_at": Column(time),
    "interests": Column(each(hashtag), many=True),
    "liked_sounds": Column(each(listed_key), many=True),
}
VIDEO_COLUMNS: Columns = {
    "id": Column(key, required=True),
    "creator": Column(key, required=True),
    "caption": Column(read_caption),
    "hashtags": Column(each(hashtag), many=True),
    "sound": Column(listed_key),
    "language": Column(key),
    "country": Column(key),
    "duration_ms": Column(count),
    "orientation": Column(one_of(ORIENTATIONS)),
    "published_at": Column(time, required=True),
    "status": Column(one_of(STATUSES)),
}
FOLLOW_COLUMNS: Columns = {
    "user": Column(key, required=True),
    "creator": Column(key, required=True),
    "at": Column(time),
}
EVENT_COLUMNS: Columns = {
    "id": Column(key, required=True),
    "user": Column(key, required=True),
    "video": Column(key, required=True),
    "kind": Column(one_of(KINDS), required=True),
    "at": Column(time, required=True),
    "watch_ms": Column(count),
    "completion": Column(fraction),
}


def parse_row(columns: Columns, row: Mapping[str, object]) -> dict[str, object]:
    """The row with every value parsed; columns that the row has not stay absent.

    Raises:
        InvalidValue: a column is unknown or missing, or a value not of its form; the message
            begins with the column's name.
    """
    if not isinstance(row, Mapping):
        raise InvalidValue(f"{shown(row)} is not a row of columns and values")
    check_names(columns, row.keys())
    parsed = {}
    for name, given in row.items():
        column = columns[name]
        try:
            parsed[name] = column.parse(given) if given else column.value(given)
        except InvalidValue as error:
            raise InvalidValue(f"{name}: {error}") from None
    return parsed


def check_names(columns: Columns, names: Iterable[str]) -> None:
    """Raise `InvalidValue` where a name is unknown or a required one is missing."""
    if names == columns.keys():
        return
    given = list(names)
    if unknown := [name for name in given if name not in columns]:
        raise InvalidValue(f"unknown column {shown(unknown[0])}: there are {', '.join(columns)}")
    if missing := [name for name in columns if columns[name].required and name not in given]:
        raise InvalidValue(f"column {missing[0]} is missing")
