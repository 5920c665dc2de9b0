"""What every options class checks its fields with."""

from __future__ import annotations


def require(condition: bool, message: str) -> None:
    """Raise with ``message``, which names key, value and remedy, where ``condition`` does not hold.

    Raises:
        ValueError: With the message.
    """
    if not condition:
        raise ValueError(message)
