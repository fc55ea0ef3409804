"""Pages of videos as a viewer sees them, each video with the reason for its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from recommender.feed.values import FeedItem, FeedPage, Reason
from recommender.feed.wording import label_of
from recommender.reports.parts import Listing, Place
from recommender.reports.text import NONE, cut, moment_of, plain_line, short_key

STRONGEST = 4
"""The number of signals of a video that a page shows."""

NOT_KEYS = frozenset({"hashtag", "shared_hashtags", "signal"})
"""The kinds of reasons whose subject is not a key of a video, a user or a sound."""


def served_listing(page: FeedPage) -> Listing:
    """Return a served page, with shortened keys of its viewer, videos and creators."""
    request = page.request
    feed = request.feed.label if request.feed else "For You"
    title = f"{feed} for {short_key(request.user)}, {moment_of(request.as_of)}"
    return Listing(title, [_place(item, is_short=True) for item in page.items])


def listing(title: str, page: FeedPage, before: FeedPage | None = None) -> Listing:
    """Return a page of one viewer in full.

    Args:
        title: the title, empty for none.
        page: the page.
        before: another page, which the positions are compared with.
    """
    was = {item.video: item.position for item in before.items} if before else None
    places = [
        replace(_place(item, is_short=False), change=_change(item, was)) for item in page.items
    ]
    return Listing(plain_line(title), places, "" if places else "No video may be shown.")


def _change(item: FeedItem, was: Mapping[str, int] | None) -> str:
    """Return how a video moved from one page to another."""
    if was is None:
        return ""
    before = was.get(item.video)
    if before is None:
        return "not on the other page"
    moved = before - item.position
    return "same place" if not moved else f"{'up' if moved > 0 else 'down'} {abs(moved)}"


def _place(item: FeedItem, *, is_short: bool) -> Place:
    shown = short_key if is_short else _whole
    return Place(
        position=item.position,
        name=shown(item.video),
        by=shown(item.creator),
        text=cut(item.caption),
        why=" · ".join(_reason(item, reason, is_short=is_short) for reason in item.reasons),
        details=_details(item),
    )


def _whole(key: str | None) -> str:
    return plain_line(key) if key else NONE


def _reason(item: FeedItem, reason: Reason, *, is_short: bool) -> str:
    """Return a reason in a few words."""
    if is_short and reason.subject is not None and reason.kind not in NOT_KEYS:
        reason = replace(reason, subject=short_key(reason.subject))
    shown = replace(item, creator=short_key(item.creator)) if is_short else item
    return plain_line(label_of(shown, reason))


def _details(item: FeedItem) -> str:
    """Return the sources of a video and its strongest signals."""
    parts = {name: each.contribution for name, each in item.signals.items() if each.contribution}
    names = sorted(parts, key=lambda name: -abs(parts[name]))[:STRONGEST]
    signals = ", ".join(f"{name} {parts[name]:+.2f}" for name in names)
    found = ", ".join(item.sources)
    marks = " · exploration" if item.explored else ""
    return plain_line(
        f"score {round(item.score, 2) + 0.0:.2f}: {signals} · found by {found}{marks}"
    )
