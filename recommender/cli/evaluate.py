"""``evaluate``."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import click
from sqlalchemy import Engine

import recommender
from recommender.cli.database import readable
from recommender.cli.options import Length, Time, database_option, format_option, settings
from recommender.cli.output import form_of, print_records, print_table
from recommender.evaluation.bootstrap import Interval
from recommender.evaluation.evaluate import SAMPLE, Evaluation
from recommender.evaluation.log_files import LogFiles
from recommender.evaluation.log_replay import ENGAGED, TARGETS, Progress
from recommender.evaluation.results import ImpressionQuality, PageQuality

_HOLDOUT = re.compile(r"per-user:(0?\.\d{1,9})", re.ASCII)


class Holdout(click.ParamType[float]):
    """How each user's own last positives are held out, such as per-user:0.2."""

    name = "holdout"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The part of them, else a usage error."""
        if isinstance(value, float):
            return value
        if not (matched := _HOLDOUT.fullmatch(value)) or not float(matched[1]):
            self.fail(f"{value!r} is not of the form per-user:0.2", param, ctx)
        return float(matched[1])


def files_option(kind: str) -> Callable[[Any], Any]:
    """``--users`` and so on: files of a log."""
    return click.option(
        f"--{kind}", multiple=True, metavar="FILE", help=f"Interchange file of {kind}; repeatable."
    )


@click.command()
@click.option("--cutoff", type=Time(), metavar="TIME", help="Where the log is cut.")
@click.option("--until", type=Time(), metavar="TIME", help="Leave out what comes then or later.")
@click.option(
    "--holdout", type=Holdout(), metavar="per-user:PART",
    help="Instead, cut each user's log before the last PART of their positives.",
)  # fmt: skip
@click.option(
    "--every", type=Length(), default="1d", show_default=True, metavar="LENGTH",
    help="How long a slice is; each is folded in after it was scored.",
)  # fmt: skip
@click.option(
    "--profile", "profiles", multiple=True, metavar="NAME[@VERSION]",
    help="A ranking profile, the others are compared with the first; the active one if left out.",
)  # fmt: skip
@click.option(
    "--target", type=click.Choice(TARGETS), default=ENGAGED, show_default=True,
    help="What an impression is hoped to lead to.",
)  # fmt: skip
@click.option("--ablate", is_flag=True, help="Also without each signal of the first profile.")
@click.option(
    "--sample", type=click.IntRange(min=1), default=SAMPLE, show_default=True,
    metavar="USERS", help="Look at the pages of so many users at most.",
)  # fmt: skip
@files_option("users")
@files_option("videos")
@files_option("follows")
@files_option("events")
@click.option(
    "--scratch", metavar="URL", help="An empty database to work in; a temporary file if left out."
)
@format_option
@database_option
def evaluate(
    users: tuple[str, ...],
    videos: tuple[str, ...],
    follows: tuple[str, ...],
    events: tuple[str, ...],
    form: str | None,
    **asked: Any,
) -> None:
    """Say how good the feed is: rank what came later by what was known before.

    The log is the database's own, or that of interchange files. Nothing of either is written.
    """
    if (asked["cutoff"] is None) == (asked["holdout"] is None):
        raise click.UsageError("give either --cutoff or --holdout")
    source: AbstractContextManager[Engine | LogFiles] = readable(longest=settings().rollup_timeout)
    if users or videos or follows or events:
        source = nullcontext(LogFiles(users, videos, follows, events))
    with source as log, progress_bars() as progress:
        found = recommender.evaluate(log, settings=settings(), progress=progress, **asked)
    _print(found, form)


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """A bar for each stage, on a terminal."""
    is_hidden = not sys.stderr or not sys.stderr.isatty()
    bars: dict[str, Any] = {}

    def progress(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            _finish(bars)
            bar = click.progressbar(length=total, label=stage, file=sys.stderr, hidden=is_hidden)
            bars[stage] = bar.__enter__()
        bars[stage].update(done - bars[stage].pos)

    try:
        yield progress
    finally:
        _finish(bars)


def _finish(bars: Mapping[str, Any]) -> None:
    """End the line of the stage before."""
    for bar in list(bars.values())[-1:]:
        bar.render_finish()


def _print(found: Evaluation, form: str | None) -> None:
    if form_of(form) != "table":
        whole = found.as_dict()
        figures = [row for part in ("ranking", "pages") for row in _figures(part, whole[part])]
        print_records(figures, form, whole=whole)
        return
    click.echo(
        f"{found.impressions:,} impressions of {found.impression_users:,} users in"
        f" {_slices(found.slices)} were ranked; {found.positives:,} led to: {found.target}."
    )
    print_table([_ranking_row(each) for each in found.ranking])
    click.echo(
        f"\nPages out of {found.videos:,} videos for {found.page_users:,} users who later wanted"
        " some that they had not seen:"
    )
    print_table([_page_row(each) for each in found.pages])
    click.echo("\n±: half of the 95 % interval over users; change: against the first row.")


def _figures(part: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each figure in a row of its own."""
    for row in rows:
        flat = {**row, **row.get("accuracy", {})}
        ranker = flat.pop("ranker")
        flat.pop("accuracy", None)
        for each in figure_rows(flat):
            yield {"part": part, "ranker": ranker, **each}


def figure_rows(figures: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Each figure with its value; its interval is empty where it has none."""
    for figure, found in figures.items():
        ends = found if isinstance(found, Mapping) else {"value": found}
        yield {"figure": figure, **{name: ends.get(name) for name in Interval._fields}}


def _slices(count: int) -> str:
    return f"{count:,} slice{'s' * (count != 1)}"


def _ranking_row(quality: ImpressionQuality) -> dict[str, Any]:
    return {
        "ranking": quality.ranker,
        "GAUC": interval_cell(quality.gauc),
        "change": _change(quality.change),
        "AUC": interval_cell(quality.auc),
        "log loss": _value(quality.log_loss),
        "miscalibrated": _value(quality.calibration_error),
    }


def _page_row(quality: PageQuality) -> dict[str, Any]:
    name, figure, *others = accuracy_row(quality.ranker, quality.accuracy).items()
    return {
        **dict([name, figure, ("change", _change(quality.change)), *others]),
        "cover": round(quality.coverage, 3),
        "Gini": round(quality.creator_gini, 3),
        "diverse": _value(quality.diversity),
        "novel": _value(quality.novelty),
    }


def accuracy_row(ranker: str, accuracy: Mapping[str, Interval | None]) -> dict[str, Any]:
    """What a table shows of a ranker's pages: how well they hold what was wanted later."""
    return {
        "pages": ranker,
        "nDCG@20": interval_cell(accuracy["ndcg@20"]),
        "recall": _value(accuracy["recall@20"]),
        "MRR": _value(accuracy["mrr@20"]),
        "hit": _value(accuracy["hit@20"]),
    }


def interval_cell(found: Interval | None, sign: str = "-") -> str:
    """A value, and half of how wide its interval is."""
    if found is None:
        return ""
    return f"{found.value:{sign}.3f} ±{(found.high - found.low) / 2:.3f}"


def _change(found: Interval | None) -> str:
    """Nothing where it is the first row's, which is compared with itself."""
    return "" if found == (0, 0, 0) else interval_cell(found, "+")


def _value(found: Interval | None) -> float | None:
    return None if found is None else round(found.value, 3)
