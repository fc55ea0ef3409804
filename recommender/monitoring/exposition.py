"""Prometheus' text format, https://prometheus.io/docs/instrumenting/exposition_formats/."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Family:
    """A metric with its samples.

    Attributes:
        name: the whole name of the metric.
        kind: ``gauge`` or ``counter``.
        meaning: one line of help.
        label: the name of its label; None if it has one sample without a label.
        samples: the values by the value of the label.
    """

    name: str
    kind: str
    meaning: str
    label: str | None
    samples: Mapping[str, float]


def exposed(families: Iterable[Family]) -> str:
    """Return the text of metrics; those without a sample are left out."""
    lines = [line for family in families if family.samples for line in _lines(family)]
    return "".join(f"{line}\n" for line in lines)


def _lines(family: Family) -> list[str]:
    samples = [
        f"{family.name}{_labelled(family.label, label)} {value!r}"
        for label, value in family.samples.items()
    ]
    help_text = family.meaning.replace("\\", r"\\").replace("\n", r"\n")
    return [f"# HELP {family.name} {help_text}", f"# TYPE {family.name} {family.kind}", *samples]


def _labelled(name: str | None, value: str) -> str:
    if name is None:
        return ""
    escaped = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return f'{{{name}="{escaped}"}}'
