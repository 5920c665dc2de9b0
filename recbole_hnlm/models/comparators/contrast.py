"""InfoNCE as RLMRec (WWW'24) takes it: cosines of anchors with a pool of texts that holds each anchor's own.

Shapes: ``B`` anchors, ``P`` texts of the pool, ``D`` width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_SAFE_BOUND = 30.0  # exp(-2 bound), the least that an own text can weigh, is far from float32's smallest number


def contrast(
    anchors: Tensor, targets: Tensor, pool: Tensor, temperature: float, others: Tensor | None = None
) -> Tensor:
    r"""Loss of each anchor.

    .. math:: L_b = -\frac{\cos(a_b, t_b)}{\tau} + \ln \sum_p \exp \frac{\cos(a_b, t_p)}{\tau}

    As published, a text that stands in the pool twice counts twice, an anchor's own too.

    Args:
        anchors: Shape ``(B, D)``, of any norm.
        targets: Own text of each, likewise.
        pool: Texts of the sum, shape ``(P, D)``.
        temperature: :math:`\tau`, above 0.
        others: Where the pool does not hold the own texts as such: which entries are another's, shape ``(B, P)``, bool;
            the own text then joins the sum by itself.

    Returns:
        Shape ``(B,)``.

    Example:
        >>> rows = torch.eye(2)
        >>> contrast(rows, rows, rows, 1.0).round(decimals=4)  # ln(e + 1) - 1
        tensor([0.3133, 0.3133])
    """
    anchors, targets, pool = (functional.normalize(rows, dim=1, eps=1e-8) for rows in (anchors, targets, pool))
    own = (anchors * targets).sum(dim=1) / temperature
    logits = (anchors / temperature) @ pool.T
    if others is not None:
        logits = torch.cat([own.unsqueeze(1), logits.masked_fill(~others, float("-inf"))], dim=1)
    return _log_sum_exp(logits, bound=1 / temperature) - own


def _log_sum_exp(logits: Tensor, bound: float) -> Tensor:
    """``logsumexp`` over columns whose entries do not exceed ``bound``: no search for the largest, half the time."""
    if bound > _SAFE_BOUND:
        return torch.logsumexp(logits, dim=1)
    return (logits - bound).exp().sum(dim=1).log() + bound
