"""The page of a viewer as a file: what they see, and why; or what two profiles would show them."""

from __future__ import annotations

from collections.abc import Iterator

from recommender.feed.values import FeedPage
from recommender.reports.page_lists import listing
from recommender.reports.parts import Document, Section, Table
from recommender.reports.text import moment_of, plain_line, plural


def feed_document(page: FeedPage, other: FeedPage | None = None) -> Document:
    """Return the document of a page that tells its reasons.

    Args:
        page: the page.
        other: the page of the same viewer with another profile, to stand next to it.
    """
    request = page.request
    feed = request.feed.name if request.feed else "For You"
    sections = [_side_by_side(page, other), *_weights(page, other)] if other else [_alone(page)]
    return Document(
        title=f"{plain_line(feed)} for {plain_line(request.user)}",
        subtitle=f"{moment_of(request.as_of)}, {_about(page)}",
        tiles=(),
        sections=sections,
    )


def _about(page: FeedPage) -> str:
    """Return what is known of the viewer."""
    request = page.request
    facts = [request.language, request.country, request.device]
    known = ", ".join(plain_line(fact) for fact in facts if fact)
    if not request.known:
        return "an unknown viewer"
    return f"a viewer with {known}" if known else "a viewer without language and country"


def _alone(page: FeedPage) -> Section:
    shown = len(page.items)
    title = f"{plural(shown, 'video')}, ranked by {page.request.profile.label}"
    return Section(title, lists=[listing("", page)], is_wide=True, shown_places=shown)


def _side_by_side(page: FeedPage, other: FeedPage) -> Section:
    """Return the pages of two profiles next to each other, with how the videos moved."""
    positions = {item.video: item.position for item in page.items}
    both = [item for item in other.items if item.video in positions]
    same = sum(positions[item.video] == item.position for item in both)
    first, second = page.request.profile.label, other.request.profile.label
    return Section(
        f"{first} and {second} share {len(both)} of {plural(len(page.items), 'video')}, {same} of"
        " them at the same place",
        lists=[listing(first, page), listing(second, other, page)],
        is_wide=True,
        shown_places=max(len(page.items), len(other.items)),
    )


def _weights(page: FeedPage, other: FeedPage) -> Iterator[Section]:
    """Yield the section of the weights in which two profiles differ, if there are any."""
    one, two = page.request.profile, other.request.profile
    names = dict.fromkeys([*one.weights, *two.weights])
    pairs = {name: (one.weights.get(name, 0.0), two.weights.get(name, 0.0)) for name in names}
    rows = [
        (plain_line(name), f"{was:g}", f"{now:g}", f"{now - was:+g}")
        for name, (was, now) in pairs.items()
        if was != now
    ]
    if rows:
        columns = ("signal", one.label, two.label, "change")
        table = Table(columns, rows, frozenset(columns[1:]))
        yield Section(f"{plural(len(rows), 'weight')} differ", tables=[table], is_wide=True)
