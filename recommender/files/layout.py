"""How the rows of one file become rows of the interchange format."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from difflib import get_close_matches
from functools import partial
from shlex import quote
from typing import Any

from recommender.errors import InvalidValue
from recommender.files.file_format import FileFormat
from recommender.formats import rows, scalars
from recommender.formats.scalars import TimeParser

DELIMITERS = ",;\t|"
"""The delimiters that are looked for in a header; a comma if several fit equally well."""

LONGEST_HEADER = 10_000
"""The number of characters of a header in which its delimiter is looked for."""

_CUT = re.compile(r"[.,]\d{6}\d*[1-9]", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_WITHOUT_CUT = len("2026-01-31T12:00:00.123456")
_MICROSECONDS = {"s": 1_000_000, "ms": 1_000}
_NUMBER = re.compile(r"-?\d{1,20}(\.\d+)?", re.ASCII)


class FileTimes:
    """The parser of the times of one file.

    Attributes:
        cut: the number of times that were finer than a microsecond.
    """

    def __init__(self, form: FileFormat) -> None:
        self.cut = 0
        self._unit = form.time_unit
        self._zone = form.zone

    def parse(self, read: TimeParser, value: object) -> datetime | None:
        """Return a time in UTC, or raise `InvalidValue`; the message names the option to use.

        Args:
            read: the parser of the column, one of `TIME_PARSERS`.
            value: the cell.
        """
        try:
            if self._unit and (number := _number(value)) is not None:
                return self._of_number(read, number)
            moment = read(value, self._zone)
        except InvalidValue as error:
            raise InvalidValue(f"{error}{self._advice(value, str(error))}") from None
        if isinstance(value, str) and len(value) > _LONGEST_WITHOUT_CUT and _CUT.search(value):
            self.cut += 1
        return moment

    def _of_number(self, read: TimeParser, number: Decimal) -> datetime | None:
        try:
            if self._unit == "year":
                return read(datetime(int(number), 1, 1), self._zone or UTC)  # noqa: DTZ001
            exact = number * _MICROSECONDS[str(self._unit)]
            moment = read(_EPOCH + timedelta(microseconds=int(exact)), None)
        except (InvalidValue, ValueError, OverflowError):
            raise InvalidValue(f"{number} is not a time by --time-unit {self._unit}") from None
        self.cut += exact != int(exact)
        return moment

    def _advice(self, value: object, error: str) -> str:
        if self._unit is None and _number(value) is not None:
            return "; for numbers, give --time-unit s, ms or year"
        if self._zone is None and "no offset" in error:
            return "; --timezone gives one to all times that have none"
        return ""


def _number(value: object) -> Decimal | None:
    written = str(value) if isinstance(value, str | int | float) else ""
    return Decimal(written) if _NUMBER.fullmatch(written) else None


class Layout:
    """The columns of one kind of row, and where a file has their values.

    Args:
        columns: the columns of the kind.
        form: the format options.

    Attributes:
        columns: the columns with the parsers for this file.
        times: the parser of all times.
        maps_rows: whether a row is changed before it is parsed.

    Raises:
        InvalidValue: an option names a column that the kind does not have.
    """

    def __init__(self, columns: rows.Columns, form: FileFormat | None = None) -> None:
        self.form = form or FileFormat()
        self.times = FileTimes(self.form)
        self.columns = {
            name: replace(column, parse=partial(self.times.parse, column.parse))
            if column.parse in scalars.TIME_PARSERS
            else column
            for name, column in columns.items()
        }
        self._check_options()
        options = (self.form.columns, self.form.values, self.form.constants)
        self.maps_rows = any(options) or self.form.ignore_unknown
        # From our columns to the file's; a constant has no column there.
        self._sources = {
            name: self.form.columns.get(name, name)
            for name in columns
            if name not in self.form.constants
        }
        self._constants = {
            name: self.cell(name, text) for name, text in self.form.constants.items()
        }
        self._used = {*self._sources.values(), *self._constants}
        self._check_values()

    def _check_options(self) -> None:
        form = self.form
        for name in (*form.columns, *form.values, *form.constants):
            scalars.parse_named("column", scalars.one_of(tuple(self.columns)), name)
        if lists := [name for name in form.values if self.columns[name].many]:
            raise InvalidValue(f"values: {lists[0]} is a list, whose words have no other meaning")

    def _check_values(self) -> None:
        """Raise `InvalidValue` if an option gives a value that no row may have."""
        meanings = [
            (name, meaning)
            for name, words in self.form.values.items()
            for meaning in words.values()
            if meaning
        ]
        for name, value in (*self._constants.items(), *meanings):
            scalars.parse_named(name, self.columns[name].value, value)
        self.times.cut = 0  # only times of rows count

    def delimiter(self, header: str) -> str:
        """Return the delimiter of a header: the one that finds the most known columns."""

        def fit(delimiter: str) -> tuple[int, int]:
            cells = next(csv.reader([header[:LONGEST_HEADER]], delimiter=delimiter), [])
            return len(self._used.intersection(cells)), len(cells)

        return self.form.delimiter or max(DELIMITERS, key=fit)

    def cell(self, name: str, cell: str) -> Any:
        """Return a cell of CSV as JSON would have it: a list if the column has lists.

        Raises:
            InvalidValue: a list in JSON is broken.
        """
        if not cell or not self.columns[name].many:
            return cell
        if not cell.startswith("["):
            return cell.split(self.form.list_separator)
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            raise InvalidValue(
                f'{name}: {scalars.shown(cell)} begins like a JSON list, such as ["a", "b"],'
                " but is not one"
            ) from None

    def picks(self, header: Sequence[str]) -> list[tuple[str, int]]:
        """Return the columns that a header has, with the indices of their cells.

        Raises:
            InvalidValue: a column is repeated, unknown or missing.
        """
        read = [name for name in header if name in self._used or not self.form.ignore_unknown]
        if repeated := [name for name in read if read.count(name) > 1]:
            raise InvalidValue(f"column {scalars.shown(repeated[0])} stands there twice")
        self._check_known(header)
        named = [*self.form.columns.values(), *(self._sources[name] for name in self.form.values)]
        if absent := [name for name in named if name not in header]:
            raise InvalidValue(
                f"the file has no column {scalars.shown(absent[0])}, it has {', '.join(header)}"
            )
        places = {name: index for index, name in enumerate(header)}
        picks = [(n, places[source]) for n, source in self._sources.items() if source in places]
        try:
            rows.check_names(self.columns, names := [*dict(picks), *self._constants])
        except rows.ColumnError as error:
            raise InvalidValue(f"{error}{self.advice(names)}") from None
        return sorted(picks, key=lambda pick: pick[1])

    def renamed(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return an object of JSON with the columns of the interchange format.

        Raises:
            InvalidValue: a column is unknown.
        """
        self._check_known(row)
        named = {name: row[source] for name, source in self._sources.items() if source in row}
        return self.completed(named)

    def completed(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a row with the meanings of its words, and with the constants."""
        for name, meanings in self.form.values.items():
            if name in row:
                row[name] = meanings.get(_word(row[name]), row[name])
        return row | self._constants

    def advice_on_word(self, row: Mapping[str, Any], error: str) -> str:
        """Return the option that helps if a row was refused because of a word."""
        name = error.partition(":")[0]
        if " is not one of " not in error:
            return ""
        place = quote(f"{name}:{_word(row[name])}")
        return f"; give --value {place}=WORD to say which of them it means"

    def advice(self, names: Collection[str]) -> str:
        """Return the options that help if a row's columns were refused."""
        if unknown := [name for name in names if name not in self.columns]:
            return self._advice_on_unknown(unknown[0])
        missing = rows.missing_names(self.columns, names)
        return _advice_on_missing(missing[0]) if missing else ""

    def _check_known(self, names: Collection[str]) -> None:
        unknown = [name for name in names if name not in self._used]
        if not unknown or self.form.ignore_unknown:
            return
        name = scalars.shown(unknown[0])
        if other := self.form.columns.get(unknown[0]):
            reason = (
                f"column {name} is not read, because --column reads {scalars.shown(other)} as it"
            )
            raise InvalidValue(f"{reason}; give --ignore-unknown to leave such columns out")
        known = ", ".join(self.columns)
        advice = self._advice_on_unknown(unknown[0])
        raise InvalidValue(f"unknown column {name}: there are {known}{advice}")

    def _advice_on_unknown(self, name: str) -> str:
        if name[:1].isdigit():
            return "; the first line of CSV has the names of the columns"
        similar = get_close_matches(name.lower(), self.columns, 1, 0.5)
        column = f"--column {similar[0] if similar else 'COLUMN'}={quote(name)}"
        return f"; give {column} to read it, or --ignore-unknown to leave such columns out"


def _advice_on_missing(name: str) -> str:
    constant = "" if name == "id" else f", or --set {name}=VALUE to give it one value"
    return f"; give --column {name}=NAME to read another column of the file{constant}"


def _word(value: object) -> str:
    """Return a value as a cell of CSV would have it."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, default=str)
