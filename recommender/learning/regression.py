"""The weights of a video's neighbours: a ridge regression of its viewers on theirs.

A target's viewers are predicted from the viewers of its most similar videos, called sources, as in
fsSLIM (Ning and Karypis, "SLIM: Sparse Linear Methods for Top-N Recommender Systems", 2011). The
weights have the closed form of EASE (Steck, "Embarrassingly Shallow Autoencoders for Sparse Data",
2019), restricted to the sources: they solve (G + ridge · I) w = g. G holds the numbers of common
viewers of two sources, and g the numbers of common viewers of a source and the target.

Only a refresh imports this module, because it imports numpy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recommender.learning.recent import CYCLE, hash_end, read_viewers
from recommender.learning.statistics import RefreshRun

TARGETS_PER_READ = 20
"""The number of targets whose sources' viewers are read by one statement."""

KEPT_USERS = 10_000_000
"""The number of user ids from which on the viewers that are kept in memory are dropped."""

Neighbour = tuple[int, int, float, float]
"""A source's id, a target's id, their similarity, and the weight of the source."""

Users = NDArray[np.int64]

Matrix = NDArray[np.floating]


class ViewerSample(NamedTuple):
    """Some viewers of a video, chosen by a hash of their ids.

    Attributes:
        users: their ids, ascending.
        part: the share of all users whose hash is low enough to be chosen, above 0 and at most 1.
    """

    users: Users
    part: float


NO_USERS: Users = np.empty(0, dtype=np.int64)


class Regression:
    """The regressions of a refresh, while nothing is counted; it keeps viewers in memory."""

    def __init__(self, run: RefreshRun) -> None:
        self._run = run
        self._kept: dict[int, ViewerSample] = {}
        self._size = 0

    def neighbours(
        self, near: Mapping[int, Sequence[tuple[int, float]]], views: Mapping[int, int]
    ) -> Iterator[Neighbour]:
        """Yield the neighbours of targets with their weights, if they are large enough.

        Args:
            near: by target, the sources with their similarity.
            views: the engaged views of targets and sources.
        """
        settings, targets = self._run.settings, iter(near.items())
        while group := dict(islice(targets, TARGETS_PER_READ)):
            videos = {*group, *(source for sources in group.values() for source, _ in sources)}
            samples = self._samples({video_id: views[video_id] for video_id in videos})
            for target, sources in group.items():
                viewers = [samples[source] for source, _ in sources]
                weights = neighbour_weights(samples[target], viewers, settings.neighbour_ridge)
                for (source, similarity), weight in zip(sources, weights, strict=True):
                    if weight >= settings.neighbour_least_weight:
                        yield source, target, similarity, weight

    def _samples(self, views: Mapping[int, int]) -> dict[int, ViewerSample]:
        """Return the viewers of videos, read or kept in memory."""
        if self._size > KEPT_USERS:
            self._kept.clear()
            self._size = 0
        limit = self._run.settings.neighbour_viewers
        ends = {
            video_id: hash_end(count, limit)
            for video_id, count in views.items()
            if video_id not in self._kept
        }
        listed = self._run.reading(partial(read_viewers, ends)) if ends else {}
        for video_id, end in ends.items():
            users = parse_users(listed.get(video_id))
            self._kept[video_id] = ViewerSample(users, end / CYCLE)
            self._size += len(users)
        return {video_id: self._kept[video_id] for video_id in views}


def parse_users(listed: str | None) -> Users:
    """Return the user ids of a text, ascending; commas separate them."""
    return np.sort(np.array(listed.split(","), dtype=np.int64)) if listed else NO_USERS


def neighbour_weights(
    target: ViewerSample, sources: Sequence[ViewerSample], ridge: float
) -> list[float]:
    """Return the weights of sources for a target, 0 to 1; negative weights are set to 0.

    Args:
        target: the viewers of the target.
        sources: the viewers of the sources, in the order of the weights.
        ridge: the penalty on squared weights, in viewers, above 0.
    """
    common = common_viewers([*sources, target])
    gram, right = common[:-1, :-1], common[:-1, -1]
    weights: list[float] = np.clip(_solve(gram, right, ridge), 0, 1).tolist()
    return weights


def common_viewers(samples: Sequence[ViewerSample]) -> Matrix:
    """Return the estimated number of common viewers of any two videos, as a symmetric matrix."""
    size = len(samples)
    places = np.repeat(np.arange(size), [len(sample.users) for sample in samples])
    users = np.concatenate([sample.users for sample in samples])
    order = np.argsort(users, kind="stable")
    users, places = users[order], places[order]
    # A user's places are side by side, ascending. So each step finds the pairs that far apart.
    rows = np.arange(len(users))
    cells = [rows[:0]]
    for step in range(size):
        rows = rows[: np.searchsorted(rows, len(users) - step)]
        rows = rows[users[rows] == users[rows + step]]
        if not len(rows):
            break
        cells.append(places[rows] * size + places[rows + step])
    pairs = np.bincount(np.concatenate(cells), minlength=size * size)
    upper = pairs.reshape(size, size).astype(np.float64)
    counts = upper + np.triu(upper, 1).T
    # A user is in two samples if the hash is low enough for the smaller part.
    parts = np.array([sample.part for sample in samples])
    both: Matrix = counts / np.minimum.outer(parts, parts)
    return both


def _solve(gram: Matrix, right: Matrix, ridge: float) -> Matrix:
    """Solve the system by Cholesky's method."""
    # `numpy.linalg.solve` starts threads for these small systems, and waits longer than it works.
    try:
        root = np.linalg.cholesky(gram + ridge * np.eye(len(gram)))
    except np.linalg.LinAlgError:
        return _solve_indefinite(gram, right, ridge)
    forward = _substituted(root, right)
    solution: Matrix = _substituted(root.T[::-1, ::-1], forward[::-1])[::-1]
    return solution


def _substituted(lower: Matrix, right: Matrix) -> Matrix:
    """Solve a system whose matrix is lower triangular."""
    solution = np.zeros_like(right)
    for row in range(len(right)):
        known = lower[row, :row] @ solution[:row]
        solution[row] = (right[row] - known) / lower[row, row]
    return solution


def _solve_indefinite(gram: Matrix, right: Matrix, ridge: float) -> Matrix:
    """Solve the system if its matrix has negative eigenvalues, because counts are estimates."""
    # The true eigenvalues are not negative, so these are set to 0.
    values, vectors = np.linalg.eigh(gram)
    solution: Matrix = vectors @ ((vectors.T @ right) / (np.maximum(values, 0) + ridge))
    return solution
