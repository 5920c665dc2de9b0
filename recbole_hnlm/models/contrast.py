"""InfoNCE as RLMRec (WWW'24), SGL and NCL take it: cosines of anchors with a pool that holds each anchor's own target.

Shapes: ``B`` anchors, ``P`` targets of the pool, ``D`` width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from recbole_hnlm.models.precision import widened, without_autocast

_SAFE_BOUND = 30.0  # exp(-2 bound), the least that an own text can weigh, is far from float32's smallest number
_BLOCK_ENTRIES = 1 << 19  # of a block of logits: 2 MiB in float32, so that a core's cache holds it


def contrast(
    anchors: Tensor,
    targets: Tensor,
    pool: Tensor,
    temperature: float,
    ids: tuple[Tensor, Tensor] | None = None,
    counts: Tensor | None = None,
) -> Tensor:
    r"""Summed loss of all anchors.

    .. math:: L = \sum_b -\frac{\cos(a_b, t_b)}{\tau} + \ln \sum_p \exp \frac{\cos(a_b, t_p)}{\tau}

    As published, a target that stands in the pool twice counts twice, an anchor's own too. Logits are computed block by
    block with their gradients, so that memory is that of the rows and not ``B P``, and in single precision even under
    autocast.

    Args:
        anchors: Shape ``(B, D)``, of any norm.
        targets: Own target of each, likewise.
        pool: Targets of the sum, shape ``(P, D)``.
        temperature: :math:`\tau`, above 0.
        ids: Where the pool does not hold the own targets as such: whose each anchor's own is, ``(B,)``, and whose each
            of the pool, ``(P,)``. The pool's entries of the same owner are left out, and the own one joins by itself.
        counts: How many times each anchor counts, ``(B,)``; None for once.

    Returns:
        Scalar, 0 without anchors.

    Example:
        >>> rows = torch.eye(2)
        >>> round(contrast(rows, rows, rows, 1.0).item(), 4)  # 2 (ln(e + 1) - 1)
        0.6265
    """
    with without_autocast(anchors.device):
        units = (functional.normalize(widened(rows), dim=1, eps=1e-8) for rows in (anchors, targets, pool))
        anchors, targets, pool = units
        anchors = anchors / temperature
        own = (anchors * targets).sum(dim=1)
        counts = None if counts is None else counts.to(own.dtype)
        log_sums: Tensor = _SumOfLogSumExp.apply(
            anchors, pool, None if ids is None else own, ids, counts, 1 / temperature
        )
        return log_sums - (own if counts is None else counts * own).sum()


class _SumOfLogSumExp(torch.autograd.Function):
    """Sum over anchors of the ``logsumexp`` of their inner products with a pool, none of which exceeds ``bound``."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,  # noqa: ANN001
        anchors: Tensor,
        pool: Tensor,
        own: Tensor | None,
        ids: tuple[Tensor, Tensor] | None,
        counts: Tensor | None,
        bound: float,
    ) -> Tensor:
        total = anchors.new_zeros(())
        grads = torch.empty_like(anchors), torch.zeros_like(pool), None if own is None else torch.empty_like(own)
        step = max(16, _BLOCK_ENTRIES // max(1, pool.shape[0]))
        for start in range(0, anchors.shape[0], step):
            block = slice(start, start + step)
            logits = anchors[block] @ pool.T
            if ids is not None:
                logits.masked_fill_(ids[0][block].unsqueeze(1) == ids[1], float("-inf"))
            first = None if own is None else own[block].unsqueeze(1)
            top: Any = bound if bound <= _SAFE_BOUND else _largest(logits, first)
            weights = logits.sub_(top).exp_()
            sums = weights.sum(dim=1, keepdim=True)
            if first is not None:
                first = (first - top).exp()
                sums = sums + first
            of_anchors = sums.log() + top
            if counts is not None:
                times = counts[block].unsqueeze(1)
                of_anchors, sums = times * of_anchors, sums / times
            total += of_anchors.sum()
            weights.div_(sums)
            torch.mm(weights, pool, out=grads[0][block])
            grads[1].addmm_(weights.T, anchors[block])
            if first is not None and grads[2] is not None:
                grads[2][block] = (first / sums).squeeze(1)
        ctx.save_for_backward(*(grad for grad in grads if grad is not None))
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        saved = [grad * part for part in ctx.saved_tensors]
        return (saved[0], saved[1], saved[2] if len(saved) > 2 else None, None, None, None)


def _largest(logits: Tensor, first: Tensor | None) -> Tensor:
    top = logits.amax(dim=1, keepdim=True)
    return top if first is None else torch.maximum(top, first)
