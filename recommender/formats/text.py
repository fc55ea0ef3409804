"""How one field is read: a parser per kind of value, for files and for Python callers alike.

A parser takes what a CSV cell (text), a JSON value or a Python caller gives, returns the value as
the database keeps it, and raises `InvalidValue` with one sentence about what is wrong. What is
accepted does not depend on the database.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from recommender.errors import InvalidValue
from recommender.formats.scalars import LIST_LENGTH, listed_key, shown, text

HASHTAG_LENGTH = 100

CAPTION_LENGTH = 10_000

MOST_TERMS = 20

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
