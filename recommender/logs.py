"""The package's log records: one logger, constant messages, and numbers.

A record's attribute `recommender` holds the same facts as a dictionary, for handlers that write
JSON. No record contains a user's key or text.
"""

from __future__ import annotations

import logging

LOGGER = logging.getLogger("recommender")


def log(level: int, action: str, **numbers: float | None) -> None:
    """Log a finished action.

    Args:
        level: a level of `logging`.
        action: what was done, in constant words.
        numbers: counts of rows, and seconds.
    """
    if LOGGER.isEnabledFor(level):
        listed = " ".join(f"{name}={value}" for name, value in numbers.items())
        facts = {"did": action, **numbers}
        LOGGER.log(level, "%s %s", action, listed, extra={"recommender": facts}, stacklevel=2)
