"""Vectors: lists of numbers that a host's model computes for a video; and names of spaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import lazy_loader

from recommender.errors import InvalidValue
from recommender.formats.scalars import identifier, shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float32]
else:
    np = lazy_loader.load("numpy")  # what reads no vectors starts without it

AnyVector: TypeAlias = "Sequence[float] | NDArray[Any]"
"""A vector as a host writes it."""

MOST_DIMENSIONS = 4_000
"""The largest number of dimensions: the most that an index on PostgreSQL takes."""

ROUNDING = 0.001
"""The largest change of a vector's length by half precision."""

MOST_SHOWN = 40

LONGEST_SPACE = 36
"""The most bytes of a space's name: its table, keys and index have names of up to 63 with it."""


def space_name(value: object) -> str:
    """Return the name of a space: a word in lower case, or raise `InvalidValue`."""
    name = identifier(value).lower()
    if len(name.encode()) > LONGEST_SPACE:
        raise InvalidValue(f"{shown(name)} is longer than {LONGEST_SPACE} bytes")
    return name


def vector(value: object) -> Floats:
    """Return the direction of a vector: its numbers scaled to length 1, or raise `InvalidValue`.

    Cosines compare directions only, so the length of a vector is not kept.
    """
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InvalidValue(f"{_shown(value)} is no list of numbers") from None
    is_list = isinstance(value, list | tuple | np.ndarray) and numbers.ndim == 1
    if not is_list or _has_others(value):
        raise InvalidValue(f"{_shown(value)} is no list of numbers")
    if not 1 <= numbers.size <= MOST_DIMENSIONS:
        raise InvalidValue(f"it has {numbers.size:,} numbers, not 1 to {MOST_DIMENSIONS:,}")
    if not np.isfinite(numbers).all():
        place = int(np.flatnonzero(~np.isfinite(numbers))[0])
        raise InvalidValue(f"number {place + 1} is {numbers[place]}, which is not finite")
    largest = float(np.abs(numbers).max())
    if largest == 0:
        raise InvalidValue("all its numbers are 0, so it has no direction")
    scaled = numbers / largest  # squares neither overflow nor vanish
    length = float(np.sqrt(scaled @ scaled))
    # A vector that was stored, and rounded, stays as it is.
    has_length_1 = abs(length * largest - 1) < ROUNDING
    return (numbers if has_length_1 else scaled / length).astype(np.float32)


def _has_others(value: Any) -> bool:
    """Return whether NumPy would read something else as numbers: texts, truth values, None."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind not in "fiu"
    kinds = set(map(type, value))
    return not all(issubclass(k, int | float | np.number) and k is not bool for k in kinds)


def _shown(value: object) -> str:
    text = shown(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"
