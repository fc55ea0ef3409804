"""``experiments start|list|show|stop``."""

from __future__ import annotations

from typing import Any

import click

from recommender.cli.database import reading, writing
from recommender.cli.options import database_option, format_option
from recommender.cli.output import day, form_of, print_records
from recommender.experiments.experiments import (
    Experiment,
    ExperimentArm,
    get_experiment,
    list_experiments,
    start_experiment,
    stop_experiment,
)
from recommender.formats.experiments import GUARDRAILS, METRICS


@click.group()
def experiments() -> None:
    """Compare profiles on the users of a feed."""


@experiments.command()
@click.argument("name")
@click.option(
    "--control", metavar="NAME[@VERSION]",
    help="The profile to compare with. Default: the one that serves the feed now.",
)  # fmt: skip
@click.option(
    "--variant", "variants", multiple=True, required=True, metavar="NAME[@VERSION]",
    help="A profile to try; repeatable.",
)  # fmt: skip
@click.option(
    "--share", type=float, default=0.5, show_default=True,
    help="The part of the users that get variants, in equal parts.",
)  # fmt: skip
@click.option("--feed", metavar="NAME", help="A feed with a name. Default: For You.")
@click.option(
    "--metric", type=click.Choice(METRICS), default="engaged", show_default=True,
    help="What the experiment wants to raise.",
)  # fmt: skip
@click.option(
    "--guardrail", "guardrails", multiple=True, type=click.Choice([*GUARDRAILS, *METRICS]),
    help="What it must not harm; repeatable.",
)  # fmt: skip
@click.option(
    "--least-effect", type=float, default=0.02, show_default=True,
    help="The smallest relative effect that matters.",
)  # fmt: skip
@click.option(
    "--interleave", "interleaved", is_flag=True,
    help="Let each page hold videos of both profiles in turn, for feeds with few users.",
)  # fmt: skip
@format_option
@database_option
def start(name: str, variants: tuple[str, ...], form: str | None, **options: Any) -> None:
    """Start an experiment: sessions begin with the profile of their user's arm."""
    _print(writing(lambda session: start_experiment(session, name, variants, **options)), form)


@experiments.command("list")
@format_option
@database_option
def list_(form: str | None) -> None:
    """List every experiment, the running ones first."""
    with reading() as session:
        found = list_experiments(session)
    rows = [each.as_dict() for each in found]
    if form_of(form) == "table":
        rows = [_row(each) for each in found]
    print_records(rows, form, example=_EXAMPLE)


@experiments.command()
@click.argument("name")
@format_option
@database_option
def show(name: str, form: str | None) -> None:
    """Show an experiment."""
    with reading() as session:
        experiment = get_experiment(session, name)
    _print(experiment, form)


@experiments.command()
@click.argument("name")
@click.option(
    "--promote", metavar="NAME[@VERSION]", help="The arm whose profile serves from now on."
)
@format_option
@database_option
def stop(name: str, promote: str | None, form: str | None) -> None:
    """Stop an experiment: it assigns no one any more. Sessions that have begun go on."""
    _print(writing(lambda session: stop_experiment(session, name, promote=promote)), form)


def _print(experiment: Experiment, form: str | None) -> None:
    row = _row(experiment) if form_of(form) == "table" else experiment.as_dict()
    print_records([row], form, whole=experiment.as_dict())


def _row(experiment: Experiment) -> dict[str, Any]:
    """Return an experiment as a row of a table."""
    return {
        "experiment": experiment.name,
        "feed": experiment.feed,
        "control": _arm(experiment.control),
        "variants": " ".join(map(_arm, experiment.variants)),
        "metric": experiment.metric,
        "started": day(experiment.started_at),
        "stopped": day(experiment.stopped_at),
        "promoted": experiment.promoted,
    }


_EXAMPLE = {
    "experiment": "", "feed": "", "interleaved": False, "metric": "", "least_effect": 0.02,
    "started_at": "", "stopped_at": "", "promoted": "",
}  # fmt: skip
"""The columns of CSV."""


def _arm(arm: ExperimentArm) -> str:
    return f"{arm.profile}={arm.share:.0%}"
