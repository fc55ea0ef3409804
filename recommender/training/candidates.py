"""Page candidates in a temporary table, and the sums over them that a choice model needs.

A row is a candidate of a page: the page, its share of the page's positives, and its features. The
positives are taken to be chosen from all candidates, with the softmax of the weighted sums as
probabilities: the conditional logit (McFadden, "Conditional Logit Analysis of Qualitative Choice
Behavior", 1973), with several positives per page as in ListNet (Cao and others, 2007). What all
candidates of a page share cancels out, so viewers and days have no influence, and there is no
intercept. Every page counts the same.

Positives are few. The other candidates are sampled at random, and weighted by the sampling rate
(McFadden, "Modelling the Choice of Residential Location", 1978).

Every answer is an aggregate, so the rows stay in the database.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement, islice
from typing import Any

import sqlalchemy as sa
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Label,
    MetaData,
    Subquery,
    Table,
)

from recommender.database.expressions import Statement, exp2, fence, is_true, logarithm, number
from recommender.database.transactions import long_transaction
from recommender.evaluation.logistic import Matrix, Scale, Sums, Vector
from recommender.models.types import PREFIX
from recommender.settings import Settings
from recommender.training.impression_statements import BITS, COMMENT, bound, symmetric


@dataclass(frozen=True)
class CandidateSample:
    """A temporary table of candidates on a connection.

    Attributes:
        connection: without a transaction; every method opens its own.
        features: the names of the features.
        settings: the time limit of a statement, and the batch size.
    """

    connection: Connection
    features: tuple[str, ...]
    settings: Settings

    @cached_property
    def table(self) -> Table:
        """The table, in the order of pages. A prefix keeps the names of features from colliding."""
        values = [Column(f"x_{name}", Double, nullable=False) for name in self.features]
        return Table(
            f"{PREFIX}choices", MetaData(),
            Column("page", BigInteger, primary_key=True, autoincrement=False),
            Column("place", BigInteger, primary_key=True, autoincrement=False),
            Column("user_id", BigInteger, nullable=False),
            Column("share", Double, nullable=False),
            Column("copies", Double, nullable=False),
            *values, prefixes=["TEMPORARY"], sqlite_with_rowid=False,
        )  # fmt: skip

    @contextmanager
    def opened(self) -> Iterator[CandidateSample]:
        """Create the table, yield the sample, and drop the table."""
        with self._transaction():
            self.table.create(self.connection)
        try:
            yield self
        finally:
            self.connection.rollback()
            with self._transaction():
                self.table.drop(self.connection)

    def add(self, rows: Iterable[Sequence[Any]]) -> None:
        """Write candidates.

        Args:
            rows: tuples of the page, the position in the page, the user, the share of the page's
                positives (1 in sum), the sampling weight, and the features in their order.
        """
        names, left = self.table.c.keys(), iter(rows)
        while batch := [
            dict(zip(names, row, strict=True)) for row in islice(left, self.settings.batch_size)
        ]:
            with self._transaction():
                self.connection.execute(self.table.insert(), batch)

    def determined(self) -> tuple[str, ...]:
        """Return the features whose weights the pages determine.

        If all positives are minima of their page, or all are maxima, the likelihood has no maximum
        (separation: Albert and Anderson, 1984).
        """
        values = [self.value(name) for name in self.features]
        sides = (side for place, value in enumerate(values) for side in self._sides(place, value))
        pages = sa.select(*sides).group_by(self.table.c.page).subquery("pages")
        counts = self._row(sa.select(*map(sa.func.sum, pages.c)))
        pairs = zip(self.features, counts[::2], counts[1::2], strict=True)
        return tuple(name for name, above, below in pairs if above and below)

    def _sides(self, place: int, value: Column[float]) -> tuple[Label[float], Label[float]]:
        """Return two flags of a page: a positive is above its minimum, one is below its maximum."""
        chosen = sa.case((self.table.c.share > number(0), value))
        above = is_true(sa.func.max(chosen) > sa.func.min(value))
        below = is_true(sa.func.min(chosen) < sa.func.max(value))
        return above.label(f"above{place}"), below.label(f"below{place}")

    def value(self, name: str) -> Column[float]:
        """Return the column of a feature."""
        return self.table.c[f"x_{name}"]

    def scale(self, names: Sequence[str], pages: int) -> Scale:
        """Return the deviations of features within a page.

        Args:
            names: the names of features that vary.
            pages: the number of pages.
        """
        # With all coefficients 0, the information is the sum of the variances within pages.
        information = self.sums(names, [0.0] * (len(names) + 1)).information
        squares = (information[place][place] / pages for place in range(1, len(names) + 1))
        return Scale([0.0] * (len(names) + 1), [1.0, *map(math.sqrt, squares)])

    def sums(self, names: Sequence[str], coefficients: Vector) -> Sums:
        """Return the sums over all pages, at some coefficients.

        Args:
            names: the names of the features.
            coefficients: an intercept, then a coefficient per feature.
        """
        loss, *sums = map(float, self._row(sums_query(self, names), bound(coefficients)))
        size = len(names)
        # An intercept cancels out. With gradient 0 and information 1 it never changes.
        return Sums(loss, [0.0, *sums[:size]], _bordered(symmetric(sums[size:], size), 1.0))

    def scores(self, names: Sequence[str], coefficients: Vector) -> Matrix:
        """Return Σ g · gᵀ over users; g is the user's gradient, 0 for the intercept."""
        upper = list(map(float, self._row(scores_query(self, names), bound(coefficients))))
        return _bordered(symmetric(upper, len(names)), 0.0)

    def _row(self, statement: Statement, values: dict[str, float] | None = None) -> Any:
        with self._transaction():
            return self.connection.execute(statement, values or {}).one()

    def _transaction(self) -> AbstractContextManager[None]:
        return long_transaction(self.connection, self.settings)


