"""What clients of servers log by themselves."""

from __future__ import annotations

import logging

_CHATTY = ("openai", "httpx", "httpx2")


def quiet_clients() -> None:
    """Have the clients log warnings alone; at INFO they write a line for each of what may be millions of requests."""
    for name in _CHATTY:
        logger = logging.getLogger(name)
        if logger.level < logging.WARNING:
            logger.setLevel(logging.WARNING)
