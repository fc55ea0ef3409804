"""Impressions in a temporary table, and the sums over them that a logistic regression needs.

A row is an impression: user, time, label from 0 to 1, and features. Answers are aggregates, so
the rows stay in the database.

A feed orders the videos of one user. Differences between users, such as how much they watch, must
not pass for the value of a signal. So features are centred on their user's mean (Mundlak, 1978;
Neuhaus and Kalbfleisch, 1998), and the logit begins with the user's own smoothed share of labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Double,
    MetaData,
    Subquery,
    Table,
)

from recommender.database.expressions import (
    Statement,
    fence,
    is_true,
    number,
)
from recommender.database.transactions import long_transaction
from recommender.evaluation.bootstrap import Interval
from recommender.evaluation.logistic import Matrix, Scale, Sums, Vector
from recommender.models.types import PREFIX, UtcDateTime
from recommender.ranking.scoring import KEY_SCALE
from recommender.settings import Settings
from recommender.training.impression_statements import (
    COMMENT,
    bound,
    gain_query,
    judged_impressions,
    quality_query,
    scores_query,
    share_logit,
    sums_query,
    symmetric,
)

MIN_COMPARED = 30
"""The fewest users, or pages, over which a new version is compared with the previous one."""

NORMAL = 1.96
"""The half-width of a 95 % interval of a normal distribution, in standard deviations."""


@dataclass(frozen=True, slots=True)
class Totals:
    """The number of impressions, the number of their users, and the sum of their labels."""

    impressions: int
    users: int
    labels: float


@dataclass(frozen=True, slots=True)
class Quality:
    """The ranking quality of scores; None if all labels are alike.

    Attributes:
        auc: the probability that a positive label has the higher score, 0 to 1, all users together.
        gauc: the mean AUC per user, weighted by the number of impressions, 0 to 1.
    """

    auc: float | None
    gauc: float | None


class Gain(NamedTuple):
    """The difference of two GAUCs over the same users, with its 95 % interval.

    Attributes:
        users: the users with both outcomes, whose AUCs are compared.
        interval: of the difference; None with fewer than `MIN_COMPARED` users.
    """

    users: int
    interval: Interval | None

    @classmethod
    def of(
        cls,
        users: float,
        weights: float,
        gains: float,
        squares: float,
        square_gains: float,
        square_gains_squared: float,
    ) -> Gain:
        """Return the gain from the sums of `gain_query`.

        The interval is that of a ratio of sums over independent users, by linearisation (Cochran,
        "Sampling Techniques", 1977, section 6.3).
        """
        if users < MIN_COMPARED:
            return cls(int(users), None)
        mean = gains / weights
        spread = square_gains_squared - 2 * mean * square_gains + mean * mean * squares
        error = math.sqrt(max(0.0, spread) * users / (users - 1)) / weights
        return cls(int(users), Interval(mean, mean - NORMAL * error, mean + NORMAL * error))


@dataclass(frozen=True)
class ImpressionSample:
    """A temporary table of impressions on a connection.

    Attributes:
        connection: without a transaction; every method opens its own.
        features: the names of the features.
        settings: the time limit of a statement, and the priors.
        name: the name of the table, unique on the connection.
        base: the feature that is the offset of the logit; the others are then not centred. If None,
            the offset is the user's share of labels, and features are centred on the user's mean.
    """

    connection: Connection
    features: tuple[str, ...]
    settings: Settings
    name: str = "sample"
    base: str | None = None

    @cached_property
    def table(self) -> Table:
        """The table of impressions. A prefix keeps the names of features from colliding."""
        values = [Column(f"x_{name}", Double, nullable=False) for name in self.features]
        return Table(
            f"{PREFIX}{self.name}", MetaData(),
            Column("user_id", BigInteger, nullable=False),
            Column("at", UtcDateTime, nullable=False),
            Column("label", Double, nullable=False),
            *values, prefixes=["TEMPORARY"],
        )  # fmt: skip

    @cached_property
    def users(self) -> Table:
        """The table of users, with the offset of the logit and the mean of every feature."""
        values = [Column(f"x_{name}", Double, nullable=False) for name in self.features]
        return Table(
            f"{PREFIX}{self.name}_users", self.table.metadata,
            Column("user_id", BigInteger, primary_key=True, autoincrement=False),
            Column("own", Double, nullable=False),
            *values, prefixes=["TEMPORARY"],
        )  # fmt: skip

    @contextmanager
    def opened(self) -> Iterator[ImpressionSample]:
        """Create the tables, yield the sample, and drop the tables."""
        tables = (self.table, self.users) if self.base is None else (self.table,)
        with self._transaction():
            for table in tables:
                table.create(self.connection)
        try:
            yield self
        finally:
            self.connection.rollback()
            with self._transaction():
                for table in tables:
                    table.drop(self.connection)

    def summarise_users(self, until: datetime) -> None:
        """Fill the table of users from all impressions; labels at `until` or later do not count."""
        totals, prior = self.totals(until), self.settings.fit_user_prior
        table, mean = self.table, totals.labels / totals.impressions
        is_known = is_true(table.c.at < until)
        labels, count = sa.func.sum(is_known * table.c.label), sa.func.sum(is_known)
        means = (sa.func.avg(self.value(name)) for name in self.features)
        users = sa.select(table.c.user_id, share_logit(labels, count, mean, prior), *means)
        insert = self.users.insert()
        with self._transaction():
            self.connection.execute(
                insert.from_select(self.users.c.keys(), users.group_by(table.c.user_id))
            )

    def add(self, rows: Iterable[Sequence[Any]]) -> None:
        """Write impressions: rows of user, time, label, and the features in their order."""
        names, left = self.table.c.keys(), iter(rows)
        while batch := [
            dict(zip(names, row, strict=True)) for row in islice(left, self.settings.batch_size)
        ]:
            with self._transaction():
                self.connection.execute(self.table.insert(), batch)

    def add_from(self, statement: Statement) -> None:
        """Write the impressions that a statement selects, in the order of the columns."""
        names = self.table.c.keys()
        with self._transaction():
            self.connection.execute(self.table.insert().from_select(names, statement))

    def value(self, name: str) -> Column[float]:
        """Return the column of a feature."""
        return self.table.c[f"x_{name}"]

    def time_of(self, part: float) -> datetime | None:
        """Return the time that a share of the impressions came before; None without any."""
        count = self._row(sa.select(sa.func.count()).select_from(self.table))[0]
        nth = sa.select(self.table.c.at).order_by(self.table.c.at).limit(1)
        rows = self._rows(nth.offset(int(count * part)))
        return rows[0][0] if rows else None

    def totals(self, until: datetime) -> Totals:
        """Return the totals of the impressions before a time."""
        table = self.table
        totals = sa.select(
            sa.func.count(), sa.func.count(table.c.user_id.distinct()), sa.func.sum(table.c.label)
        ).where(table.c.at < until)
        count, users, labels = self._row(totals)
        return Totals(count, users, labels or 0.0)

    def scale(self, until: datetime) -> tuple[tuple[str, ...], Scale]:
        """Return the features that vary before a time, with their means and deviations."""
        names = self._varying(self.table.c.at < until)
        values = self.centred(names, self.table.c.at < until)
        columns = list(values.c)[3:]
        means = self._row(sa.select(sa.func.count(), *map(sa.func.avg, columns)))[1:]
        pairs = zip(columns, means, strict=True)
        squares = [(column - number(mean)) * (column - number(mean)) for column, mean in pairs]
        spread = self._row(sa.select(sa.func.count(), *map(sa.func.avg, squares)))[1:]
        return names, Scale([0.0, *means], [1.0, *map(math.sqrt, spread)])

    def _varying(self, condition: ColumnElement[bool]) -> tuple[str, ...]:
        """Return the features that vary: within some user if features are centred."""
        values = [self.value(name) for name in self.features]
        # Means have rounding errors. Smaller differences than the resolution of scores are ignored.
        least = number(1 / KEY_SCALE)
        differs = (sa.func.max(value) - sa.func.min(value) > least for value in values)
        own = sa.select(*(is_true(varies).label(f"d{n}") for n, varies in enumerate(differs)))
        groups = own.where(condition)
        if self.base is None:
            groups = groups.group_by(self.table.c.user_id)
        counts = self._row(
            sa.select(sa.func.count(), *map(sa.func.sum, groups.subquery("groups").c))
        )[1:]
        pairs = zip(self.features, counts, strict=True)
        return tuple(name for name, count in pairs if count and name != self.base)

    def centred(self, names: Sequence[str], condition: ColumnElement[bool]) -> Subquery:
        """Select user, label, offset of the logit, and the features, centred without a `base`."""
        table, users = self.table, self.users
        columns = (table.c.user_id, table.c.label)
        if self.base is None:
            values = [
                (self.value(name) - users.c[f"x_{name}"]).label(f"x_{name}") for name in names
            ]
            rows = sa.select(*columns, users.c.own, *values).join(
                users, users.c.user_id == table.c.user_id
            )
        else:
            own = self.value(self.base).label("own")
            rows = sa.select(*columns, own, *map(self.value, names))
        return fence(rows.where(condition)).subquery("centred")

    def sums(self, names: Sequence[str], coefficients: Vector, until: datetime) -> Sums:
        """Return the sums over the impressions before a time, at some coefficients.

        Args:
            names: the names of the features.
            coefficients: the intercept, then a coefficient per feature.
            until: the time.
        """
        row = self._row(sums_query(self, names), {**bound(coefficients), "until": until})
        loss, *sums = map(float, row)
        size = len(names) + 1
        return Sums(loss, sums[:size], symmetric(sums[size:], size))

    def scores(self, names: Sequence[str], coefficients: Vector, until: datetime) -> Matrix:
        """Return Σ g · gᵀ over users; g is the user's sum of (label - probability) · feature."""
        values = {**bound(coefficients), "until": until}
        upper = list(map(float, self._row(scores_query(self, names), values)))
        return symmetric(upper, len(names) + 1)

    def loss(
        self, names: Sequence[str], coefficients: Vector, since: datetime
    ) -> tuple[int, float | None]:
        """Return the number of impressions since a time, and their mean loss in nats."""
        judged = judged_impressions(self, names, self.table.c.at >= since)
        mean = sa.select(sa.func.count(), sa.func.avg(judged.c.loss))
        count, loss = self._row(mean.prefix_with(COMMENT), bound(coefficients))
        return count, loss

    def quality(self, weights: Mapping[str, float], since: datetime) -> Quality:
        """Return the ranking quality of a weighted sum of features since a time."""
        values = {**bound([0.0, *weights.values()]), "since": since}
        count, positives, above, own, compared = self._row(
            quality_query(self, tuple(weights)), values
        )
        pairs = (positives or 0) * (count - (positives or 0))
        return Quality(
            auc=float(above) / pairs if pairs else None,
            gauc=float(own) / float(compared) if compared else None,
        )

    def gain(
        self, weights: Mapping[str, float], others: Mapping[str, float], since: datetime
    ) -> Gain:
        """Return by how much weights order the impressions since a time better than others do."""
        names = tuple({**weights, **others})
        values = {
            **bound([0.0, *(weights.get(name, 0.0) for name in names)]),
            **bound([0.0, *(others.get(name, 0.0) for name in names)], "c"),
            "since": since,
        }
        return Gain.of(*map(float, self._row(gain_query(self, names), values)))

    def _row(self, statement: Statement, values: Mapping[str, Any] | None = None) -> Any:
        return self._rows(statement, values)[0]

    def _rows(self, statement: Statement, values: Mapping[str, Any] | None = None) -> Sequence[Any]:
        with self._transaction():
            return self.connection.execute(statement, values or {}).all()

    def _transaction(self) -> AbstractContextManager[None]:
        return long_transaction(self.connection, self.settings)
