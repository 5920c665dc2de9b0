"""SGL's and NCL's contrast of a batch's nodes with all nodes, equal to RecBole's to rounding.

Each distinct node of the batch once, counted as often as the batch names it, and block by block. RecBole holds several
tensors of a batch times all users, and of a batch times all items, at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from recbole.model.general_recommender import NCL, SGL
from torch import Tensor

from recbole_hnlm.models.contrast import contrast


def contrast_methods(model_class: type) -> dict[str, Callable[..., Tensor]]:
    """Methods for a subclass of ``model_class`` that compute its contrast; none where it has one of its own."""
    return {
        name: ours
        for name, (home, ours) in _METHODS.items()
        if getattr(model_class, name, None) in (getattr(home, name), ours)
    }


def _of_sgl(
    self: Any, users: Tensor, items: Tensor, users_1: Tensor, users_2: Tensor, items_1: Tensor, items_2: Tensor
) -> Tensor:
    """``SGL.calc_ssl_loss``."""
    if not _is_fast(self):
        own: Tensor = SGL.calc_ssl_loss(self, users, items, users_1, users_2, items_1, items_2)
        return own
    total = _with_all(users, users_1, users_2, self.ssl_tau) + _with_all(items, items_1, items_2, self.ssl_tau)
    return self.ssl_weight * total


def _of_ncl(self: Any, current: Tensor, previous: Tensor, users: Tensor, items: Tensor) -> Tensor:
    """``NCL.ssl_layer_loss``."""
    if not _is_fast(self):
        own: Tensor = NCL.ssl_layer_loss(self, current, previous, users, items)
        return own
    sides = zip(current.split([self.n_users, self.n_items]), previous.split([self.n_users, self.n_items]), strict=True)
    of_users, of_items = (
        _with_all(ids, near, far, self.ssl_temp) for ids, (near, far) in zip((users, items), sides, strict=True)
    )
    return self.ssl_reg * (of_users + self.alpha * of_items)


_METHODS: dict[str, tuple[type, Callable[..., Tensor]]] = {
    "calc_ssl_loss": (SGL, _of_sgl),
    "ssl_layer_loss": (NCL, _of_ncl),
}


def _is_fast(model: Any) -> bool:
    propagator = getattr(model, "_propagator", None)
    return propagator is not None and propagator.products is not None


def _with_all(ids: Tensor, rows: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Contrast of the rows of ``ids``, shape ``(B,)``, with all targets; both tables have a row a node."""
    distinct, counts = torch.unique(ids, return_counts=True)
    return contrast(rows[distinct], targets[distinct], targets, temperature, counts=counts)
