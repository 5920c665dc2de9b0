"""A progress bar that is only there when wanted and when it lasts."""

from __future__ import annotations

import contextlib
from typing import Any


class _NoBar:
    def update(self, count: int) -> None:
        """Do nothing."""


def progress_bar(total: int, title: str, show: bool) -> contextlib.AbstractContextManager[Any]:
    """A tqdm bar over ``total`` steps, or an object with an idle ``update`` if not ``show``."""
    if not show or not total:
        return contextlib.nullcontext(_NoBar())
    from tqdm import tqdm

    bar: contextlib.AbstractContextManager[Any] = tqdm(total=total, desc=title, leave=False, dynamic_ncols=True)
    return bar
