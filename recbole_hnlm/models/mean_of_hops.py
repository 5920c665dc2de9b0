"""LightGCN's propagation (SIGIR'20) in one operation: the mean of a table and its repeated products with a matrix.

``(E + A E + ... + A^L E) / (L + 1)`` by Horner's rule, in blocks of columns that stay in the cache, with a backward of
the same shape. Nothing but the result is kept, where the spelled-out form keeps L tables and stacks them. Equal to it
up to the order of summation. Shapes: ``U`` users, ``I`` items, ``N = U + I`` nodes, ``D`` width, ``L`` layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from recbole.model.general_recommender import NCL, SGL, LightGCN
from torch import Tensor

from recbole_hnlm.graph_models import SimGCL
from recbole_hnlm.models.products import CsrMatrix, FastProducts

_BLOCK_ENTRIES = 1 << 20  # of a block of columns: 4 MiB in float32, about what a core's cache holds
_LEAST_COLUMNS = 32  # two cache lines of float32; narrower blocks read the matrix too often


@dataclass(frozen=True)
class MeanForm:
    """What one propagation of a model is.

    Attributes:
        matrix: The square matrix, as the model holds it.
        layers: How often it is applied, ``L``.
        averaged: How many of the ``L + 1`` tables the mean takes, from the first.
        shows_hops: Whether the model also returns every table.
        once_more: Whether the mean is multiplied once more: SimGCL's mean leaves out the table itself.
    """

    matrix: Tensor
    layers: int
    averaged: int
    shows_hops: bool = False
    once_more: bool = False


def _lightgcn(model: Any, args: tuple[Any, ...]) -> MeanForm:
    return MeanForm(model.norm_adj_matrix, model.n_layers, model.n_layers + 1)


def _sgl(model: Any, args: tuple[Any, ...]) -> MeanForm | None:
    if isinstance(args[0], list):  # random walks take another matrix in every layer
        return None
    return MeanForm(args[0], model.n_layers, model.n_layers + 1)


def _ncl(model: Any, args: tuple[Any, ...]) -> MeanForm:
    layers = max(model.n_layers, model.hyper_layers * 2)
    return MeanForm(model.norm_adj_mat, layers, model.n_layers + 1, shows_hops=True)


def _simgcl(model: Any, args: tuple[Any, ...]) -> MeanForm | None:
    if any(args):  # with noise
        return None
    return MeanForm(model.norm_adj_matrix, model.n_layers - 1, model.n_layers, once_more=True)


_FORMS: dict[type, tuple[tuple[str, ...], Callable[[Any, tuple[Any, ...]], MeanForm | None]]] = {
    LightGCN: (("forward", "get_ego_embeddings"), _lightgcn),
    NCL: (("forward", "get_ego_embeddings"), _ncl),
    SGL: (("forward",), _sgl),
    SimGCL: (("forward", "get_ego_embeddings"), _simgcl),
}


def mean_form(model: Any, base: type, args: tuple[Any, ...]) -> MeanForm | None:
    """The propagation of ``model.forward(*args)`` as a mean of hops, or None where it is not known to be one.

    A subclass that inherits the methods which define the propagation counts as its parent.
    """
    for known, (methods, form) in _FORMS.items():
        if all(getattr(base, name, None) is getattr(known, name) for name in methods):
            return form(model, args)
    return None


def propagate_mean(
    model: Any, form: MeanForm, products: FastProducts, record: bool
) -> tuple[tuple[Any, ...], list[Tensor]] | None:
    """What the model's ``forward`` returns, and the tables of all hops where asked for.

    Args:
        model: The model, with ``user_embedding`` and ``item_embedding``.
        form: Its propagation.
        products: CSR copies of its matrices.
        record: Whether the hops' tables, shape ``(N, D)`` each, are wanted.

    Returns:
        The model's own return value and the hops, or None where the matrix has no CSR copy, or where hops are wanted
        of a mean that leaves out the first.
    """
    csr = products.of(form.matrix)
    if csr is None or (record and form.once_more):
        return None
    keep = record or form.shows_hops
    users, items = model.user_embedding.weight, model.item_embedding.weight
    with torch.autocast(users.device.type, enabled=False):
        mean_users, mean_items, *hops = _MeanOfHops.apply(csr, form.layers, form.averaged, keep, users, items)
    if form.once_more:
        mean_users, mean_items = csr.product(torch.cat([mean_users, mean_items])).split([len(users), len(items)])
    tables = [torch.cat([users, items]), *hops] if keep else []
    result = (mean_users, mean_items, tables) if form.shows_hops else (mean_users, mean_items)
    return result, tables if record else []


def column_blocks(rows: int, width: int, device: torch.device) -> Iterator[slice]:
    """Slices that cover ``width`` columns; on the CPU so narrow that a block of ``rows`` rows stays in the cache."""
    step = width if device.type != "cpu" else max(_LEAST_COLUMNS, _BLOCK_ENTRIES // max(1, rows))
    for start in range(0, width, step):
        yield slice(start, min(start + step, width))


class _MeanOfHops(torch.autograd.Function):
    """Means for users and items and, if ``keep``, the tables of hops 1 to L."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,  # noqa: ANN001
        csr: CsrMatrix,
        layers: int,
        averaged: int,
        keep: bool,
        users: Tensor,
        items: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.csr, ctx.layers, ctx.averaged, ctx.rows = csr, layers, averaged, (len(users), len(items))
        ctx.set_materialize_grads(False)
        nodes, width = sum(ctx.rows), users.shape[1]
        means = torch.empty_like(users), torch.empty_like(items)
        hops = [users.new_empty(nodes, width) for _ in range(layers)] if keep else []
        for block in column_blocks(nodes, width, users.device):
            start = torch.cat([users[:, block], items[:, block]])
            total = _kept_hops(csr, start, averaged, hops, block) if keep else _horner(csr.matrix, start, averaged - 1)
            for mean, part in zip(means, total.split(ctx.rows), strict=True):
                torch.div(part, averaged, out=mean[:, block])
        return (*means, *hops)

    @staticmethod
    def backward(ctx, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        known = next(grad for grad in grads if grad is not None)
        width, nodes = known.shape[1], sum(ctx.rows)
        results = [known.new_empty(rows, width) for rows in ctx.rows]
        for block in column_blocks(nodes, width, known.device):
            mean = [
                known.new_zeros(rows, block.stop - block.start) if grad is None else grad[:, block]
                for grad, rows in zip(grads[:2], ctx.rows, strict=True)
            ]
            shared = torch.cat(mean).div_(ctx.averaged)
            if any(grad is not None for grad in grads[2:]):
                total = _through_hops(ctx, shared, [None if grad is None else grad[:, block] for grad in grads[2:]])
            else:
                total = _horner(ctx.csr.transposed, shared, ctx.averaged - 1)
            for result, part in zip(results, total.split(ctx.rows), strict=True):
                result[:, block] = part
        return (None, None, None, None, *results)


def _horner(matrix: Tensor, start: Tensor, times: int) -> Tensor:
    """``start + A start + ... + A^times start``, shape ``(N, d)``."""
    total = start
    for _ in range(times):
        total = torch.addmm(start, matrix, total)
    return total


def _kept_hops(csr: CsrMatrix, start: Tensor, averaged: int, hops: list[Tensor], block: slice) -> Tensor:
    """The sum of the averaged hops; every hop is written to its table."""
    total, hop = start.clone(), start
    for number, table in enumerate(hops, start=1):
        hop = csr.matrix @ hop
        table[:, block] = hop
        if number < averaged:
            total += hop
    return total


def _through_hops(ctx: Any, shared: Tensor, grads: list[Tensor | None]) -> Tensor:
    """Gradient of the start: each hop's own gradient plus its share of the mean's, carried back hop by hop."""
    total: Tensor | None = None
    for number in range(ctx.layers, -1, -1):
        own = grads[number - 1] if number else None
        if number < ctx.averaged:
            own = shared if own is None else own + shared
        if total is not None:
            carried = ctx.csr.transposed @ total
            own = carried if own is None else carried + own
        total = own.contiguous() if own is not None else None
    assert total is not None
    return total
