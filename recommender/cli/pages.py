"""Printing pages and explanations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import click
from sqlalchemy.orm import Session

from recommender.cli.database import reading, writing
from recommender.cli.output import cell, form_of, print_records, print_table
from recommender.errors import UnknownUser
from recommender.feed.values import Contribution, Explanation, FeedItem, FeedPage, Reason
from recommender.feed.wording import label_of
from recommender.formats import scalars
from recommender.lists.people_values import PeoplePage

P = TypeVar("P", FeedPage, PeoplePage)

STRONGEST = 5
"""The number of signals of a video or person that a table shows."""


def asked_page(ask: Callable[[Session], P], user: str, *, record: bool) -> P:
    """Return a page of a user, who must be known if it is recorded.

    Args:
        ask: returns the page, and records it if it should.
        user: the key of the user.
        record: whether the page is recorded, which takes a writing transaction.

    Raises:
        UnknownUser: the page would be recorded for a stranger.
    """

    def page_of(session: Session) -> P:
        page = ask(session)
        if record and not page.request.known:
            raise UnknownUser(f"there is no user {scalars.shown(user)}")
        return page

    if record:
        return writing(page_of)
    with reading() as session:
        return page_of(session)


def print_page(page: FeedPage, form: str | None, *, with_signals: bool) -> None:
    """Print a page of a feed."""
    if form_of(form) == "table":
        print_table([_page_row(item, with_signals=with_signals) for item in page.items])
    else:
        whole = page.as_dict(signals=with_signals)
        example = _EXPLAINED if with_signals else _EXAMPLE
        print_records(whole["items"], form, whole=whole, example=example.as_dict())


_EXAMPLE = FeedItem(
    position=1, video="", creator="", caption=None, hashtags=(), sound=None,
    published_at=scalars.EARLIEST, score=0.0, sources=(), signals={},
)  # fmt: skip
"""An item with the columns of every item."""

_EXPLAINED = replace(_EXAMPLE, reasons=(Reason("no_signal"),), reason="")
"""An item with the columns of every item that tells its reasons."""


def _page_row(item: FeedItem, *, with_signals: bool) -> dict[str, Any]:
    row = {
        "#": item.position,
        "score": round(item.score, 3),
        "video": item.video,
        "creator": item.creator,
        "hashtags": [f"#{tag}" for tag in item.hashtags],
        "caption": item.caption,
    }
    if not with_signals:
        return row
    del row["caption"], row["hashtags"]
    why = " · ".join(label_of(item, reason) for reason in item.reasons)
    return {
        **row,
        "why": why,
        "sources": ", ".join(item.sources),
        "signals": strongest(item.signals),
    }


def strongest(signals: Mapping[str, Contribution]) -> str:
    """Return the strongest signals for or against a video or person, and the number of others."""
    parts = {name: part.contribution for name, part in signals.items() if part.contribution}
    names = sorted(parts, key=lambda name: -abs(parts[name]))
    named = ", ".join(f"{name} {parts[name]:+.3g}" for name in names[:STRONGEST])
    others = len(names) - STRONGEST
    return f"{named} and {others} more" if others > 0 else named


def print_explanation(explanation: Explanation, form: str | None) -> None:
    """Print why a video has its place in a feed, or has none."""
    whole = explanation.as_dict()
    if form_of(form) != "table":
        print_records([whole], form, whole=whole)
        return
    click.echo(cell(explanation.reason))
    click.echo(cell(_place(explanation)))
    rows = [{"signal": name, **part} for name, part in whole["signals"].items()]
    total = {"signal": "score", "value": None, "weight": None, "contribution": whole["score"]}
    print_table([*rows, total])


def _place(explanation: Explanation) -> str:
    """Return the rank and sources of a video, or the filters that keep it out."""
    if not explanation.shown:
        failed = [one.name for one in explanation.filters if not one.passed]
        return f"Kept out by {_listed(failed)}." if failed else "Found by no source."
    ahead = explanation.displaced_by
    behind = f", behind {_listed(ahead)}" if ahead else ""
    return f"Rank {explanation.rank:,}{behind}. Found by {_listed(explanation.item.sources)}."


def _listed(names: Sequence[str]) -> str:
    """Return the names joined with commas and "and"."""
    return " and ".join([*filter(None, [", ".join(names[:-1])]), *names[-1:]])
