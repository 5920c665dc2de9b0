"""Losses of the alignment and of several negatives per pair (HNLMRec, arXiv 2504.04726).

Shapes: ``B`` pairs, ``K`` negatives per pair, ``D`` width of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_hnlm.models.precision import widened, without_autocast


class _ScaledGradient(torch.autograd.Function):
    """Identity whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx, rows: Tensor, factor: Tensor) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        ctx.save_for_backward(factor)
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        (factor,) = ctx.saved_tensors
        return grad * factor, None


def unit_rows(rows: Tensor, scale_free: bool) -> Tensor:
    """Rows divided by their norm, shape ``(B, D)``.

    A cosine's gradient grows as ``1 / norm`` while the ranking loss's gradient grows with the norm of the other side,
    so one weight means something else at every scale. With ``scale_free`` the gradient is multiplied by the squared
    norm: its pull on a row is then proportional to the row's norm, and weight and learning rate no longer have to be
    tuned together.
    """
    if scale_free:
        squared = rows.detach().square().sum(dim=-1, keepdim=True)
        rows = _ScaledGradient.apply(rows, squared)
    return functional.normalize(rows, dim=-1, eps=1e-8)


class InfoNCELoss(nn.Module):
    r"""Alignment of anchors with their own target among the batch's targets.

    .. math:: L = -\frac{1}{B} \sum_b \ln \frac{\exp(a_b \cdot t_b / \tau)}{\sum_{c: id_c \ne id_b \vee c = b} \exp(a_b
    \cdot t_c / \tau)}

    A target that belongs to the same user or item as the anchor is no negative and is left out of the sum.

    Args:
        temperature: :math:`\tau`, above 0.

    Shape:
        - anchors ``(B, D)``, targets ``(B, D)``, both of unit norm; ids ``(B,)``
        - output: scalar, 0 for an empty batch

    Example:
        >>> loss = InfoNCELoss(temperature=1.0)
        >>> rows = torch.eye(2)
        >>> round(loss(rows, rows, torch.tensor([1, 2])).item(), 4)  # ln(1 + exp(-1))
        0.3133
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, anchors: Tensor, targets: Tensor, ids: Tensor) -> Tensor:
        """The mean loss of the anchors."""
        if anchors.shape[0] == 0:
            return anchors.sum()
        with without_autocast(anchors.device):
            logits = (widened(anchors) / self.temperature) @ widened(targets).T  # (B, B)
        twin = ids.unsqueeze(1) == ids.unsqueeze(0)
        twin.fill_diagonal_(False)
        logits.masked_fill_(twin, float("-inf"))
        return functional.cross_entropy(logits, torch.arange(ids.numel(), device=ids.device))


class HardPairLoss(nn.Module):
    r"""Eq. 9: the user closer to the positive than to the language model's hard negative.

    .. math:: L = \frac{1}{B} \sum_b \ln\left(1 + \exp\frac{\cos(u_b, h_b) - \cos(u_b, i_b)}{\tau}\right)

    Args:
        temperature: :math:`\tau`, above 0.

    Shape:
        - users, positives, hard: ``(B, D)`` of unit norm; output: scalar, 0 for an empty batch

    Example:
        >>> loss = HardPairLoss(temperature=1.0)
        >>> u = torch.tensor([[1.0, 0.0]])
        >>> round(loss(u, u, -u).item(), 4)  # ln(1 + exp(-2))
        0.1269
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, users: Tensor, positives: Tensor, hard: Tensor) -> Tensor:
        """The mean loss of the pairs."""
        if users.shape[0] == 0:
            return users.sum()
        gap = (users * hard).sum(dim=1) - (users * positives).sum(dim=1)
        return functional.softplus(gap / self.temperature).mean()


def joint_ranking_loss(pos_scores: Tensor, neg_scores: Tensor, weights: Tensor | None) -> Tensor:
    r"""Ranking loss of a pair against all its negatives at once.

    .. math:: L = \frac{1}{B}\sum_b \ln\Big(1 + \sum_k \exp(s_{bk} - s^+_b)\Big)
        \quad\text{or, with weights,}\quad \frac{1}{B}\sum_b \sum_k w_{bk} \ln(1 + \exp(s_{bk} - s^+_b))

    Args:
        pos_scores: Shape ``(B,)``.
        neg_scores: Shape ``(B, K)``.
        weights: Shape ``(B, K)``, or None.

    Returns:
        Scalar; at K = 1 both forms are BPR.

    Example:
        >>> s = torch.zeros(1)
        >>> round(joint_ranking_loss(s, torch.zeros(1, 3), None).item(), 4)  # ln(1 + 3)
        1.3863
    """
    if pos_scores.shape[0] == 0:
        return pos_scores.sum() + neg_scores.sum()
    gap = neg_scores - pos_scores.unsqueeze(1)  # (B, K)
    if weights is not None:
        return (weights * functional.softplus(gap)).sum(dim=1).mean()
    return functional.softplus(torch.logsumexp(gap, dim=1)).mean()
