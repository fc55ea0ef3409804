"""The package's log records: one logger, constant messages, and numbers.

A record's attribute `recommender` holds the same facts as a dictionary, for handlers that write
JSON. No record contains a user's key or text.
"""

from __future__ import annotations

import logging

from recommender.telemetry import describe

LOGGER = logging.getLogger("recommender")


def log(level: int, action: str, **numbers: float | None) -> None:
    """Log a finished action; the span of a call also gets the numbers of its INFO record.

    Args:
        level: a level of `logging`.
        action: what was done, in constant words.
        numbers: counts of rows, and seconds.
    """
    if level >= logging.INFO:
        describe(numbers)
    if LOGGER.isEnabledFor(level):
        listed = " ".join(f"{name}={value}" for name, value in numbers.items())
        facts = {"did": action, **numbers}
        LOGGER.log(level, "%s %s", action, listed, extra={"recommender": facts}, stacklevel=2)
