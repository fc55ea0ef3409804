"""Who may see a published video: its audience, and whether its creator is discoverable.

Both are one small number, the column `visibility` of a video. The stored status of a published
video follows from it: `published` if everyone may see it, else another word. The indexes of the
lists begin with the stored status, so they hold no videos for fewer people.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from recommender.formats.scalars import STATUSES

Audience: TypeAlias = Literal["public", "followers", "unlisted"]

AUDIENCES: tuple[Audience, ...] = get_args(Audience)

PUBLIC, FOLLOWERS, UNLISTED = range(len(AUDIENCES))
"""The visibility of a discoverable creator's video, by its audience."""

UNDISCOVERABLE = len(AUDIENCES)
"""The number that an undiscoverable creator adds to the visibility of a video."""

MAX_VISIBILITY = 2 * UNDISCOVERABLE - 1

FOR_FOLLOWERS = ("followers", "undiscoverable")
"""The stored statuses of published videos that only followers may find."""

PUBLISHED = ("published", *FOR_FOLLOWERS, "unlisted")
"""The stored statuses of published videos."""

STORED_STATUSES = (*STATUSES, *FOR_FOLLOWERS, "unlisted")


def audience_of(visibility: int) -> Audience:
    """Return the audience in a visibility."""
    return AUDIENCES[visibility % UNDISCOVERABLE]


def visibility_of(audience: Audience, *, discoverable: bool) -> int:
    """Return the visibility for an audience, and for a creator who is discoverable or not."""
    return AUDIENCES.index(audience) + (0 if discoverable else UNDISCOVERABLE)


def plain_status(stored: str) -> str:
    """Return the status for a stored one: `published` for every published video."""
    return "published" if stored in PUBLISHED else stored


def stored_status(status: str, visibility: int) -> str:
    """Return the status to store: for a published video the word of its visibility.

    Args:
        status: a status, stored or not.
        visibility: the video's visibility.
    """
    if plain_status(status) != "published" or visibility == PUBLIC:
        return plain_status(status)
    if visibility % UNDISCOVERABLE == UNLISTED:
        return "unlisted"
    return "followers" if visibility == FOLLOWERS else "undiscoverable"
