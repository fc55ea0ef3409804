"""The origin of a version of a ranking profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from recommender.formats.plain import plain


@dataclass(frozen=True, slots=True)
class ProfileRecord:
    """The origin of one version of a ranking profile.

    Attributes:
        profile: the name.
        version: the number.
        created_at: the time of creation, in UTC.
        activated_at: the time of the last activation, None if never.
        source: ``hand`` or ``fit``: the origin of the weights.
        author: the author, None if not given.
        note: the reason, None if not given.
        parent: ``name@version`` of the version it was made from, None if none.
        metrics: the results of a fit (`Fit.as_dict`); None if made by hand.
    """

    profile: str
    version: int
    created_at: datetime
    activated_at: datetime | None = None
    source: str = "hand"
    author: str | None = None
    note: str | None = None
    parent: str | None = None
    metrics: Mapping[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the origin as `profiles show --format json` prints it."""
        return {
            "profile": self.profile,
            "version": self.version,
            "source": self.source,
            "parent": self.parent,
            "author": self.author,
            "note": self.note,
            "created_at": plain(self.created_at),
            "activated_at": plain(self.activated_at),
            "metrics": self.metrics,
        }
