"""Draw figures as pictures, with the `plot` extra."""

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
    """Write named series of figures as a PNG, one line for each series.

    Args:
        file: the path of the PNG.
        title: the title of the picture.
        series: the figures, by the name of their line.
        horizontal: the label of the x axis.
        vertical: the label of the y axis.
        marked: the x value of a dashed line, if any.
        over: the x values, on logarithmic axes; 0, 1, 2 and so on if None.

    Raises:
        RecommenderError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra, and slow to import
    except ImportError:
        raise RecommenderError(
            "a picture needs matplotlib: pip install 'recommender[plot]'"
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
