"""Losses in single precision, whatever autocast (RecBole's ``enable_amp``) has made of the rows."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor


def widened(rows: Tensor) -> Tensor:
    """Rows of half precision in single precision; wider ones as they are. The gradient comes back in the rows' type."""
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """While it is entered, products on the device keep the types of their factors.

    For losses whose cosines are divided by a small temperature, and for gradients written in place, which need one type
    throughout.
    """
    return torch.autocast(device.type, enabled=False)
