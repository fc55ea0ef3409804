"""Captions and hashtags: their canonical form, and the words and terms of a text.

Case and compatible characters are folded, so that different spellings of a word are one word.
Scripts written without spaces, such as Thai and Chinese, are divided into their characters.
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
"""The code points of scripts that are written without spaces between words."""

_SELECTORS = ((0x180B, 0x180F), (0xFE00, 0xFE0F), (0xE0100, 0xE01EF))
"""The code points of variation selectors, which show nothing of their own."""

_URL = re.compile(r"(?:https?://|www\.|\w\.[a-z]{2,}/)\S*", re.IGNORECASE)

_SPECIAL = dict(zip("#\uff03\ufe5f&_\u200c\u200d", "###&_jj", strict=True))

_HASHES = frozenset("#\uff03\ufe5f")

_REFUSED_IN_HASHTAG = re.compile(r"""[,;\[\]{}"]|\A'""")
"""The marks of a list that was not divided. An apostrophe inside a word is none."""

_LIST_HINT = 'lists are dance|cooking or ["dance", "cooking"], or as --list-separator says'

_WORD = re.compile("a[amv]*|u[mv]*")

_TAG = re.compile("#+([au_][au_mv]*(?:j[au_mv]+)*)")


def caption(value: object) -> str:
    """Return a caption of at most 10,000 code points, or raise `InvalidValue`."""
    return text(value, CAPTION_LENGTH)


def hashtag(value: object) -> str:
    """Return the canonical form of a hashtag, 1 to 100 code points, without leading ``#``.

    Raises:
        InvalidValue: the value is empty or too long, or has a character that separates lists: a
            comma, a semicolon, a bracket, a quote, or the separator of CSV lists.
    """
    name, before = text(value, CAPTION_LENGTH), None
    # Repeated to a fixed point: one pass is not idempotent for hundreds of characters.
    while name != before:
        before = name
        name = _folded(name).strip().lstrip("#")
    if len(name) > HASHTAG_LENGTH:
        raise InvalidValue(f"{shown(value)} is a hashtag of more than {HASHTAG_LENGTH} characters")
    if not name:
        raise InvalidValue(f"{shown(value)} is an empty hashtag")
    if refused := _REFUSED_IN_HASHTAG.search(name):
        raise InvalidValue(
            f"{shown(value)} has a {refused[0]} and is no single hashtag: {_LIST_HINT}"
        )
    return listed_key(name)


def _folded(written: str) -> str:
    """Return a text after one pass of folding: NFKC of case-folded NFKC."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", written).casefold())


class _TranslationTable(dict[int, str | None]):
    """A table for `str.translate`, computed for a character when it first occurs."""

    def __init__(self, translate: Callable[[str], str | None]) -> None:
        self._translate = translate

    def __missing__(self, code: int) -> str | None:
        translation = self._translate(chr(code))
        if code < 0x20000:  # higher code points are rare and would only fill the memory
            self[code] = translation
        return translation


def _is_within(ranges: tuple[tuple[int, int], ...], character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in ranges)


def _visible(character: str) -> str | None:
    """Return the character, or None if it shows nothing of its own, such as a joiner."""
    is_hidden = unicodedata.category(character) in {"Cf", "Me"}
    return None if is_hidden or _is_within(_SELECTORS, character) else character


def _shape(character: str) -> str:
    """Return the class of a character, as a letter for the patterns of words and hashtags.

    ``a`` is a letter or digit, ``m`` a combining mark; ``u`` and ``v`` are the same in an unspaced
    script. ``j`` is a joiner. ``#``, ``&`` and ``_`` stand for themselves, a space for all others.
    """
    if character in _SPECIAL:
        return _SPECIAL[character]
    category = unicodedata.category(character)
    if category[0] not in "LNM" or category == "Me" or _is_within(_SELECTORS, character):
        return " "
    is_mark, is_unspaced = category[0] == "M", _is_within(_UNSPACED, character)
    return ("mv" if is_mark else "au")[is_unspaced]


_VISIBLE = _TranslationTable(_visible)

_SHAPES = _TranslationTable(_shape)


def words(text: object) -> str:
    """Return the words of a text, with a space between and around them; empty without words.

    Case and compatible forms are folded as in a hashtag. A word is a run of letters, digits and
    combining marks. In unspaced scripts every letter with its marks is a word. So a text contains a
    phrase if its words contain the phrase's words: ``" look a b "`` contains ``" a b "``.
    """
    written, before = str(text), None
    while written != before:
        before = written
        written = written.lower() if written.isascii() else _folded(written.translate(_VISIBLE))
    matches = _WORD.finditer(written.translate(_SHAPES))
    parts = [written[slice(*match.span())] for match in matches]
    return f" {' '.join(parts)} " if parts else ""


def letter_count(words: str) -> int:
    """Return the number of letters and digits in words, without combining marks."""
    return sum(_SHAPES[ord(character)] in {"a", "u"} for character in words)


def terms(words: str) -> tuple[int, ...]:
    """Return the first 20 distinct terms of a text, as numbers from 0 to 2^63 - 1.

    Captions are compared by their terms. A term is a word; words of one character and numbers are
    left out. In unspaced scripts a term is a pair of neighbouring characters.

    Args:
        words: the result of `words`.
    """
    distinct: dict[str, None] = {}
    for word, following in pairwise([*words.split(), ""]):
        if _is_unspaced(word):
            distinct |= {word + following: None} if _is_unspaced(following) else {}
        elif len(word) > 1 and not word.isnumeric():
            distinct[word] = None
        if len(distinct) == MOST_TERMS:
            break
    return tuple(dict.fromkeys(map(_term_number, distinct)))


def _is_unspaced(word: str) -> bool:
    return _SHAPES[ord(word[0])] == "u" if word else False


@lru_cache(maxsize=2**16)
def _term_number(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest()) >> 1


def caption_hashtags(caption: str | None) -> tuple[str, ...]:
    """Return the first 300 hashtags of a caption, in canonical form and in order.

    A hashtag is a `#` followed by letters, digits, marks and `_` of any script. It does not begin
    inside a word, after `&`, or in a URL. Texts that `hashtag` refuses are left out.
    """
    if not caption or _HASHES.isdisjoint(caption):
        return ()
    plain = _URL.sub(lambda url: " " * len(url[0]), caption)
    shapes = plain.translate(_SHAPES)
    hashtags: dict[str, None] = {}
    end = 0
    for match in _TAG.finditer(shapes):
        if match.start() == end or shapes[match.start() - 1] not in "am_&":
            end = match.end()
            hashtags |= dict.fromkeys(_accepted_hashtag(plain[slice(*match.span(1))]))
    return tuple(hashtags)[:LIST_LENGTH]


@lru_cache(maxsize=2**14)
def _accepted_hashtag(written: str) -> tuple[str, ...]:
    """Return the hashtag in canonical form, or nothing if it is refused."""
    try:
        return (hashtag(written),)
    except InvalidValue:
        return ()


class Caption(NamedTuple):
    """A caption as written, with its words, terms and hashtags."""

    text: str
    words: str
    terms: tuple[int, ...]
    hashtags: tuple[str, ...]


def read_caption(value: object) -> Caption:
    """Return a caption of at most 10,000 code points, analysed, or raise `InvalidValue`."""
    written = caption(value)
    caption_words = words(written)
    return Caption(written, caption_words, terms(caption_words), caption_hashtags(written))
