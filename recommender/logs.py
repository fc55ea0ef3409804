"""What the package did, for a host's own logging: one logger, and nothing but numbers.

A record says what was done in its message, and has the same as a dictionary in its attribute
`recommender`, for handlers that write JSON. Nobody's key and no text of anybody is ever in it.
"""

from __future__ import annotations

import logging


LOGGER = logging.getLogger("recommender")


def log(level: int, did: str, **numbers: float | None) -> None:
    """Log one thing that was done.

    Args:
        level: of `logging`.
        did: what, in constant words.
        numbers: how many rows, how many seconds.
    """
    if LOGGER.isEnabledFor(level):
        said = " ".join(f"{name}={value}" for name, value in numbers.items())
        facts = {"did": did, **numbers}
        LOGGER.log(level, "%s %s", did, said, extra={"recommender": facts}, stacklevel=2)
