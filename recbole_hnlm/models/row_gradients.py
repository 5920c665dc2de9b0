"""Gradients of lookups: several lookups of a step share one pass over their table."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class GradientTable:
    """Hook that turns a parameter's gradient of some rows into a whole table, the same memory in every step.

    Only rows that the last step filled are set to zero again, unless the gradient was added to in other ways.
    """

    def __init__(self) -> None:
        self._table: Tensor | None = None
        self._filled: Tensor | None = None

    def __call__(self, parameter: Tensor) -> None:
        """Put the table in place of the parameter's sparse gradient."""
        gradient = parameter.grad
        if gradient is None or not gradient.is_sparse:
            if gradient is self._table:  # accumulated over two backward passes
                self._filled = None
            return
        rows, values = gradient._indices()[0], gradient._values()
        if self._table is None or self._table.device != parameter.device:
            self._table = torch.zeros_like(parameter)
        elif self._filled is not None:
            self._table.index_fill_(0, self._filled, 0)
        else:
            self._table.zero_()
        self._table.index_add_(0, rows, values)
        self._filled = rows
        parameter.grad = self._table

    def __deepcopy__(self, memo: dict[int, Any]) -> GradientTable:
        """One without a table, since a table belongs to one parameter."""
        return GradientTable()
