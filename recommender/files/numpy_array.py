"""Read the rows of an array that NumPy saved (`.npy`), with their ids from another file."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import lazy_loader

from recommender.errors import BadData, NotFound
from recommender.formats import scalars

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_loader.load("numpy")  # what reads no vectors starts without it

MAGIC = b"\x93NUMPY"

MAX_ROW_NUMBERS = 100_000

CHARACTERS_PER_NUMBER = 10
"""About the length of a number in JSON; a batch is limited in characters."""


def array_rows(binary: BinaryIO, ids: str | None) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield the rows of an array as `id` and `vector`, each with its length in characters.

    Args:
        binary: the stream of the array.
        ids: the path of a file of ids, one per line, in the order of the rows.

    Raises:
        BadData: it is no array of numbers with two axes, or it has not as many rows as ids.
        NotFound: there is no file of ids.
    """
    if ids is None:
        raise BadData("an array of NumPy has no ids: give --ids FILE, with one id on each line")
    kind, (rows, width) = _header(binary)
    size = kind.itemsize * width
    with closing(_ids(ids)) as keys:
        for place in range(rows):
            data = binary.read(size)
            if len(data) < size:
                raise BadData(f"row {place + 1}: the file ends within it")
            key = next(keys, None)
            if key is None:
                raise BadData(f"the array has {rows:,} rows, and {ids} only {place:,} ids")
            yield {"id": key, "vector": _list(data, kind)}, CHARACTERS_PER_NUMBER * width
        if next(keys, None) is not None:
            raise BadData(f"the array has {rows:,} rows, and {ids} more ids")


def _header(binary: BinaryIO) -> tuple[np.dtype[Any], tuple[int, int]]:
    """Read the header of an array: the kind of its numbers, its rows and columns."""
    saved = np.lib.format
    try:
        if saved.read_magic(binary) != (1, 0):  # later versions have long names of columns
            raise ValueError
        shape, is_fortran, kind = saved.read_array_header_1_0(binary)
    except (ValueError, EOFError):
        raise BadData("not an array that NumPy saved") from None
    if len(shape) != 2 or kind.kind not in "fiu":
        raise BadData(f"the array has the shape {shape} of {kind}, not rows of numbers")
    if is_fortran and min(shape) > 1:
        raise BadData("the array is stored by columns: save numpy.ascontiguousarray of it")
    if not 1 <= shape[1] <= MAX_ROW_NUMBERS:
        raise BadData(f"its rows have {shape[1]:,} numbers, not 1 to {MAX_ROW_NUMBERS:,}")
    return kind, (shape[0], shape[1])


def _list(data: bytes, kind: np.dtype[Any]) -> list[float]:
    numbers: list[float] = np.frombuffer(data, dtype=kind).tolist()
    return numbers


def _ids(path: str) -> Generator[str, None, None]:
    try:
        with Path(path).open(encoding="utf-8-sig") as text:
            yield from (line.rstrip("\n") for line in text)
    except OSError:
        raise NotFound(f"there is no file {scalars.shown(path)} of ids that can be read") from None
    except UnicodeDecodeError:
        raise BadData(f"{path} is not UTF-8: save it in UTF-8") from None
