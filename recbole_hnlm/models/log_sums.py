"""Logarithms of sums over many negatives, with their gradients in few passes over memory.

Shapes: ``B`` pairs of a batch, ``U`` distinct users among them, ``N`` negatives shared by the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LEAST = 1e-8  # under a logarithm: relu(d + 1) reaches 0


class _LogSumExp(torch.autograd.Function):
    """In fewer passes than torch's, which also has no gradient where every logit is -inf."""

    @staticmethod
    def forward(ctx, logits: Tensor) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        most = logits.amax(dim=-1, keepdim=True).clamp_min(torch.finfo(logits.dtype).min)
        weights = (logits - most).exp_()
        total = weights.sum(dim=-1)
        ctx.save_for_backward(weights, total)
        return most.squeeze(-1) + total.log()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        weights, total = ctx.saved_tensors
        share: Tensor = weights * torch.where(total > 0, grad / total, 0.0).unsqueeze(-1)
        return share


def log_sum_exp(logits: Tensor) -> Tensor:
    """Over the last axis; -inf, with a gradient of zero, where every logit is -inf."""
    result: Tensor = _LogSumExp.apply(logits)
    return result


def _tanh(gaps: Tensor) -> tuple[Tensor, Tensor]:
    value = gaps.tanh().add_(1)
    return value.log(), 2 - value  # tanh' = 1 - tanh^2 = value (2 - value)


def _atan(gaps: Tensor) -> tuple[Tensor, Tensor]:
    value = gaps.atan().add_(1)
    return value.log(), (gaps.square() + 1).mul_(value).reciprocal_()


def _relu(gaps: Tensor) -> tuple[Tensor, Tensor]:
    value = (gaps + 1).clamp_min_(_LEAST)
    return value.log(), (value > _LEAST) / value


_LOG_ACTIVATIONS = {"tanh": _tanh, "atan": _atan, "relu": _relu}
"""Logarithm of each activation, and its derivative."""
_BLOCK_ROWS = 256  # rows that meet at once: a quarter of a megabyte of products stays in a core's cache
_BLOCK_ENTRIES = 1 << 17  # of differences worked on at once: half a megabyte in float32 stays in a core's cache


class _PairwiseLogSums(torch.autograd.Function):
    """Value and gradient in one go, block by block: no ``(B, N)`` tensor is kept."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,  # noqa: ANN001
        cosines: Tensor,
        positives: Tensor,
        user_of: Tensor,
        activation: str,
        temperature: float,
        log_weights: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        of_cosines, of_positives = torch.zeros_like(cosines), torch.zeros_like(positives)
        total, some = positives.new_zeros(()), positives.new_zeros(())
        step = max(1, _BLOCK_ENTRIES // max(1, cosines.shape[1]))
        for start in range(0, positives.numel(), step):
            pairs = slice(start, start + step)
            theirs = cosines.index_select(0, user_of[pairs])
            counted = theirs > float("-inf")
            gaps = (theirs - positives[pairs].unsqueeze(1)).clamp_min_(-2).div_(2)
            logarithm, slope = _LOG_ACTIVATIONS[activation](gaps)
            if log_weights is None:
                logarithm.div_(temperature)
            else:
                logarithm = log_weights.index_select(0, user_of[pairs]).add_(logarithm, alpha=1 / temperature)
            powers = logarithm.exp_().mul_(counted)
            sums = powers.sum(dim=1)
            present = sums > 0
            total, some = total + torch.where(present, sums.log(), 0.0).sum(), some + present.sum()
            share = torch.where(present, 0.5 / temperature / sums, 0.0).unsqueeze(1)
            slopes = powers.mul_(slope).mul_(share)
            of_cosines.index_add_(0, user_of[pairs], slopes)
            of_positives[pairs] = -slopes.sum(dim=1)
        ctx.save_for_backward(of_cosines, of_positives)
        ctx.mark_non_differentiable(some)
        return total, some

    @staticmethod
    def backward(ctx, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        of_cosines, of_positives = ctx.saved_tensors
        return of_cosines * grad, of_positives * grad, None, None, None, None


def pairwise_log_sums(
    cosines: Tensor,
    positives: Tensor,
    user_of: Tensor,
    activation: str,
    temperature: float,
    log_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sum over the pairs of ``ln sum_j w_bj sigma((c_bj - c+_b) / 2)^(1/T)``, and how many have a j that counts.

    Args:
        cosines: Of users and negatives, -inf where one does not count, shape ``(U, N)``.
        positives: Of the pairs, shape ``(B,)``.
        user_of: User of each pair, shape ``(B,)``.
        activation: Name of sigma: tanh, atan or relu.
        temperature: ``T``.
        log_weights: ``ln w`` of users and negatives, finite, without gradient, shape ``(U, N)``; None where all are 1.
    """
    total, some = _PairwiseLogSums.apply(cosines, positives, user_of, activation, temperature, log_weights)
    return total, some


class _SumOfCloseness(torch.autograd.Function):
    """Sum over two different rows of ``counts_a counts_b exp(-2 |x_a - x_b|^2)``, with its gradient in one go.

    Both are symmetric, so each two blocks meet once and no ``(N, N)`` tensor is kept.
    """

    @staticmethod
    def forward(ctx, rows: Tensor, counts: Tensor) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        total, gradient = rows.new_zeros(()), torch.zeros_like(rows)
        step = _BLOCK_ROWS if rows.device.type == "cpu" else max(1, len(rows))
        for start in range(0, len(rows), step):
            first = slice(start, min(start + step, len(rows)))
            for begin in range(start, len(rows), step):
                second = slice(begin, min(begin + step, len(rows)))
                close = (4 * rows[first] @ rows[second].T).sub_(4).exp_()  # |x - y|^2 = 2 - 2 x.y
                close.mul_(counts[second]).mul_(counts[first].unsqueeze(1))
                if begin == start:
                    close.fill_diagonal_(0)
                else:
                    gradient[second].addmm_(close.T, rows[first])
                gradient[first].addmm_(close, rows[second])
                total += close.sum() if begin == start else 2 * close.sum()
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        (gradient,) = ctx.saved_tensors
        return 8 * grad * gradient, None


def sum_of_closeness(rows: Tensor, counts: Tensor) -> Tensor:
    """``sum counts_a counts_b exp(-2 |x_a - x_b|^2)`` over two different rows of unit norm, ``(N, D), (N,) -> ()``."""
    result: Tensor = _SumOfCloseness.apply(rows, counts)
    return result
