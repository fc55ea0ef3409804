"""Vectors: what a row may have, and what is kept of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recommender.errors import InvalidValue
from recommender.formats.vectors import MOST_DIMENSIONS, vector

WRONG: dict[str, tuple[Any, str]] = {
    "text": ("abc", "'abc' is no list of numbers"),
    "number": (5, "5 is no list of numbers"),
    "object": ({"a": 1}, "{'a': 1} is no list of numbers"),
    "list of texts": (["1", "2"], "is no list of numbers"),
    "truth values": ([True, False], "is no list of numbers"),
    "array of truth values": (np.array([True]), "is no list of numbers"),
    "nested": ([[1, 2], [3, 4]], "is no list of numbers"),
    "ragged": ([[1, 2], [3]], "is no list of numbers"),
    "with null": ([1, None], "is no list of numbers"),
    "complex": ([1j], "is no list of numbers"),
    "empty": ([], "it has 0 numbers, not 1 to 4,000"),
    "too long": ([1.0] * (MOST_DIMENSIONS + 1), "it has 4,001 numbers, not 1 to 4,000"),
    "not a number": ([1.0, math.nan], "number 2 is nan, which is not finite"),
    "infinite": ([-math.inf, 1.0], "number 1 is -inf, which is not finite"),
    "too large": ([1, 10**400], "is no list of numbers"),
    "zero": ([0, 0.0, -0.0], "all its numbers are 0, so it has no direction"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_has_no_direction_is_refused(case: str) -> None:
    written, message = WRONG[case]
    with pytest.raises(InvalidValue) as error:
        vector(written)
    assert message in str(error.value)
    assert len(str(error.value)) < 120


@pytest.mark.parametrize(
    "written",
    [
        [3, 4],
        (3, 4),
        np.array([3, 4]),
        np.array([3, 4], dtype=np.float16),
        [3e300, 4e300],
        [1.2e308, 1.6e308],
    ],
)
def test_only_the_direction_is_kept(written: Any) -> None:
    parsed = vector(written)
    assert parsed.dtype == np.float32
    assert parsed.tolist() == pytest.approx([0.6, 0.8])


FINITE = st.floats(-1e300, 1e300, allow_subnormal=False)


@given(st.lists(FINITE, min_size=1, max_size=20).filter(any))
def test_every_vector_has_length_1_and_comes_back_as_it_is(written: list[float]) -> None:
    """Also after the half precision in which PostgreSQL keeps it."""
    once = vector(written)
    assert np.linalg.norm(once.astype(np.float64)) == pytest.approx(1, abs=1.1e-3)
    assert vector(once.tolist()).tolist() == once.tolist()
    half = once.astype(np.float16).astype(np.float32)
    assert vector(half.tolist()).astype(np.float16).tolist() == once.astype(np.float16).tolist()
