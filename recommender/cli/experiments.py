"""``experiments start|list|show|report|stop``."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from recommender.cli.database import reading, writing
from recommender.cli.html import html_file, html_option
from recommender.cli.options import as_of_option, database_option, format_option, settings
from recommender.cli.output import day, form_of, print_records
from recommender.experiments.experiments import (
    Experiment,
    ExperimentArm,
    get_experiment,
    list_experiments,
    start_experiment,
    stop_experiment,
)
from recommender.experiments.report import ExperimentReport, VariantResult, experiment_report
from recommender.experiments.verdict import Range
from recommender.formats.experiments import GUARDRAILS, METRICS
from recommender.reports.report import experiment_html


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
    "--metric", type=click.Choice([*METRICS, *GUARDRAILS]),
    help="Another metric. Default: the one of the experiment.",
)  # fmt: skip
@as_of_option
@html_option
@format_option
@database_option
def report(
    name: str, metric: str | None, as_of: datetime | None, html: str | None, form: str | None
) -> None:
    """Report the verdicts of an experiment, as often as you like. Read-only.

    Exits with 0 if a variant is better and harms nothing, 3 if none is, 4 if it is too early to
    say, and 5 if the numbers of users do not fit their shares.
    """
    with html_file(html) as write, reading(longest=settings().rollup_timeout) as session:
        found = experiment_report(session, name, as_of=as_of, metric=metric)
        write(lambda: experiment_html(found))
    _print_results(found, form)
    if not found.sample_ratio.ok:
        click.echo(_WRONG_RATIO, err=True)
    click.get_current_context().exit(_exit_code(found))


_WRONG_RATIO = (
    "The numbers of users do not fit the shares of the arms: users of an arm are lost, or counted"
    " twice. Find out why before you trust any figure."
)

BETTER, NONE_BETTER, TOO_EARLY, NO_VERDICT = 0, 3, 4, 5
"""The exit codes of ``experiments report``."""


def _exit_code(found: ExperimentReport) -> int:
    kinds = {variant: verdict.kind for variant, verdict in found.verdicts.items()}
    if not found.sample_ratio.ok:
        return NO_VERDICT
    if any(kind == "better" and not found.harmed[variant] for variant, kind in kinds.items()):
        return BETTER
    return TOO_EARLY if "go on" in kinds.values() else NONE_BETTER


def _print_results(found: ExperimentReport, form: str | None) -> None:
    row_of = {"table": _result_row, "csv": _flat_row}.get(form_of(form), VariantResult.as_dict)
    print_records([row_of(each) for each in found.results], form, whole=found.as_dict())


def _flat_row(result: VariantResult) -> dict[str, Any]:
    """Return a result as a row of CSV, which has no nested values."""
    effect = result.effect
    low, high = effect.sequence or (None, None)  # not the plain interval
    return {
        "profile": result.variant,
        "metric": result.metric,
        "guardrail": result.is_guardrail,
        "control": effect.control,
        "variant": effect.variant,
        "difference": effect.difference,
        "low": low,
        "high": high,
        "verdict": result.verdict.kind,
    }


def _result_row(result: VariantResult) -> dict[str, Any]:
    """Return a result as a row of a table."""
    effect = result.effect
    return {
        "variant": result.variant,
        "metric": result.metric,
        "users": " ".join(f"{number:,}" for number in result.users),
        "control": "" if effect.control is None else f"{effect.control:.4g}",
        "effect": "" if effect.relative is None else f"{effect.relative:+.1%}",
        "sequence": _range(effect.relative_sequence),
        "plain": _range(effect.relative_plain),
        "verdict": str(result.verdict),
    }


def _range(found: Range | None) -> str:
    return "" if found is None else f"{found.low:+.1%} to {found.high:+.1%}"


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
