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
        connection: without a transaction; every method has one of its own.
        features: names of the columns of features.
        settings: how long a statement may take.
    """

    connection: Connection
    features: tuple[str, ...]
    settings: Settings

    @cached_property
    def table(self) -> Table:
        """The table, in the order of pages; features have a prefix, so that no name is taken."""
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
        """The choices with their table, which is gone afterwards."""
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
            rows: of each the page, its place in the page, its user's row, its share of the page's
                positives (of all of a page 1), for how many it stands, the features in their order.
        """
        names, left = self.table.c.keys(), iter(rows)
        while batch := [
            dict(zip(names, row, strict=True)) for row in islice(left, self.settings.batch_size)
        ]:
            with self._transaction():
                self.connection.execute(self.table.insert(), batch)

    def determined(self) -> tuple[str, ...]:
        """The features whose weights the choices tell.

        Where no page chose any but the least there was, or any but the most, the likeliest weight
        has no bound (Albert and Anderson, 1984), be it for want of a single candidate chosen.
        """
        values = [self.value(name) for name in self.features]
        sides = (side for place, value in enumerate(values) for side in self._sides(place, value))
        pages = sa.select(*sides).group_by(self.table.c.page).subquery("pages")
        found = self._row(sa.select(*map(sa.func.sum, pages.c)))
        pairs = zip(self.features, found[::2], found[1::2], strict=True)
        return tuple(name for name, above, below in pairs if above and below)

    def _sides(self, place: int, value: Column[float]) -> tuple[Label[float], Label[float]]:
        """Whether a page chose one above the least, and one below the most."""
        chosen = sa.case((self.table.c.share > number(0), value))
        above = is_true(sa.func.max(chosen) > sa.func.min(value))
        below = is_true(sa.func.min(chosen) < sa.func.max(value))
        return above.label(f"above{place}"), below.label(f"below{place}")

    def value(self, name: str) -> Column[float]:
        """The column of a feature."""
        return self.table.c[f"x_{name}"]

    def scale(self, names: Sequence[str], pages: int) -> Scale:
        """How much features differ within a page: the information where all are alike, per page.

        Args:
            names: of features that differ.
            pages: how many there are.
        """
        information = self.sums(names, [0.0] * (len(names) + 1)).information
        squares = (information[place][place] / pages for place in range(1, len(names) + 1))
        return Scale([0.0] * (len(names) + 1), [1.0, *map(math.sqrt, squares)])

    def sums(self, names: Sequence[str], coefficients: Vector) -> Sums:
        """The sums over all pages, at coefficients of some of the features.

        Args:
            names: of the features.
            coefficients: an intercept's, which says nothing of a choice, and theirs; the gradient
                of the intercept is 0 and its information 1, so that it stays where it is.
        """
        loss, *found = map(float, self._row(sums_query(self, names), bound(coefficients)))
        size = len(names)
        return Sums(loss, [0.0, *found[:size]], _bordered(symmetric(found[size:], size), 1.0))

    def scores(self, names: Sequence[str], coefficients: Vector) -> Matrix:
        """Σ g · gᵀ over users, g being the gradient of each one's pages; the intercept's is 0."""
        found = list(map(float, self._row(scores_query(self, names), bound(coefficients))))
        return _bordered(symmetric(found, len(names)), 0.0)

    def _row(self, statement: Statement, values: dict[str, float] | None = None) -> Any:
        with self._transaction():
            return self.connection.execute(statement, values or {}).one()

    def _transaction(self) -> AbstractContextManager[None]:
        return long_transaction(self.connection, self.settings)


def _bordered(matrix: Matrix, first: float) -> list[list[float]]:
    """A matrix with an intercept before it, which has nothing in common with the features."""
    return [[first, *(0.0 for _ in matrix)], *([0.0, *row] for row in matrix)]


def sums_query(choices: CandidateSample, names: Sequence[str]) -> Statement:
    """One row: the loss, the gradient, and the upper triangle of the information.

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
    """One row: the upper triangle of the sum, over users, of their gradients' products."""
    pages = _pages(choices, names)
    own = [sa.func.sum(pages.c[f"g{place}"]).label(f"g{place}") for place in range(len(names))]
    users = fence(sa.select(*own).group_by(pages.c.user_id)).subquery("users")
    pairs = combinations_with_replacement(users.c, 2)
    return sa.select(*(sa.func.sum(one * other) for one, other in pairs)).prefix_with(COMMENT)


def _pages(choices: CandidateSample, names: Sequence[str]) -> Subquery:
    """Of each page its user, loss, gradient, and mean features and products of two of them."""
    each = _powers(choices, names)
    features = [each.c[f"x_{name}"] for name in names]
    whole = sa.func.sum(each.c.power)

    def mean(value: Any) -> Any:
        return sa.func.sum(each.c.power * value) / whole

    loss = logarithm(whole) + sa.func.min(each.c.top) - sa.func.sum(each.c.share * each.c.logit)
    chosen = (sa.func.sum(each.c.share * value) - mean(value) for value in features)
    pairs = combinations_with_replacement(enumerate(features), 2)
    return fence(
        sa.select(
            sa.func.min(each.c.user_id).label("user_id"),
            loss.label("loss"),
            *(value.label(f"g{place}") for place, value in enumerate(chosen)),
            *(mean(value).label(f"m{place}") for place, value in enumerate(features)),
            *(mean(one * other).label(f"p{i}_{j}") for (i, one), (j, other) in pairs),
        ).group_by(each.c.page)
    ).subquery("pages")


def _powers(choices: CandidateSample, names: Sequence[str]) -> Subquery:
    """Each candidate with its logit, its page's greatest, and its probability but for a factor."""
    table = choices.table
    features = [choices.value(name) for name in names]
    logit: Any = number(0)
    for place, feature in enumerate(features, start=1):
        logit += sa.bindparam(f"b{place}", type_=Double()) * feature
    own = (table.c.page, table.c.user_id, table.c.share, table.c.copies, *features)
    one = fence(sa.select(*own, logit.label("logit"))).subquery("logits")
    top = sa.func.max(one.c.logit).over(partition_by=one.c.page).label("top")
    two = fence(sa.select(*one.c, top)).subquery("tops")
    power = two.c.copies * exp2((two.c.logit - two.c.top) * number(BITS))
    return fence(sa.select(*two.c, power.label("power"))).subquery("powers")
