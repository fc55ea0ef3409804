"""The sections about promises and the database: what `audit` and `doctor` find."""

from __future__ import annotations

from collections.abc import Sequence

from recommender.formats.findings import Finding
from recommender.operations.audit import PROMISES
from recommender.reports.parts import Mark, Section, Table
from recommender.reports.text import NONE, number, plural
from recommender.reports.values import Figures


def promises(report: Figures) -> Section:
    """Return the section about the audit."""
    audit = report.audit
    if audit is None:
        return Section(
            "Promises were not audited",
            "An audit reads the log many times, and this log is long: run `recommender audit`.",
        )
    broken = audit.broken
    rows = [
        (name, number(getattr(audit, name)),
         Mark("broken", "bad") if name in broken else Mark("kept", "good"))
        for name in PROMISES
    ]  # fmt: skip
    title = "Every promise was kept"
    if broken:
        word = "promise was" if len(broken) == 1 else "promises were"
        title = f"{len(broken)} {word} broken: {', '.join(broken)}"
    return Section(
        title,
        f"The audit of {plural(audit.sessions, 'session')} with {plural(audit.items, 'place')}."
        " A count is the number of times that a promise was broken.",
        tables=[Table(("promise", "count", "state"), rows, frozenset({"count"}))],
    )


def database(report: Figures) -> Section:
    """Return the section about the findings of `doctor`."""
    wrong = [each for each in report.findings if not each.ok]
    title = "The database is well"
    if wrong:
        verb = "needs" if len(wrong) == 1 else "need"
        title = f"{plural(len(wrong), 'check')} of the database {verb} attention"
        title += f": {', '.join(each.check for each in wrong)}"
    return Section(title, tables=[findings_table(report.findings)], is_wide=True)


def findings_table(findings: Sequence[Finding]) -> Table:
    """Return the table of the findings of checks."""
    rows = [
        (each.check, Mark("well", "good") if each.ok else Mark("not well", "bad"), each.found,
         each.advice or NONE)
        for each in findings
    ]  # fmt: skip
    return Table(("check", "state", "found", "what to do"), rows)
