"""The results of checks, as `doctor` and `evaluate --checks` print them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: the state found and, if it is not well, the fix."""

    check: str
    ok: bool
    found: str
    advice: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as the commands print it."""
        return asdict(self)