def _bordered(matrix: Matrix, first: float) -> list[list[float]]:
    """Return a matrix with an intercept before the features, uncorrelated with them."""
    return [[first, *(0.0 for _ in matrix)], *([0.0, *row] for row in matrix)]


def sums_query(choices: CandidateSample, names: Sequence[str]) -> Statement:
    """Select one row: the loss, the gradient, and the upper triangle of the information.

    The information of a page is the covariance of the features under its probabilities.
    """
    pages = _pages(choices, names)
    size = range(len(names))
    covariances = (
        pages.c[f"p{i}_{j}"] - pages.c[f"m{i}"] * pages.c[f"m{j}"]
        for i, j in combinations_with_replacement(size, 2)
    )
    return sa.select(
        sa.func.sum(pages.c.loss),
        *(sa.func.sum(pages.c[f"g{place}"]) for place in size),
        *map(sa.func.sum, covariances),
    ).prefix_with(COMMENT)


def scores_query(choices: CandidateSample, names: Sequence[str]) -> Statement:
    """Select one row: the upper triangle of Σ g · gᵀ over users, g being their gradient."""
    pages = _pages(choices, names)
    own = [sa.func.sum(pages.c[f"g{place}"]).label(f"g{place}") for place in range(len(names))]
    users = fence(sa.select(*own).group_by(pages.c.user_id)).subquery("users")
    pairs = combinations_with_replacement(users.c, 2)
    return sa.select(*(sa.func.sum(one * other) for one, other in pairs)).prefix_with(COMMENT)


def _pages(choices: CandidateSample, names: Sequence[str]) -> Subquery:
    """Select pages with user, loss, gradient, and the means of features and of their products."""
    row = _powers(choices, names).c
    features = [row[f"x_{name}"] for name in names]
    whole = sa.func.sum(row.power)

    def mean(value: Any) -> Any:
        return sa.func.sum(row.power * value) / whole

    loss = logarithm(whole) + sa.func.min(row.top) - sa.func.sum(row.share * row.logit)
    gradient = (sa.func.sum(row.share * value) - mean(value) for value in features)
    pairs = combinations_with_replacement(enumerate(features), 2)
    return fence(
        sa.select(
            sa.func.min(row.user_id).label("user_id"),
            loss.label("loss"),
            *(value.label(f"g{place}") for place, value in enumerate(gradient)),
            *(mean(value).label(f"m{place}") for place, value in enumerate(features)),
            *(mean(one * other).label(f"p{i}_{j}") for (i, one), (j, other) in pairs),
        ).group_by(row.page)
    ).subquery("pages")


def _powers(choices: CandidateSample, names: Sequence[str]) -> Subquery:
    """Select candidates with logit, the page's maximum logit, and unnormalised probability."""
    table = choices.table
    features = [choices.value(name) for name in names]
    logit: Any = number(0)
    for place, feature in enumerate(features, start=1):
        logit += sa.bindparam(f"b{place}", type_=Double()) * feature
    columns = (table.c.page, table.c.user_id, table.c.share, table.c.copies, *features)
    logits = fence(sa.select(*columns, logit.label("logit"))).subquery("logits")
    # The maximum is subtracted so that the exponential cannot overflow.
    top = sa.func.max(logits.c.logit).over(partition_by=logits.c.page).label("top")
    tops = fence(sa.select(*logits.c, top)).subquery("tops")
    power = tops.c.copies * exp2((tops.c.logit - tops.c.top) * number(BITS))
    return fence(sa.select(*tops.c, power.label("power"))).subquery("powers")
