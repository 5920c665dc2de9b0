r"""DENS: disentangled negative sampling (Lai et al., WSDM 2023).

Shapes: ``B`` pairs, ``C`` candidates per pair, ``D`` width of an item row, ``N`` items.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_hnlm.samplers.base import CandidateOptions, CandidateSampler, EmbeddingView, Negatives
from recbole_hnlm.samplers.interactions import TrainingInteractions

logger = logging.getLogger(__name__)

_BLOCK_FLOATS = 1 << 18  # entries of a block of candidates: small enough to stay in a core's cache


@dataclass(frozen=True)
class GateOptions(CandidateOptions):
    """Options of :class:`DisentangledSynthesizer`."""

    gamma: float = 0.5
    """Factor of the contrastive gate loss, at least 0; at 0 the gates stay at their random start."""
    warmup: int = 100
    """Epochs over which the weight of the relevant factor in the choice grows from 0 to 1 along a line, at least 0;
    100 as in the published runs, 0 = all of it from the first epoch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.gamma < math.inf:
            raise ValueError(f"neg_sampler_gamma={self.gamma} must be at least 0, e.g. 0.5; 0 trains no gates")
        if self.warmup < 0:
            raise ValueError(f"neg_sampler_warmup={self.warmup} is negative; 0 = no growth")


class FactorGates(nn.Module):
    """Gates that say which share of an item's every dimension matters to a user: its relevant factor.

    Positive: ``sigmoid(W_item e_i + W_user e_u)``; candidate: ``sigmoid(W_negative e_j + W_positive r_i)`` with ``r_i``
    the gated positive; every ``W`` with a bias. The rest of a row is its irrelevant factor.

    Args:
        width: ``D``.
        seed: Seed of the start, torch's own for linear layers; global random state is left alone.
    """

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed CUDA devices too
            self.user, self.item, self.positive, self.negative = (nn.Linear(width, width) for _ in range(4))

    def of_positives(self, users: Tensor, positives: Tensor) -> Tensor:
        """Relevant factors of positive rows, ``(B, D), (B, D) -> (B, D)``."""
        return positives * torch.sigmoid(self.item(positives) + self.user(users))

    def of_negatives(self, relevant: Tensor, negatives: Tensor) -> Tensor:
        """Relevant factors of negative rows, given those of their positives, ``(B, D), (B, D) -> (B, D)``."""
        return negatives * torch.sigmoid(self.negative(negatives) + self.positive(relevant))


