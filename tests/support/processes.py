"""Signals of the processes that tests start."""

from __future__ import annotations

import signal


def heed_interrupts() -> None:
    """Stop ignoring SIGINT, as a background job of a shell does, so that children heed it too.

    A process that is started inherits an ignored signal, and no handler.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
