"""What clients of servers log by themselves."""

from __future__ import annotations

import logging

_CHATTY = ("openai", "httpx", "httpx2")


def quiet_clients() -> None:
    """Have the clients log warnings alone, unless the user has set their level; at INFO they write a line a request."""
    for name in _CHATTY:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.WARNING)
