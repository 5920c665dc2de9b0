"""One propagation of a graph model: sparse products over CSR, LightGCN's whole in one operation, hops recorded where
a sampler asks.

Shapes: ``N`` nodes, ``D`` width of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from recbole.model.general_recommender import DGCF, SpectralCF
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from recbole_hnlm.models.mean_of_hops import mean_form, propagate_mean
from recbole_hnlm.models.products import FastProducts
from recbole_hnlm.run_options import RunOptions

_ROUGH = (DGCF, SpectralCF)
"""Models that blow rounding up: in single precision their gradients differ from the exact ones by 1e-5 and more, so two
orders of summation cannot agree to 1e-6."""


class Propagator:
    """Runs a model's ``forward``, faster where that is allowed and equal to rounding.

    Args:
        model: The model.
        base: Its class as RecBole has it.
        run: The run's options. Where they leave it open, models whose own gradients are far from exact are left alone.
    """

    def __init__(self, model: nn.Module, base: type, run: RunOptions) -> None:
        left_open = run.general.fast_propagation is None
        fast = run.fast_propagation and not (left_open and issubclass(base, _ROUGH))
        self.products = FastProducts(model) if fast else None
        self._model: Any = model
        self._base = base

    def run(self, forward: Callable[..., Any], args: tuple[Any, ...], record: bool) -> tuple[Any, list[Tensor]]:
        """What ``forward(*args)`` returns, and the tables of its hops, shape ``(N, D)`` each, where asked for."""
        if self.products is not None:
            form = mean_form(self._model, self._base, args)
            found = propagate_mean(self._model, form, self.products, record) if form is not None else None
            if found is not None:
                return found
        elif not record:
            return forward(*args), []
        nodes = self._model.n_users + self._model.n_items if record else 0
        with _Recording(self.products, nodes) as recording:
            result = forward(*args)
        return result, recording.tables


class _Recording(TorchFunctionMode):
    """While it is entered, sparse products run over CSR, and tables over all nodes are kept.

    Args:
        products: CSR copies, or None to leave the products as they are.
        rows: Number of nodes; 0 records nothing.
    """

    def __init__(self, products: FastProducts | None, rows: int) -> None:
        super().__init__()
        self.tables: list[Tensor] = []
        self._products = products
        self._rows = rows

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, a sparse product over CSR where there is a copy."""
        if func is not torch.sparse.mm:
            return func(*args, **(kwargs or {}))
        if not self.tables:
            self._keep(args[1])
        csr = self._products.of(args[0]) if self._products is not None else None
        result = func(*args, **(kwargs or {})) if csr is None else csr.product(args[1])
        self._keep(result)
        return result

    def _keep(self, table: Any) -> None:
        if self._rows and isinstance(table, Tensor) and table.dim() == 2 and table.shape[0] == self._rows:
            self.tables.append(table)
