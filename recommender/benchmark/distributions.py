"""benchmark.distributions: TODO."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

import numpy as np

from recommender.learning.affinities import Rules

Numbers: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"


Columns: TypeAlias = Mapping[str, "Sequence[Any] | Numbers"]
"""Columns of some rows by their names: times are `datetime64`, and NaT, NaN and None are NULL."""


END = datetime(2026, 1, 1, tzinfo=UTC)
"""The reading time of a world: nothing happens any more."""


DAY_US = 86_400_000_000


def named_rows(ids: Numbers, column: str, word: str) -> Columns:
    return {"id": ids, column: [f"{word}{each}" for each in ids.tolist()]}


def before_end(days: int) -> Any:
    return np.datetime64(END.replace(tzinfo=None), "us") - np.timedelta64(days * DAY_US, "us")


def zipf_rank(chance: Numbers, among: int) -> Numbers:
    """A rank from 1, in proportion to about 1 / rank."""
    ranks: Numbers = np.minimum(among, np.exp(chance * math.log(among + 1)).astype(int))
    return ranks


def id_step(among: int) -> int:
    """How far apart ids of following ranks are: about a golden part, and prime to their number."""
    return next(s for s in range(int(among * 0.618) or 1, 2 * among + 1) if math.gcd(s, among) == 1)


def id_of_rank(ranks: Numbers, among: int) -> Numbers:
    """Ids scattered over the whole range, each rank its own."""
    return ranks * id_step(among) % among + 1


def rank_of_id(ids: Numbers, among: int) -> Numbers:
    if among == 1:
        return ids
    ranks = (ids - 1) * pow(id_step(among), -1, among) % among
    return np.where(ranks == 0, among, ranks)


def skewed_counts(chance: Numbers, mean: float) -> Numbers:
    """Whole numbers around a mean, most below it and some far above."""
    many: Numbers = np.round(mean * (0.4 - 0.6 * np.log1p(-chance))).astype(int)
    return many


def repeat_owners(owners: Numbers, many: Numbers) -> tuple[Numbers, Numbers]:
    """Each owner so many times, and which time of theirs it is, from 0."""
    repeated = np.repeat(owners, many)
    starts = np.repeat(np.cumsum(many) - many, many)
    return repeated, np.arange(len(repeated)) - starts


def distinct_pairs(**columns: Numbers) -> dict[str, Numbers]:
    """Rows of two columns, sorted and each once."""
    (first, owners), (second, others) = columns.items()
    order = np.lexsort((others, owners))
    owners, others = owners[order], others[order]
    is_new = np.ones(len(owners), bool)
    is_new[1:] = (owners[1:] != owners[:-1]) | (others[1:] != others[:-1])
    return {first: owners[is_new], second: others[is_new]}


def affinity_sums(
    subject: str, owners: Numbers, found: Numbers, at: Numbers, rules: Rules
) -> dict[str, Numbers]:
    """Affinities of one subject: by forward decay, as `learning` adds them up."""
    landmark = np.datetime64(rules.landmark.replace(tzinfo=None), "us")
    half_life = getattr(rules, f"{subject}_half_life_days") * DAY_US
    grown = rules.watch_weight / 2 * 2.0 ** ((at - landmark).astype(float) / half_life)
    order = np.lexsort((found, owners))
    owners, found, grown = owners[order], found[order], grown[order]
    is_first = np.ones(len(owners), bool)
    is_first[1:] = (owners[1:] != owners[:-1]) | (found[1:] != found[:-1])
    starts = np.flatnonzero(is_first)
    return {
        "user_id": owners[starts],
        "subject": np.full(len(starts), subject, object),
        "subject_id": found[starts],
        "score": np.add.reduceat(grown, starts) if len(starts) else grown,
    }
