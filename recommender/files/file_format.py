"""The format options of an import, for files that other programs wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from typing import Literal, TypeAlias, get_args
from zoneinfo import ZoneInfo

from recommender.errors import InvalidValue
from recommender.formats import scalars

TimeUnit: TypeAlias = Literal["s", "ms", "year"]

TIME_UNITS: tuple[TimeUnit, ...] = get_args(TimeUnit)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFormat:
    """The format of a file: its delimiters, its times, and how its columns are named.

    Columns are called by their names in the interchange format, such as ``user``.

    Args:
        delimiter: the character between two cells of CSV. None finds a comma, a semicolon, a tab
            or a ``|`` in the header.
        list_separator: the text between the entries of a list in a cell of CSV. A cell that begins
            with ``[`` is a list in JSON.
        time_unit: the meaning of a number as a time: ``s`` or ``ms`` are seconds or milliseconds
            since 1970, ``year`` is the beginning of a year. None refuses numbers.
        timezone: the time zone of times without an offset, such as ``Europe/Berlin``. None refuses
            them.
        columns: the file's name of a column, by the column: ``{"user": "userId"}``.
        values: the meaning of the file's words, by the column: ``{"kind": {"view": "watch"}}``.
        constants: the value of a column in every row, as a cell of CSV: ``{"kind": "watch"}``.
        ignore_unknown: leave out the file's other columns. Otherwise they are bad data.
        ids: for an array that NumPy saved: the path of a file of ids, one per line.

    Raises:
        InvalidValue: an option is not valid.
    """

    delimiter: str | None = None
    list_separator: str = scalars.LIST_SEPARATOR
    time_unit: TimeUnit | None = None
    timezone: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)
    ignore_unknown: bool = False
    ids: str | None = None

    def __post_init__(self) -> None:
        if self.delimiter is not None:
            scalars.parse_named("delimiter", _one_character, self.delimiter)
        scalars.parse_named("list_separator", scalars.label, self.list_separator)
        if self.time_unit is not None:
            scalars.parse_named("time_unit", scalars.one_of(TIME_UNITS), self.time_unit)
        scalars.parse_named("timezone", _zone, self.timezone)
        if self.ids is not None:
            scalars.parse_named("ids", scalars.text, self.ids)
        _check_texts("columns", self.columns)
        _check_texts("constants", self.constants)
        for column, meanings in self.values.items():
            _check_texts(f"values of {column}", meanings)
        if twice := self.constants.keys() & (self.columns.keys() | self.values.keys()):
            raise InvalidValue(f"{min(twice)}: is read from a column and has a constant value, too")

    @property
    def zone(self) -> tzinfo | None:
        """The time zone of times without an offset; None refuses them."""
        return _zone(self.timezone)


def _check_texts(name: str, texts: Mapping[str, str]) -> None:
    for text in (*texts, *texts.values()):
        scalars.parse_named(name, scalars.text, text)


def _one_character(value: object) -> str:
    if not isinstance(value, str) or len(value) != 1 or value in '"\r\n\0':
        raise InvalidValue(f"{scalars.shown(value)} is not one character, such as ; or \\t")
    return value


def _zone(name: str | None) -> tzinfo | None:
    if name is None:
        return None
    if name == "UTC":
        return UTC  # without the time zone database, which some containers lack
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError, TypeError):
        raise InvalidValue(
            f"there is no time zone {scalars.shown(name)}; if this system has none at all, install"
            " the package tzdata"
        ) from None
