"""Negatives that a language model named: grounded catalogue items of the pair among uniform candidates.

Shapes: ``B`` pairs, ``C`` candidates per pair, ``N`` pairs with grounded items, ``G`` grounded items of a pair.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from recbole_hnlm.samplers.base import CandidateOptions, CandidateSampler, EmbeddingView, Negatives, Selector
from recbole_hnlm.samplers.interactions import TrainingInteractions

logger = logging.getLogger(__name__)


class GroundedTable:
    """Grounded items by training pair, on the device of the interactions.

    Args:
        users: User ids of the pairs, shape ``(N,)``.
        items: Item ids of the pairs, shape ``(N,)``.
        negatives: Item ids that may be drawn for each pair, 0 where there are no more, shape ``(N, G)``.
        interactions: The training pairs.

    Raises:
        ValueError: If the shapes do not line up, an id is out of range, or a negative is a training item of its user.
    """

    def __init__(self, users: Tensor, items: Tensor, negatives: Tensor, interactions: TrainingInteractions) -> None:
        if users.shape != items.shape or negatives.shape[:1] != users.shape or negatives.dim() != 2:
            shapes = tuple(users.shape), tuple(items.shape), tuple(negatives.shape)
            raise ValueError(f"users, items and negatives are {shapes}; expected (N,), (N,), (N, G)")
        if negatives.numel() and (int(negatives.min()) < 0 or int(negatives.max()) >= interactions.n_items):
            raise ValueError(f"grounded items lie outside 1..{interactions.n_items - 1}; ground them for this dataset")
        device = interactions.device
        users, items, negatives = (ids.to(device) for ids in (users, items, negatives))
        if bool((interactions.contains(users.unsqueeze(1), negatives) & (negatives > 0)).any()):
            raise ValueError("a grounded item is a training item of its user; ground the texts anew for this split")
        keys, order = torch.sort(users * interactions.n_items + items)
        self._n_items = interactions.n_items
        self._keys = keys
        self._negatives = torch.sort(negatives[order], dim=1, descending=True)[0]  # what is there before 0
        self._counts = (self._negatives > 0).sum(dim=1)

    def __len__(self) -> int:
        """Number of pairs with grounded items."""
        return self._keys.numel()

    def draw(self, users: Tensor, positives: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """``count`` grounded items of each pair, each with the same chance; 0 for pairs without any.

        Args:
            users: User ids, shape ``(B,)``.
            positives: Item ids of the pairs, shape ``(B,)``.
            count: Draws per pair, with replacement.
            generator: Source of randomness.

        Returns:
            Item ids, shape ``(B, count)``.
        """
        if not len(self):
            return torch.zeros(users.numel(), count, dtype=torch.int64, device=users.device)
        keys = users * self._n_items + positives
        at = torch.searchsorted(self._keys, keys).clamp_(max=self._keys.numel() - 1)
        counts = torch.where(self._keys[at] == keys, self._counts[at], 0).unsqueeze(1)  # (B, 1)
        uniform = torch.rand(users.numel(), count, generator=generator, device=users.device, dtype=torch.float64)
        column = torch.minimum((uniform * counts).long(), (counts - 1).clamp_min(0))
        return torch.where(counts > 0, self._negatives[at].gather(1, column), 0)


@dataclass(frozen=True)
class SemanticOptions(CandidateOptions):
    """Options of :class:`SemanticSampler`."""

    candidates: int | None = 8
    """Candidates drawn per pair, with replacement; fewer than an id-only rule takes, as grounded ones are hard; one
    under the rule ``random``."""
    share: float = 0.1
    """Share of the candidates that are grounded items of the pair, in [0, 1]; the others are uniform. Keep it small:
    items near in text are often false negatives. With five text neighbours a pair, BPR on amazon-office fell from
    NDCG@20 .0528 at 0 to .0493 at 0.02 and, one seed, .0422 at 0.1 and .0339 at 0.5 (validation)."""
    rule: Literal["dns", "ahns", "random"] = "dns"
    """How one of the candidates is chosen: as the sampler of that name does with its defaults, or at random."""
    folder: str | None = None
    """Folder of ``NAME.neg_text``; ``None`` = where the run's other artefacts live."""
    min_coverage: float = 0.5
    """Least share of the training pairs that must have a grounded item, in [0, 1]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.share <= 1:
            raise ValueError(f"neg_sampler_share={self.share} is outside [0, 1]; choose a share of the candidates")
        if self.rule not in ("dns", "ahns", "random"):
            raise ValueError(f"neg_sampler_rule={self.rule!r} is not one of ['dns', 'ahns', 'random']")
        if not 0 <= self.min_coverage <= 1:
            raise ValueError(f"neg_sampler_min_coverage={self.min_coverage} is outside [0, 1]")


class SemanticSampler(CandidateSampler):
    """One of uniform candidates mixed with items that a language model named as hard for the very pair.

    Each place of the candidates is given to a grounded item with probability ``share``; pairs without any keep their
    uniform candidates. Until :meth:`use` hands over the table every candidate is uniform, which is warned of once.
    """

    Options = SemanticOptions

    def __init__(self, options: Any, interactions: TrainingInteractions, generator: torch.Generator) -> None:
        super().__init__(options, interactions, generator)
        self.table: GroundedTable | None = None
        self._warned = False
        self._rule = _build_rule(options, interactions, generator)

    @property
    def candidates_per_negative(self) -> int:
        """``C`` of the options; at random one is as good as the best of many."""
        return 1 if self._rule is None else super().candidates_per_negative

    def use(self, table: GroundedTable) -> None:
        """Draw from ``table`` from now on."""
        self.table = table

    def choose(self, users: Tensor, positives: Tensor, candidates: Tensor, view: EmbeddingView) -> Negatives:
        """One of the candidates by the rule."""
        if self._rule is not None:
            return self._rule.choose(users, positives, candidates, view)
        return Negatives(candidates[:, :1])  # these are independent draws, so the first is as random as any

    def offered(self, users: Tensor, positives: Tensor, candidates: Tensor) -> Tensor:
        """The candidates with the pairs' grounded items mixed in."""
        if self.table is None:
            if not self._warned:
                logger.warning("neg_sampler=semantic has no grounded negatives, so all its candidates are uniform")
                self._warned = True
            return candidates
        named = self.table.draw(users, positives, candidates.shape[1], self.generator)
        chance = torch.rand(candidates.shape, generator=self.generator, device=candidates.device)
        return torch.where((chance < self.options.share) & (named > 0), named, candidates)


def _build_rule(
    options: SemanticOptions, interactions: TrainingInteractions, generator: torch.Generator
) -> Selector | None:
    """The selector that ``options`` names, None for a random choice."""
    from recbole_hnlm.samplers.registry import sampler_class

    if options.rule == "random":
        return None
    kind: Any = sampler_class(options.rule)
    rule: Selector = kind(kind.Options(candidates=options.candidates), interactions, generator)
    return rule
