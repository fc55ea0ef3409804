"""Pictures of figures, through the `report` extra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike

from recommender.errors import RecommenderError


def plot(
    file: str | PathLike[str],
    title: str,
    series: Mapping[str, Sequence[float]],
    *,
    horizontal: str,
    vertical: str,
    marked: float | None = None,
    over: Sequence[float] | None = None,
) -> None:
    """Write named series of figures as a PNG: one line each, over 0, 1, 2 and so on.

    Args:
        file: the path of the PNG.
        title: what stands above.
        series: the figures of each line by its name.
        horizontal: what is counted along.
        vertical: what the figures are.
        marked: where a dashed line stands across; none where None.
        over: what the figures stand over instead; both axes are logarithmic then.

    Raises:
        RecommenderError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra, and slow to import
    except ImportError:
        raise RecommenderError(
            "a picture needs matplotlib: pip install 'recommender[report]'"
        ) from None
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=horizontal, ylabel=vertical)
    for name, figures in series.items():
        axes.plot(over or range(len(figures)), figures, label=name, marker="o" if over else None)
    if marked is not None:
        axes.axvline(marked, color="grey", linestyle="--")
    if over:
        axes.loglog()
        axes.grid(color="lightgrey", which="major")
    else:
        axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(file, format="png")
