"""What the wrapper adds to a model: sampler, projector, text and statistics, all under the name ``hnlm``.

Shapes: ``B`` pairs, ``M`` rows handed to the model (``K`` blocks of the pairs), ``D`` width of an item row, ``S`` text
width.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from torch import Tensor, nn

from recbole_hnlm.models.losses import HardPairLoss, InfoNCELoss, unit_rows
from recbole_hnlm.models.projector import Projector
from recbole_hnlm.models.statistics import StepStatistics
from recbole_hnlm.models.text import TextVectors
from recbole_hnlm.options import HNLMOptions
from recbole_hnlm.run_options import RunOptions
from recbole_hnlm.samplers import EmbeddingView, Negatives, NegativeSampler, TrainingInteractions

logger = logging.getLogger(__name__)

_RANK_SEEDS = 1_000_003


class TextHead(nn.Module):
    """Projects text into the recommender's space, mixes it into negatives and aligns positives with it.

    Args:
        options: The text part's options.
        text: Text vectors of the run.
        row_width: ``D``.
        seed: Seed of the projector's start; global random state is left alone.
    """

    def __init__(self, options: HNLMOptions, text: TextVectors, row_width: int, seed: int) -> None:
        super().__init__()
        self.options = options
        self.text = text
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed CUDA devices too
            self.projector = Projector(text.width, options.projector_width, row_width)
        if options.preset == "frozen":
            self.projector.requires_grad_(False)
        elif options.alpha > 0 and options.projector_untrained:
            logger.warning("no loss trains the projector in these settings, as if hnlm_preset were frozen")
        self.info_nce = InfoNCELoss(options.temperature)
        self.hard_pair = HardPairLoss(options.temperature)

    def hard_rows(self, users: Tensor, positives: Tensor) -> tuple[Tensor, Tensor]:
        """Projected hard-negative vectors of pairs and which pairs have one, ``(B, D)`` and ``(B,)``."""
        pairs = self.text.pair_vectors(users, positives)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.options.detached):
            return self.projector(pairs.vectors)[pairs.index], pairs.present

    def mix(self, rows: Tensor, hard: Tensor, present: Tensor) -> Tensor:
        """Eq. 7, ``(1 - alpha) e_j + alpha e_hard``; rows whose pair has no vector stay as they are, ``(B, D)``."""
        if self.options.norm_matched:
            length = rows.detach().norm(dim=1, keepdim=True)
            hard = hard * (length / hard.norm(dim=1, keepdim=True).clamp_min(1e-12))
        alpha = self.options.alpha * present.unsqueeze(1)
        return (1 - alpha) * rows + alpha * hard

    def alignment(self, view: EmbeddingView, users: Tensor, positives: Tensor) -> Tensor | None:
        """The weighted alignment loss of a batch, or None where both weights are 0."""
        options = self.options
        count = options.aligned_pairs or users.numel()
        users, positives = users[:count], positives[:count]  # the loader has shuffled them
        weight = options.effective_alignment_weight
        hard_weight = options.pair_alignment_weight
        total: Tensor | None = None
        if weight > 0 and options.preset == "anchored":
            total = weight * self._anchor(view, users, positives)
        if hard_weight > 0:
            hard = hard_weight * self._hard(view, users, positives)
            total = hard if total is None else total + hard
        return total

    def _anchor(self, view: EmbeddingView, users: Tensor, positives: Tensor) -> Tensor:
        """InfoNCE of items, and of users where user and item rows share a width, with their own projected text."""
        loss = self._anchor_side(view.item_rows(positives), self.text.items, self.text.item_mask, positives)
        if view.has_user_rows:
            loss = loss + self._anchor_side(view.user_rows(users), self.text.users, self.text.user_mask, users)
        return loss

    def _anchor_side(self, rows: Tensor, text: Tensor, mask: Tensor, ids: Tensor) -> Tensor:
        known = torch.nonzero(mask[ids]).flatten()
        if known.numel() < ids.numel():
            rows, ids = rows[known], ids[known]
        targets = unit_rows(self.projector(text[ids]), scale_free=False)
        return self.info_nce(unit_rows(rows, self.options.scale_free), targets, ids)

    def _hard(self, view: EmbeddingView, users: Tensor, positives: Tensor) -> Tensor:
        pairs = self.text.pair_vectors(users, positives)
        kept = torch.nonzero(pairs.present).flatten()
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.options.detached):
            hard = self.projector(pairs.vectors)[pairs.index[kept]]
        free = self.options.scale_free
        user_rows = unit_rows(view.user_rows(users[kept]), free)
        item_rows = unit_rows(view.item_rows(positives[kept]), free)
        return self.hard_pair(user_rows, item_rows, unit_rows(hard, scale_free=False))


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
        self.statistics = StepStatistics(interactions)

    @property
    def alpha(self) -> float:
        """Share of text in the negatives of this run."""
        return self.run.hnlm.alpha if self.run.hnlm is not None else 0.0

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

    def with_text(self, negatives: Negatives, users: Tensor, positives: Tensor, view: EmbeddingView) -> Negatives:
        """The same negatives with Eq. 7 applied; unchanged at ``alpha`` 0."""
        if self.alpha == 0 or self.text_head is None:
            return negatives
        rows = negatives.rows if negatives.rows is not None else view.item_rows(negatives.ids.squeeze(1))
        hard, present = self.text_head.hard_rows(users, positives)
        self.statistics.count_coverage(present)
        return Negatives(negatives.ids, rows=self.text_head.mix(rows, hard, present))

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
        copied.text_head = copy.deepcopy(self.text_head, memo)
        return copied