class DisentangledSynthesizer(CandidateSampler):
    r"""Per hop the candidate with the highest :math:`(1-\lambda) u \cdot e_j^{ir} - \lambda u \cdot e_j^{r}`.

    :math:`\lambda = \min(1, epoch / warmup)`: first the hardest by its irrelevant factor, in the end the one whose
    relevant factor fits the user least, as published. The gates learn from four pairwise tasks, their mean weighed by
    ``gamma``: the user's score of the positive's relevant factor above that of its irrelevant one, of the negative's
    irrelevant above its relevant, of the positive's relevant above the negative's, and of the negative's irrelevant
    above the positive's.

    Ours: the user is the final row at every hop, as in MixGCF, where the authors take the user's row of the hop; each
    of several negatives of a pair is a pair of its own in the gate loss. Without an epoch lambda is 1.
    """

    Options = GateOptions
    needs_user_rows = True
    synthesizes = True

    def __init__(self, options: Any, interactions: TrainingInteractions, generator: torch.Generator) -> None:
        super().__init__(options, interactions, generator)
        self._chosen: list[Tensor] = []
        self._warned = False

    def build_gates(self, width: int, seed: int) -> nn.Module:
        """The gates, trained unless their loss has no weight."""
        self.gates = FactorGates(width, seed).requires_grad_(self.options.gamma > 0)
        return self.gates

    @property
    def _gates(self) -> FactorGates:
        if not isinstance(self.gates, FactorGates):
            raise RuntimeError("dens has no gates yet; call build_gates with the width of the model's item rows")
        return self.gates

    @property
    def relevant_weight(self) -> float:
        """Lambda of this epoch, in [0, 1]."""
        if self.epoch is None and self.options.warmup and not self._warned:
            logger.warning("no trainer of recbole_hnlm tells the epoch, so neg_sampler_warmup has no effect")
            self._warned = True
        if self.epoch is None or not self.options.warmup:
            return 1.0
        return float(min(1.0, self.epoch / self.options.warmup))

    def choose(self, users: Tensor, positives: Tensor, candidates: Tensor, view: EmbeddingView) -> Negatives:
        """Rows of the chosen candidates, hops pooled by their mean; ids are those of the first hop."""
        with torch.no_grad():
            user = view.user_rows(users)
            self._chosen = [self._hardest(hop, user, positives, candidates, view) for hop in range(view.n_hops)]
        pooled = torch.stack([view.item_hop_rows(hop, ids) for hop, ids in enumerate(self._chosen)]).mean(dim=0)
        return Negatives(self._chosen[0].unsqueeze(1), rows=pooled)

    def _hardest(self, hop: int, user: Tensor, positives: Tensor, candidates: Tensor, view: EmbeddingView) -> Tensor:
        """The chosen candidate at one hop, shape ``(B,)``."""
        count, gates = candidates.shape[1], self._gates
        if count == 1:
            return candidates.squeeze(1)
        relevant = gates.of_positives(user, view.item_hop_rows(hop, positives))
        by_positive = gates.positive(relevant).unsqueeze(1)  # (B, 1, D)
        every = self.interactions.n_items <= candidates.numel()  # then whole tables are fewer rows than candidates
        table = view.item_hop_rows(hop, torch.arange(self.interactions.n_items, device=user.device)) if every else None
        gated = gates.negative(table) if table is not None else None
        scores, kept = [], 1 - self.relevant_weight
        step = max(1, _BLOCK_FLOATS // max(1, count * user.shape[1]))
        for first in range(0, user.shape[0], step):
            block = slice(first, first + step)
            ids = candidates[block].reshape(-1)
            rows = view.item_hop_rows(hop, ids) if table is None else table.index_select(0, ids)
            gate = gates.negative(rows) if gated is None else gated.index_select(0, ids)
            gate = gate.view(-1, count, user.shape[1]).add_(by_positive[block]).sigmoid_()
            left = rows.view_as(gate).mul_(gate.neg_().add_(kept))  # (1-l) e_j - r_j
            scores.append(torch.bmm(left, user[block].unsqueeze(2)).squeeze(2))
        best = torch.cat(scores).argmax(dim=1, keepdim=True) if scores else candidates.new_zeros(0, 1)
        return candidates.gather(1, best).squeeze(1)

    def extra_loss(self, users: Tensor, positives: Tensor, view: EmbeddingView) -> Tensor | None:
        """``gamma`` times the mean of the four pairwise tasks on the hops' pooled factors; None at ``gamma`` 0."""
        if self.options.gamma == 0 or not users.numel():
            return None
        user = view.user_rows(users)
        factors = []
        for hop, ids in enumerate(self._chosen):
            positive, negative = view.item_hop_rows(hop, positives), view.item_hop_rows(hop, ids)
            relevant = self._gates.of_positives(user, positive)
            relevant_negative = self._gates.of_negatives(relevant, negative)
            factors.append(
                torch.stack([relevant, positive - relevant, relevant_negative, negative - relevant_negative])
            )
        pooled = torch.stack(factors).mean(dim=0)  # (4, B, D)
        own, rest, other, other_rest = (pooled * user).sum(dim=2)
        gaps = torch.stack([rest - own, other - other_rest, other - own, rest - other_rest])
        loss: Tensor = self.options.gamma * functional.softplus(gaps).mean()
        return loss
