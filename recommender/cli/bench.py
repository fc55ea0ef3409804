"""``bench``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recommender.benchmark.chart import plot
from recommender.cli.database import writable
from recommender.cli.html import html_file, html_option
from recommender.cli.options import (
    NumberRange,
    format_option,
    settings,
    synthetic_database_option,
)
from recommender.cli.output import form_of, print_records, print_table
from recommender.errors import BadData, NotFound
from recommender.formats.vectors import MOST_DIMENSIONS
from recommender.ranking.registry import OURS
from recommender.reports.report import benchmark_html

if TYPE_CHECKING:
    from recommender.benchmark.results import Benchmark

FEWEST = 100
FILE = "bench.db"
SIZE = click.IntRange(min=FEWEST)
LONGEST = 86_400.0


@click.command()
@click.option(
    "--videos", type=SIZE, default=100_000, show_default=True, help="The number of videos."
)
@click.option("--users", type=SIZE, help="The number of users. Default: a tenth of the videos.")
@click.option("--follows", type=SIZE, help="About the number of follows. Default: 4.8 per video.")
@click.option(
    "--interactions", type=SIZE, help="About the number of interactions. Default: 10 per video."
)
@click.option(
    "--hashtags", type=NumberRange(0.1, 10), default=3.9, show_default=True,
    help="About the number of hashtags per video.",
)  # fmt: skip
@click.option(
    "--seed", type=int, default=26, show_default=True, help="The random seed of the world."
)
@click.option(
    "--clients", type=click.IntRange(1, 500), multiple=True, default=(1, 8, 32), show_default=True,
    help="A number of concurrent clients to measure; repeatable.",
)  # fmt: skip
@click.option(
    "--pages", type=click.IntRange(2, 10_000), default=50, show_default=True,
    help="The number of pages of each kind to measure.",
)  # fmt: skip
@click.option(
    "--seconds", type=NumberRange(0.1, 3_600), default=5.0, show_default=True,
    help="How long each number of clients asks for pages.",
)  # fmt: skip
@click.option(
    "--exact", type=click.IntRange(0, 1_000), default=2, show_default=True, metavar="VIEWERS",
    help="The number of viewers for whom all videos are scored exactly. Slow.",
)  # fmt: skip
@click.option(
    "--dim", type=click.IntRange(1, MOST_DIMENSIONS), metavar="N",
    help="Also give every video a vector of N numbers, and measure what vectors cost.",
)  # fmt: skip
@click.option(
    "--plot", "picture", metavar="PNG", help="Draw page times over the size of the catalogue."
)
@click.option(
    "--with", "earlier", multiple=True, metavar="JSON",
    help="The JSON of another run, to draw it as well; repeatable.",
)  # fmt: skip
@html_option
@format_option
@synthetic_database_option(FILE)
def bench(
    videos: int,
    users: int | None,
    follows: int | None,
    interactions: int | None,
    hashtags: float,
    seed: int,
    picture: str | None,
    earlier: tuple[str, ...],
    html: str | None,
    form: str | None,
    clients: tuple[int, ...],
    pages: int,
    seconds: float,
    exact: int,
    dim: int | None,
) -> None:
    """Measure page times on a synthetic world in an empty database.

    The world is kept, so a second run with the same sizes measures it again. The run records pages
    and events in it.
    """
    from recommender.benchmark import large_world  # noqa: PLC0415 - numpy takes long to import
    from recommender.benchmark.load import load  # noqa: PLC0415
    from recommender.benchmark.measure import measure  # noqa: PLC0415

    others = [_run(file) for file in earlier]
    world = large_world.LargeWorld.of(
        videos, users, follows, interactions, hashtags_each=hashtags, seed=seed
    )
    with html_file(html) as write, writable(makes_tables=True, registry=OURS) as engine:
        load(engine, world, _say)
        results = measure(
            engine, world, settings=settings(), clients=clients, count=pages, seconds=seconds,
            exact=exact, dim=dim, progress=_say,
        )  # fmt: skip
        write(lambda: benchmark_html(results.as_dict()))
    _print(results, form)
    if picture:
        _draw(picture, [*others, results.as_dict()])


def _say(what: str) -> None:
    click.echo(what, err=True)


def _run(file: str) -> Mapping[str, Any]:
    """Return an earlier run, checked before hours are spent on another."""
    try:
        run: Mapping[str, Any] = json.loads(Path(file).read_text(encoding="utf-8"))
        _figures_of(run)
    except FileNotFoundError:
        raise NotFound(f"there is no file {file}") from None
    except (KeyError, StopIteration, TypeError, ValueError):
        raise BadData(f"{file}: is not what `recommender bench --format json` prints") from None
    return run


def _print(results: Benchmark, form: str | None) -> None:
    whole = results.as_dict()
    if form_of(form) != "table":
        print_records(_figures(whole), form, whole=whole)
        return
    database = results.database
    click.echo(
        f"{results.videos:,} videos in {database['name']} {database['version']};"
        f" {database['parallel_workers']} parallel workers for a statement. Milliseconds:"
    )
    print_table([_row(page) for page in whole["pages"]])
    click.echo("\nThe reference formula over every video, milliseconds:")
    print_table([
        {"way": name, **times} for name, times in whole["whole"].items() if name != "equal"
    ])  # fmt: skip
    click.echo()
    parts = {"ratio": results.ratios, "exact": results.exact, "events a second": results.events,
             "rows of a page": results.read, "vectors": results.vectors}  # fmt: skip
    print_table([
        {"figure": f"{part}: {name}", "value": value}
        for part, figures in parts.items()
        for name, value in figures.items()
    ])  # fmt: skip


def _row(page: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: page[name] for name in ("profile", "state", "clients")}
    share = {"client share": page["client_share"]}
    return {**shown, **page["times"], "pages a second": page["a_second"], **share}


def _figures(whole: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each figure."""
    rows = [
        {"figure": f"{page['profile']}, {page['state']}, {page['clients']}", "value": median}
        for page in whole["pages"]
        for median in [page["times"]["p50"]]
    ]
    for part in ("ratios", "exact", "events", "read", "vectors"):
        rows += [
            {"figure": f"{part}, {name}", "value": value} for name, value in whole[part].items()
        ]
    return rows


def _draw(picture: str, runs: Sequence[Mapping[str, Any]]) -> None:
    """Draw every run's medians over the sizes of the catalogues."""
    ordered = sorted(runs, key=lambda run: int(run["videos"]))
    figures = [_figures_of(run) for run in ordered]
    series = {name: [run_figures[name] for run_figures in figures] for name in figures[0]}
    plot(
        picture, "A page of 20, median", series, horizontal="videos", vertical="milliseconds",
        over=[run["videos"] for run in ordered],
    )  # fmt: skip


def _figures_of(run: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a run that the picture shows."""
    return {
        "for_you, recorded": _median(run, "for_you@1"),
        "classic": _median(run, "classic"),
        "one statement over every video": float(run["whole"]["statement"]["p50"]),
        "numpy in memory": float(run["whole"]["numpy"]["p50"]),
    }


def _median(run: Mapping[str, Any], profile: str) -> float:
    return next(
        float(page["times"]["p50"])
        for page in run["pages"]
        if (page["profile"], page["state"], page["clients"]) == (profile, "warm", 1)
    )
