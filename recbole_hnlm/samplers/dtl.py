"""Dual-tree negative sampling (DTL-NS, arXiv 2602.18249) on a MixGCF host.

Shapes: ``B`` pairs, ``C`` candidates per pair.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from recbole_hnlm.samplers.base import EmbeddingView
from recbole_hnlm.samplers.candidates import UniformCandidates
from recbole_hnlm.samplers.false_negative_scores import FalseNegativeScores
from recbole_hnlm.samplers.interactions import TrainingInteractions
from recbole_hnlm.samplers.mixgcf import MixGCFSynthesizer, MixOptions
from recbole_hnlm.samplers.tree_codes import TreeCodes

logger = logging.getLogger(__name__)
_SOFT_WEIGHT = 0.1
_POLICIES = ("exclude", "downweight", "soft_positive")


@dataclass(frozen=True)
class DualTreeOptions(MixOptions):
    """Options of :class:`DualTreeSynthesizer` and of the trees and scores that are made for it before training."""

    collaborative_weight: float = 0.1
    """Factor of the path shared with the positive in the collaborative tree, beside scores in [0, 1]; as published."""
    semantic_weight: float = 0.3
    """The same for the semantic tree; as published."""
    policy: Literal["exclude", "downweight", "soft_positive"] = "exclude"
    """What becomes of suspected false negatives: never drawn (as published); mixed in less, by their probability to be
    one; or never drawn and ranked above a random item by a term of the loss. Nothing of it touches the interactions."""
    suspect_share: float = 0.1
    """Share of the scored pairs (each user's leading 50 by the reference model) that are suspected, in [0, 1]: those of
    the highest score. A user keeps at least half of the unseen items."""
    soft_weight: float | None = None
    """Factor of the additional term under ``soft_positive``, above 0; ``None`` = 0.1. Refused elsewhere."""
    reference_model: str = "LightGCN"
    """RecBole model that ranks each user's candidates before training; MixGCF trains it, as the teacher of
    ``llm_teacher_model`` is trained."""
    reference_epochs: int = 20
    """Epochs of that model; it is trained twice, once with a tenth of each user's pairs hidden for calibration."""
    judge: Literal["rule", "llm"] = "rule"
    """Who has the last word on each user's 20 highest scores: the calibrated rule, or the chat model of ``llm_backend``
    under ``neg_sampler: hnlm``, which re-ranks them by their places in the trees."""
    tree_seed: int = 2020
    """Seed of the trees, of the reference model and of what is hidden."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("collaborative_weight", "semantic_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"neg_sampler_{name}={getattr(self, name)} must be at least 0; 0 leaves it out")
        if self.policy not in _POLICIES:
            raise ValueError(f"neg_sampler_policy={self.policy!r} is not one of {list(_POLICIES)}")
        if self.judge not in ("rule", "llm"):
            raise ValueError(f"neg_sampler_judge={self.judge!r} is not one of ['rule', 'llm']")
        if self.soft_weight is not None and self.policy != "soft_positive":
            raise ValueError(f"neg_sampler_soft_weight has no effect with policy {self.policy!r}; remove it")
        if self.soft_weight is not None and not 0 < self.soft_weight < math.inf:
            raise ValueError(f"neg_sampler_soft_weight={self.soft_weight} must be above 0, e.g. {_SOFT_WEIGHT}")
        if not 0 <= self.suspect_share <= 1:
            raise ValueError(f"neg_sampler_suspect_share={self.suspect_share} is outside [0, 1]; 0 suspects nothing")
        if self.reference_epochs < 1:
            raise ValueError(f"neg_sampler_reference_epochs={self.reference_epochs} must be at least 1")


@dataclass(frozen=True)
class DualTreeTables:
    """What is made before training.

    Attributes:
        collaborative: Paths in the tree of who is chosen by the same users.
        semantic: Paths in the tree of text vectors, or of the reference model's item rows.
        scores: Probabilities of each user's leading candidates to be false negatives.
    """

    collaborative: TreeCodes
    semantic: TreeCodes
    scores: FalseNegativeScores

    def to(self, device: torch.device) -> DualTreeTables:
        """Move all of it to ``device``; returns itself."""
        for table in (self.collaborative, self.semantic, self.scores):
            table.to(device)
        return self


class DualTreeSynthesizer(MixGCFSynthesizer):
    r"""The candidate of the highest ``minmax(s) + a_co LCP_co(i, j) + a_se LCP_se(i, j)``, mixed as MixGCF does.

    Each hop has its own scores, and ``minmax`` maps those of a pair's candidates to [0, 1]. Excluded suspects are not
    drawn at all: the drawer takes them for training items. A down-weighted suspect of score ``f`` enters its synthetic
    row by ``(1 - l)(1 - f)`` instead of ``1 - l``: the gap of the pair, and what it pushes the suspect away by, shrinks
    by ``1 - f`` in that hop, whatever loss the model has. A soft positive ``p`` adds :math:`w f_{up} \ln(1 +
    \exp(s_{uj} - s_{up}))` with a uniform ``j``; one ``p`` is drawn a pair, and the term is the batch's mean.

    Until :meth:`use` hands over the tables this is MixGCF, which is warned of once.
    """

    Options = DualTreeOptions

    def __init__(self, options: Any, interactions: TrainingInteractions, generator: torch.Generator) -> None:
        super().__init__(options, interactions, generator)
        self.tables: DualTreeTables | None = None
        self.suspects: FalseNegativeScores | None = None
        self._warned = False

    @classmethod
    def reads_user_rows(cls, options: Any) -> bool:
        """Only where soft positives are scored."""
        return bool(options.policy == "soft_positive")

    def use(self, tables: DualTreeTables) -> None:
        """Choose by ``tables`` from now on.

        Raises:
            ValueError: If they are of another catalogue.
        """
        interactions = self.interactions
        for codes in (tables.collaborative, tables.semantic):
            if len(codes) != interactions.n_items:
                raise ValueError(f"a tree of {len(codes)} items, expected {interactions.n_items}; build it anew")
        self.tables = tables.to(interactions.device)
        unseen = interactions.n_items - 1 - interactions.user_counts
        self.suspects = tables.scores.highest(self.options.suspect_share, unseen // 2)
        if self.options.policy != "downweight":
            owner = torch.div(interactions.keys, interactions.n_items, rounding_mode="floor")
            known = torch.cat([owner, self.suspects.users])
            items = torch.cat([interactions.keys - owner * interactions.n_items, self.suspects.items])
            not_drawn = TrainingInteractions(known, items, interactions.n_users, interactions.n_items)
            self.drawer = UniformCandidates(not_drawn, self.generator)
            if self.guard is not None:  # spare candidates are drawn too
                self.guard.drawer = self.drawer.with_generator(self.guard.drawer.generator)

    def hardest(self, users: Tensor, positives: Tensor, candidates: Tensor, view: EmbeddingView) -> list[Tensor]:
        """The candidate of each hop, ``H`` tensors ``(B,)``."""
        if self.tables is None and not self._warned:
            logger.warning("neg_sampler=dtl has no trees, so it chooses as mixgcf does")
            self._warned = True
        near = self._near(positives, candidates)
        if near is None:
            return super().hardest(users, positives, candidates, view)
        chosen = []
        with torch.no_grad():
            for hop in range(view.n_hops):
                hard = _minmax(view.score_hop(hop, users, candidates)) + near
                chosen.append(candidates.gather(1, hard.argmax(dim=1, keepdim=True)).squeeze(1))
        return chosen

    def _near(self, positives: Tensor, candidates: Tensor) -> Tensor | None:
        """What the trees add to the score of each candidate, ``(B, C)``; None where that is nothing."""
        if self.tables is None or candidates.shape[1] < 2:
            return None
        total: Tensor | None = None
        for weight, codes in (
            (self.options.collaborative_weight, self.tables.collaborative),
            (self.options.semantic_weight, self.tables.semantic),
        ):
            if weight:
                shared = weight * codes.shared(positives.unsqueeze(1), candidates)
                total = shared if total is None else total + shared
        return total

    def positive_share(self, users: Tensor, ids: Tensor, share: Tensor) -> Tensor:
        """The share of the positive, ``(B, 1)``, larger where a suspect is mixed in and down-weighted."""
        if self.options.policy != "downweight" or self.suspects is None:
            return share
        return share + (1 - share) * self.suspects.of(users, ids.unsqueeze(1))

    def extra_loss(self, users: Tensor, positives: Tensor, view: EmbeddingView) -> Tensor | None:
        """The ranking of soft positives above uniform items, or None where the policy has none."""
        if not self.reads_user_rows(self.options) or self.suspects is None or not users.numel():
            return None
        items, probability = self.suspects.draw(users, self.generator)
        others = self.drawer.draw(users, 1).squeeze(1)
        gap = (view.user_rows(users) * (view.item_rows(others) - view.item_rows(items))).sum(dim=1)
        return (self.options.soft_weight or _SOFT_WEIGHT) * (probability * functional.softplus(gap)).mean()


def _minmax(scores: Tensor) -> Tensor:
    """Scores of each row mapped to [0, 1]; 0 where they are all the same, ``(B, C) -> (B, C)``."""
    low, high = scores.aminmax(dim=1, keepdim=True)
    return (scores - low) / (high - low).clamp_min(torch.finfo(scores.dtype).tiny)
