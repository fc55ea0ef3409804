"""Random numbers of synthetic worlds: ranks, counts, pairs and affinities, as arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, TypeAlias

import numpy as np

from recommender.learning.affinities import Rules

Numbers: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

Columns: TypeAlias = Mapping[str, "Sequence[Any] | Numbers"]
"""Columns of rows by name. Times are `datetime64`; NaT, NaN and None are NULL."""

END = datetime(2026, 1, 1, tzinfo=UTC)
"""The reading time of a world: its last event is earlier."""

DAY_US = 86_400_000_000


ROWS_OF_A_BLOCK = 100_000

SYLLABLES = ("ba", "do", "fi", "gu", "ka", "le", "mi", "no", "pu", "ra", "si", "to", "vu", "wa")


def uniform(part: str, ids: Numbers) -> Numbers:
    """Return a number from 0 to 1 for each id, by splitmix64 (Steele, Lea and Flood, 2014).

    Args:
        part: the seed; another text gives independent numbers.
        ids: whole numbers.
    """
    start = blake2b(part.encode(), digest_size=8).digest()
    z = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(int.from_bytes(start, "little"))
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    chances: Numbers = (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return chances


def spelt_words(count: int) -> Numbers:
    """Return different words of four syllables each."""
    base = len(SYLLABLES)
    numbers = range(base**3, base**3 + count)
    spelt = ["".join(SYLLABLES[n // base**p % base] for p in range(4)) for n in numbers]
    return np.array(spelt, object)


def blocks(owners: int, per_owner: float, rows: Callable[[Numbers], Columns]) -> Iterator[Columns]:
    """Yield the rows of owners from 1 on, in blocks of about `ROWS_OF_A_BLOCK` rows.

    Args:
        owners: the number of owners.
        per_owner: about the number of rows of one owner.
        rows: makes the rows of some owners.
    """
    size = max(1, int(ROWS_OF_A_BLOCK / per_owner))
    for first in range(1, owners + 1, size):
        yield rows(np.arange(first, min(first + size, owners + 1)))


def newest_of_each(owners: Numbers, at: Numbers, limit: int) -> Numbers:
    """Return which rows are among the newest `limit` of their owner; owners are sorted."""
    newest = np.lexsort((-at.astype(int), owners))
    firsts = np.searchsorted(owners, owners)
    kept = np.zeros(len(owners), bool)
    kept[newest[np.arange(len(owners)) - firsts < limit]] = True
    return kept


def named_rows(ids: Numbers, column: str, word: str) -> Columns:
    """Return rows of ids and names that end in them, such as tag7."""
    return {"id": ids, column: [f"{word}{row_id}" for row_id in ids.tolist()]}


def before_end(days: int) -> Any:
    """Return the time some days before the end of a world."""
    return np.datetime64(END.replace(tzinfo=None), "us") - np.timedelta64(days * DAY_US, "us")


def zipf_rank(chance: Numbers, among: int) -> Numbers:
    """Return ranks from 1 to `among`, each with a probability of about 1 / rank."""
    ranks: Numbers = np.minimum(among, np.exp(chance * math.log(among + 1)).astype(int))
    return ranks


def id_step(among: int) -> int:
    """Return the distance between ids of consecutive ranks, which is prime to their number.

    About the golden ratio of the range, it scatters the ids.
    """
    return next(s for s in range(int(among * 0.618) or 1, 2 * among + 1) if math.gcd(s, among) == 1)


def id_of_rank(ranks: Numbers, among: int) -> Numbers:
    """Return a different id for each rank, scattered over the whole range."""
    return ranks * id_step(among) % among + 1


def rank_of_id(ids: Numbers, among: int) -> Numbers:
    """Return the ranks of ids: the inverse of `id_of_rank`."""
    if among == 1:
        return ids
    ranks = (ids - 1) * pow(id_step(among), -1, among) % among
    return np.where(ranks == 0, among, ranks)


def skewed_counts(chance: Numbers, mean: float) -> Numbers:
    """Return whole numbers around a mean, most below it and some far above."""
    many: Numbers = np.round(mean * (0.4 - 0.6 * np.log1p(-chance))).astype(int)
    return many


def repeat_owners(owners: Numbers, many: Numbers) -> tuple[Numbers, Numbers]:
    """Repeat each owner `many` times; return the owners and the indexes of the repetitions."""
    repeated = np.repeat(owners, many)
    starts = np.repeat(np.cumsum(many) - many, many)
    return repeated, np.arange(len(repeated)) - starts


def distinct_pairs(**columns: Numbers) -> dict[str, Numbers]:
    """Return the distinct rows of two columns, sorted."""
    (first, owners), (second, others) = columns.items()
    order = np.lexsort((others, owners))
    owners, others = owners[order], others[order]
    is_new = np.ones(len(owners), bool)
    is_new[1:] = (owners[1:] != owners[:-1]) | (others[1:] != others[:-1])
    return {first: owners[is_new], second: others[is_new]}


def affinity_sums(
    subject: str, owners: Numbers, subject_ids: Numbers, at: Numbers, rules: Rules
) -> dict[str, Numbers]:
    """Return the affinities of one subject, summed with forward decay as in `learning`."""
    landmark = np.datetime64(rules.landmark.replace(tzinfo=None), "us")
    half_life = getattr(rules, f"{subject}_half_life_days") * DAY_US
    grown = rules.watch_weight / 2 * 2.0 ** ((at - landmark).astype(float) / half_life)
    order = np.lexsort((subject_ids, owners))
    owners, subject_ids, grown = owners[order], subject_ids[order], grown[order]
    is_first = np.ones(len(owners), bool)
    is_first[1:] = (owners[1:] != owners[:-1]) | (subject_ids[1:] != subject_ids[:-1])
    starts = np.flatnonzero(is_first)
    return {
        "user_id": owners[starts],
        "subject": np.full(len(starts), subject, object),
        "subject_id": subject_ids[starts],
        "score": np.add.reduceat(grown, starts) if len(starts) else grown,
    }
