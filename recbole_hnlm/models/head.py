"""What the wrapper adds to a model: sampler, projector, text and statistics, all under the name ``hnlm``.

Shapes: ``B`` pairs, ``M`` rows handed to the model (``K`` blocks of the pairs), ``D`` width of an item row.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from torch import Tensor, nn

from recbole_hnlm.models.dual_tree import share_dual_trees
from recbole_hnlm.models.grounded import share_grounded
from recbole_hnlm.models.statistics import StepStatistics
from recbole_hnlm.models.text_head import TextHead
from recbole_hnlm.run_options import RunOptions
from recbole_hnlm.samplers import EmbeddingView, Negatives, NegativeSampler, TrainingInteractions

logger = logging.getLogger(__name__)

_RANK_SEEDS = 1_000_003


class HardNegativeHead(nn.Module):
    """Sampler, text part and statistics of one wrapped model. Only the projector has parameters.

    Args:
        run: The run's options.
        interactions: Training pairs on the training device.
        device: Training device.
        rank: Rank of this process in a group, so that no two ranks draw the same.
    """

    def __init__(
        self, run: RunOptions, interactions: TrainingInteractions, device: torch.device, rank: int = 0
    ) -> None:
        super().__init__()
        self.run = run
        self.interactions = interactions
        self._rank = rank
        self.generator = torch.Generator(device=device).manual_seed(run.seed + rank * _RANK_SEEDS)
        self.sampler: NegativeSampler | None = None
        if run.sampler_type is not None:
            self.sampler = run.sampler_type(run.sampler_options, interactions, self.generator)
        self.text_head: TextHead | None = None
        self._warned = False
        self.epoch: int | None = None
        """Number of the epoch under training, or None where no trainer tells it."""
        self.statistics = StepStatistics(interactions)

    @property
    def alpha(self) -> float:
        """Share of text in the negatives of this epoch."""
        options = self.run.hnlm
        if options is None:
            return 0.0
        grown = 1.0
        if options.alpha_epochs and self.epoch is not None:
            grown = min(1.0, self.epoch / options.alpha_epochs)
        return options.alpha * grown

    @property
    def needs_view(self) -> bool:
        """Whether a step reads the model's embeddings before the base's loss does."""
        return self.sampler is not None or self.text_head is not None

    @property
    def needs_hops(self) -> bool:
        """Whether the rule makes rows hop by hop."""
        return self.sampler is not None and self.sampler.synthesizes

    @property
    def candidates_per_pair(self) -> int:
        """Candidates of one training pair, ``K C``; 0 where they cannot be drawn without the model."""
        own_sample = self.sampler is not None and type(self.sampler).sample is not NegativeSampler.sample
        if self.sampler is None or own_sample:
            return 0
        return self.run.negatives * self.sampler.candidates_per_negative

    def draw_candidates(self, users: Tensor) -> Tensor:
        """Candidates of many pairs at once, ``(N,) -> (N, K C)``; a loader asks for several batches ahead."""
        assert self.sampler is not None
        return self.sampler.draw_candidates(users.to(self.interactions.device), self.run.negatives)

    def draw(
        self, users: Tensor, positives: Tensor, view: EmbeddingView, candidates: Tensor | None = None
    ) -> Negatives:
        """Negatives of ``M`` rows by the rule.

        Args:
            users: User ids, shape ``(M,)``, ``K`` blocks of the pairs.
            positives: Positive items, likewise.
            view: The model's embeddings.
            candidates: What :meth:`draw_candidates` gave for the pairs, shape ``(B, K C)``, or None to draw now.
        """
        assert self.sampler is not None
        if candidates is None:
            negatives = self.sampler.sample(users, positives, view)
        else:
            blocks = candidates.view(candidates.shape[0], self.run.negatives, -1).transpose(0, 1)  # (K, B, C)
            negatives = self.sampler.sample(users, positives, view, blocks.reshape(users.numel(), -1))
        if negatives.weights is None and negatives.ids.shape != (users.numel(), 1):
            raise ValueError(
                f"{type(self.sampler).__name__} should return ids of shape ({users.numel()}, 1), or weights for more; "
                f"got {tuple(negatives.ids.shape)}; neg_sampler_num asks for several per pair"
            )
        return negatives

    def vector_rows(self, users: Tensor, positives: Tensor) -> Tensor | None:
        """Where the vectors of pairs are, shape ``(N, K)`` on the CPU; None where training reads none."""
        if self.text_head is None or self.text_head.text.pairs is None:
            return None
        return self.text_head.text.rows_of(users, positives)

    def tell(self, rows: Tensor) -> bool:
        """Have a later batch's vectors read by then; whether it was taken."""
        return self.text_head is not None and self.run.negatives == 1 and self.text_head.text.tell(rows)

    def with_text(
        self,
        negatives: Negatives,
        users: Tensor,
        positives: Tensor,
        view: EmbeddingView,
        vector_rows: Tensor | None = None,
    ) -> Negatives:
        """The same negatives with Eq. 7 applied; unchanged at ``alpha`` 0.

        Args:
            negatives: What :meth:`draw` gave.
            users: User ids, shape ``(M,)``.
            positives: Positive items, likewise.
            view: The model's embeddings.
            vector_rows: Where the pairs' vectors are, shape ``(M, K)``, or None to look them up.
        """
        if self.alpha == 0 or self.text_head is None:
            return negatives
        if self.epoch is None and self.text_head.options.alpha_epochs and not self._warned:
            logger.warning("no trainer of recbole_hnlm tells the epoch, so hnlm_alpha_epochs has no effect")
            self._warned = True
        rows = negatives.rows if negatives.rows is not None else view.item_rows(negatives.ids.squeeze(1))
        if vector_rows is None:
            vector_rows = self.text_head.text.rows_of(users, positives)
        hard, present = self.text_head.hard_rows(vector_rows)
        self.statistics.count_coverage(present)
        hard = self.text_head.like(rows, hard)
        share, use = self.alpha * present, self.text_head.options.use
        if view.has_user_rows and (use == "compete" or self.statistics.looks_next):
            above = self._scored_above(users, rows, hard, view)
            self.statistics.add("text_above_negative", (above & present).float().mean())
            share = share * above if use == "compete" else share
        if use == "extra":
            both = torch.cat([rows, torch.where(present.unsqueeze(1), hard, rows)])
            importance = torch.stack([torch.ones_like(share), share], dim=1)
            return Negatives(negatives.ids.repeat(1, 2), rows=both, importance=importance)
        return Negatives(negatives.ids, rows=self.text_head.mix(rows, hard, share))

    def extra_losses(
        self, users: Tensor, positives: Tensor, view: EmbeddingView | None, vector_rows: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Weighted terms that join the base's loss, by the names they are logged under.

        Args:
            users: User ids, shape ``(M,)``.
            positives: Positive items, likewise.
            view: The model's embeddings; None where neither sampler nor text needs them.
            vector_rows: Where the pairs' vectors are, or None to look them up.
        """
        terms = {}
        if self.text_head is not None and view is not None:
            terms["alignment_loss"] = self.text_head.alignment(view, users, positives, vector_rows)
        if self.sampler is not None and view is not None:
            terms["sampler_loss"] = self.sampler.extra_loss(users, positives, view)
        return {name: term for name, term in terms.items() if term is not None}

    @staticmethod
    @torch.no_grad()
    def _scored_above(users: Tensor, rows: Tensor, hard: Tensor, view: EmbeddingView) -> Tensor:
        """Pairs whose user scores the projected vector above the catalogue negative, ``(M,)``."""
        above: Tensor = (view.user_rows(users) * (hard - rows)).sum(dim=1) > 0
        return above

    def get_extra_state(self) -> dict[str, Any]:
        """State of the sampler's generator, so that a resumed run goes on with the same draws."""
        return {"generator": self.generator.get_state(), "device": self.generator.device.type}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the sampler's generator, unless the state is one of another kind of device.

        A checkpoint holds the first rank's state; the others go on from it on draws of their own.
        """
        if state["device"] == self.generator.device.type:
            self.generator.set_state(state["generator"].cpu())
            if self._rank:
                drawn = torch.randint(1 << 62, (), generator=self.generator, device=self.generator.device)
                self.generator.manual_seed(int(drawn) + self._rank * _RANK_SEEDS)
        else:
            logger.warning("a checkpoint of %s restores no draws on %s", state["device"], self.generator.device.type)

    def __deepcopy__(self, memo: dict[int, Any]) -> HardNegativeHead:
        """A head of its own over the same interactions and text; RecBole copies models to count their operations."""
        copied = HardNegativeHead(self.run, self.interactions, self.generator.device)
        copied.generator.set_state(self.generator.get_state())
        share_grounded(self.sampler, copied.sampler)
        share_dual_trees(self.sampler, copied.sampler)
        copied.text_head = copy.deepcopy(self.text_head, memo)
        return copied
