"""Ranking losses over cosines that need no clever sampler: sampled softmax, BSL, PSL, DirectAU.

Shapes: ``B`` pairs of a batch, ``U`` distinct users and ``P`` distinct positives among them, ``N`` negatives shared by
the batch, ``D`` width of a row. A user's scores of the negatives are computed once, however many pairs the user has:
one product ``(U, D) x (D, N)``, never a gathered ``(B, N, D)``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_hnlm.models.log_sums import log_sum_exp, pairwise_log_sums, sum_of_closeness
from recbole_hnlm.models.precision import without_autocast
from recbole_hnlm.options.loss import (
    BilateralLossOptions,
    DirectAULossOptions,
    PairwiseSoftmaxLossOptions,
    SoftmaxLossOptions,
)


@dataclass(frozen=True)
class RankingBatch:
    """A batch as the losses read it; all rows have unit norm.

    Attributes:
        users: Rows of the distinct users, shape ``(U, D)``.
        user_of: Which of them each pair has, shape ``(B,)``.
        items: Rows of the distinct positives, shape ``(P, D)``.
        item_of: Which of them each pair has, shape ``(B,)``.
        negatives: Rows of the shared negatives, shape ``(N, D)``, or None for losses without.
        seen: Negatives that are training positives of a user and do not count: places ``user N + negative``, int64.
        log_weights: Logarithms of how often each negative counts for each user, shape ``(U, N)``, or None for once.
    """

    users: Tensor
    user_of: Tensor
    items: Tensor
    item_of: Tensor
    negatives: Tensor | None = None
    seen: Tensor | None = None
    log_weights: Tensor | None = None

    def positive_cosines(self) -> Tensor:
        """Of each pair, shape ``(B,)``."""
        return (self.users[self.user_of] * self.items[self.item_of]).sum(dim=1)

    def negative_cosines(self) -> Tensor:
        """Of each user with every negative; -inf where one does not count, shape ``(U, N)``."""
        assert self.negatives is not None
        return self._masked(self.users @ self.negatives.T)

    def negative_logits(self, temperature: float) -> Tensor:
        """Cosines over the temperature and the logarithms of the weights, -inf where none counts, shape ``(U, N)``."""
        assert self.negatives is not None
        users, negatives = self.users / temperature, self.negatives.T
        if self.log_weights is None:
            return self._masked(users @ negatives)
        return self._masked(torch.addmm(self.log_weights, users, negatives))

    def _masked(self, scores: Tensor) -> Tensor:
        assert self.seen is not None
        return scores.view(-1).index_fill_(0, self.seen, float("-inf")).view_as(scores)


class RankingLoss(nn.Module, ABC):
    """A loss of a :class:`RankingBatch`; scalar, 0 for an empty batch.

    Args:
        options: The loss's own options, an instance of :attr:`Options`.
    """

    Options: ClassVar[type]
    """Dataclass of its options in ``options.loss``; a field ``negatives`` says that it reads shared negatives."""

    def __init__(self, options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, batch: RankingBatch) -> Tensor:
        """The mean over the pairs, in the precision of the rows even under autocast."""
        if batch.user_of.numel() == 0:
            return batch.users.sum() + batch.items.sum()
        with without_autocast(batch.users.device):
            return self.loss(batch)

    @abstractmethod
    def loss(self, batch: RankingBatch) -> Tensor:
        """The mean over the pairs, of which there is at least one."""


class SampledSoftmaxLoss(RankingLoss):
    r"""Softmax of the positive among uniform negatives (Wu et al., TOIS'24).

    .. math:: L = -\frac{1}{B} \sum_b \ln \frac{\exp(c^+_b / \tau)}{\exp(c^+_b / \tau) + \sum_j \exp(c_{bj} / \tau)}

    with cosines :math:`c`; j runs over the negatives that are no training positives of the pair's user.

    Shape:
        - input: a :class:`RankingBatch`; output: scalar

    Example:
        >>> rows, one = torch.eye(2), torch.tensor([0])
        >>> batch = RankingBatch(rows[:1], one, rows[:1], one, rows[1:], one[:0])
        >>> round(SampledSoftmaxLoss(SoftmaxLossOptions(temperature=1.0))(batch).item(), 4)  # ln(1 + exp(-1))
        0.3133
    """

    Options = SoftmaxLossOptions

    def loss(self, batch: RankingBatch) -> Tensor:
        """The mean over the pairs."""
        negatives = log_sum_exp(batch.negative_logits(self.options.temperature))  # (U,)
        return functional.softplus(
            negatives[batch.user_of] - batch.positive_cosines() / self.options.temperature
        ).mean()


class BilateralLoss(RankingLoss):
    r"""BSL: the logarithm of an expected exponential on both sides (Wu et al., ICDE'24), over the batch's positives.

    .. math:: L = \frac{1}{B} \sum_b \Big[ \ln \sum_j \exp\frac{c_{bj}}{\tau} - \frac{\tau_+}{\tau} \ln \frac{1}{|S_b|}
        \sum_{a \in S_b} \exp\frac{c^+_a}{\tau_+} \Big]

    :math:`S_b` are the pairs of the batch with the user of pair b, b among them. A user with one pair has plain
    softmax whatever :math:`\tau_+`; among several, a positive that scores below the user's others counts less, since
    it may be noise. Pairs without a negative that counts are left out.

    Shape:
        - input: a :class:`RankingBatch`; output: scalar

    Example:
        >>> rows, one = torch.eye(2), torch.tensor([0])
        >>> batch = RankingBatch(rows[:1], one, rows[:1], one, rows[1:], one[:0])
        >>> BilateralLoss(BilateralLossOptions(temperature=0.5))(batch).item()  # ln exp(0) - 1 / .5
        -2.0
    """

    Options = BilateralLossOptions

    def loss(self, batch: RankingBatch) -> Tensor:
        """The mean over the pairs."""
        negatives = log_sum_exp(batch.negative_logits(self.options.temperature))  # (U,)
        ratio = self.options.positive_temperature / self.options.temperature
        pairs = torch.bincount(batch.user_of, minlength=len(batch.users))
        positives = _log_mean_exp_of_groups(
            batch.positive_cosines() / self.options.positive_temperature, batch.user_of, pairs
        )
        some = torch.isfinite(negatives)
        per_user = torch.where(some, negatives, 0.0) - ratio * positives
        return (per_user * pairs * some).sum() / (pairs * some).sum().clamp_min(1)


def _log_mean_exp_of_groups(logits: Tensor, group: Tensor, sizes: Tensor) -> Tensor:
    """Logarithm of each group's mean exponential, ``(B,), (B,), (U,) -> (U,)``; every group has a member."""
    most = logits.detach().new_full(sizes.shape, float("-inf")).scatter_reduce(0, group, logits.detach(), "amax")
    total = torch.zeros_like(most).index_add(0, group, (logits - most[group]).exp())
    return most + (total / sizes).log()


class PairwiseSoftmaxLoss(RankingLoss):
    r"""PSL: softmax whose exponential of the difference gives way to a gentler activation (Yang et al., NeurIPS'24).

    .. math:: L = \frac{1}{B} \sum_b \ln \sum_j \sigma(d_{bj})^{1/\tau}, \qquad d_{bj} = (c_{bj} - c^+_b) / 2

    with :math:`\sigma(d)` = ``tanh(d) + 1``, ``atan(d) + 1`` or ``max(d + 1, 0)``. The halves keep d in [-1, 1],
    where the activations are positive and tighter than the exponential. Reads all ``(B, N)`` differences, in blocks
    that are not kept. Pairs without a negative that counts are left out.

    Shape:
        - input: a :class:`RankingBatch`; output: scalar

    Example:
        >>> rows, one = torch.eye(2), torch.tensor([0])
        >>> batch = RankingBatch(rows[:1], one, rows[:1], one, rows[1:], one[:0])
        >>> loss = PairwiseSoftmaxLoss(PairwiseSoftmaxLossOptions(temperature=1.0, activation="relu"))
        >>> round(loss(batch).item(), 4)  # ln(1 - .5)
        -0.6931
    """

    Options = PairwiseSoftmaxLossOptions

    def loss(self, batch: RankingBatch) -> Tensor:
        """The mean over the pairs."""
        cosines, positives = batch.negative_cosines(), batch.positive_cosines()
        options = self.options
        shape = options.activation, options.temperature
        total, pairs = pairwise_log_sums(cosines, positives, batch.user_of, *shape, batch.log_weights)
        return total / pairs.clamp_min(1)


class DirectAULoss(RankingLoss):
    r"""DirectAU: pairs close together, users apart from users and items from items (Wang et al., KDD'22).

    .. math:: L = \frac{1}{B} \sum_b |u_b - i_b|^2 + \frac{\gamma}{2} \Big[ \ln \operatorname{mean}_{a < b}
        e^{-2 |u_a - u_b|^2} + \ln \operatorname{mean}_{a < b} e^{-2 |i_a - i_b|^2} \Big]

    The means run over the pairs of a batch, as the authors' do, and are computed from its distinct users and items.
    Draws no negatives. A batch of one pair has no uniformity.

    Shape:
        - input: a :class:`RankingBatch`; output: scalar

    Example:
        >>> rows, both = torch.eye(2), torch.tensor([0, 1])
        >>> batch = RankingBatch(rows, both, rows, both)
        >>> round(DirectAULoss(DirectAULossOptions(gamma=1.0))(batch).item(), 4)  # 0 + ln exp(-2 * 2)
        -4.0
    """

    Options = DirectAULossOptions

    def loss(self, batch: RankingBatch) -> Tensor:
        """Alignment plus weighted uniformity."""
        alignment = (batch.users[batch.user_of] - batch.items[batch.item_of]).square().sum(dim=1).mean()
        if batch.user_of.numel() < 2 or self.options.gamma == 0:
            return alignment
        apart = _uniformity(batch.users, batch.user_of) + _uniformity(batch.items, batch.item_of)
        return alignment + self.options.gamma / 2 * apart


def _uniformity(rows: Tensor, row_of: Tensor) -> Tensor:
    """Logarithm of the mean of ``exp(-2 |x_a - x_b|^2)`` over two different places of a batch."""
    counts = torch.bincount(row_of, minlength=len(rows)).to(rows.dtype)
    other = sum_of_closeness(rows, counts)
    same = (counts * (counts - 1)).sum()  # one row in two places: distance 0
    places = row_of.numel()
    return ((other + same) / (places * (places - 1))).log()


RANKING_LOSSES: dict[str, type[RankingLoss]] = {
    "sampled_softmax": SampledSoftmaxLoss,
    "bsl": BilateralLoss,
    "psl": PairwiseSoftmaxLoss,
    "directau": DirectAULoss,
}
"""Classes by the names of ``RANKING_LOSS_OPTIONS``."""
