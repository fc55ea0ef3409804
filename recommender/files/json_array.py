"""Read the objects of a JSON array one by one, so that memory does not grow with the array."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

from recommender.errors import BadData

READ_CHARACTERS = 65_536
"""The number of characters that are read together."""

LONGEST_TOKEN = 20
"""The distance from the end of the text within which an error may come from its cut."""

_SPACE = re.compile(r"[ \t\r\n]*")

_decode = json.JSONDecoder().raw_decode


class JsonArray:
    """The entries of a JSON array, as their texts.

    Args:
        read: returns at most as many characters as its argument says, and "" at the end.
        limit: the length limit of an entry in characters.

    Attributes:
        number: the number of the current entry, from 1.
    """

    def __init__(self, read: Callable[[int], str], limit: int) -> None:
        self.number = 1
        self._read = read
        self._limit = limit
        self._text = ""
        self._place = 0

    def __iter__(self) -> Iterator[str]:
        """Yield the entries as text.

        Raises:
            BadData: the rest cannot be read.
        """
        if self._next_character() != "[":
            raise BadData("not a JSON array")
        self._place += 1
        if self._next_character() == "]":
            self._place += 1
        else:
            yield from self._entries()
        if self._next_character():
            raise BadData("there is text after the array")

    def _entries(self) -> Iterator[str]:
        while True:
            end = self._end_of_entry()
            yield self._text[self._place : end]
            self.number += 1
            self._place = end
            separator = self._next_character()
            self._place += 1
            if separator == "]":
                return
            if separator != ",":
                raise BadData("not JSON: the array does not go on with a comma, or end with a ]")
            self._next_character()

    def _next_character(self) -> str:
        """Move to the next character that is no space, and return it; "" at the end."""
        while True:
            self._place = _SPACE.match(self._text, self._place).end()  # type: ignore[union-attr]
            if self._place < len(self._text) or not self._read_more():
                return self._text[self._place : self._place + 1]

    def _end_of_entry(self) -> int:
        while True:
            try:
                end: int = _decode(self._text, self._place)[1]
            except (ValueError, RecursionError) as error:
                self._go_on_or_raise(error)
                continue
            if end - self._place > self._limit:
                raise self._too_long()
            # A number at the end of the text may go on.
            if end < len(self._text) or not self._read_more():
                return end

    def _go_on_or_raise(self, error: Exception) -> None:
        """Read more if the entry goes on behind the text that was read."""
        message = getattr(error, "msg", str(error))
        is_cut = isinstance(error, json.JSONDecodeError) and (
            error.pos >= len(self._text) - LONGEST_TOKEN or message.startswith("Unterminated")
        )
        if is_cut and len(self._text) - self._place > self._limit:
            raise self._too_long()
        if not is_cut or not self._read_more():
            raise BadData(f"not JSON: {message}") from error

    def _too_long(self) -> BadData:
        return BadData(f"longer than {self._limit:,} characters")

    def _read_more(self) -> str:
        if more := self._read(READ_CHARACTERS):
            self._text, self._place = self._text[self._place :] + more, 0
        return more
