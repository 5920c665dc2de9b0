"""What the wrapper adds to a model: sampler, projector, text and statistics, all under the name ``hnlm``.

Shapes: ``B`` pairs, ``M`` rows handed to the model (``K`` blocks of the pairs), ``D`` width of an item row.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from typing import Any

import torch
from torch import Tensor, nn

from recbole_hnlm.generators import restore, seed_of_rank
from recbole_hnlm.models.batches import JointLossHook
from recbole_hnlm.models.comparators.base import Comparator, MergingComparator, Step, read_instead
from recbole_hnlm.models.drawn import check_candidates, check_drawn, check_term, reads_hops
from recbole_hnlm.models.guarding import attach_guard
from recbole_hnlm.models.ranking_term import RankingTerm
from recbole_hnlm.models.statistics import StepStatistics
from recbole_hnlm.models.text_head import TextHead
from recbole_hnlm.run_options import RunOptions
from recbole_hnlm.samplers import EmbeddingView, Negatives, NegativeSampler, TrainingInteractions

logger = logging.getLogger(__name__)


class HardNegativeHead(nn.Module):
    """Sampler, text part or comparator, and statistics of one wrapped model. Text parts and a rule's gates are trained.

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
        seed = seed_of_rank(run.seed, rank)
        self.generator = torch.Generator(device=device).manual_seed(seed)
        self.sampler: NegativeSampler | None = None
        self.gates: nn.Module | None = None
        if run.sampler_type is not None:
            self.sampler = run.sampler_type(run.sampler_options, interactions, self.generator)
            attach_guard(self.sampler, run, seed)
        self.ranking = RankingTerm(run.ranking, interactions, self.generator) if run.ranking is not None else None
        self.text_head: TextHead | None = None
        self.comparator: Comparator | None = None
        self.joint: JointLossHook | None = None
        self.warned = False
        """Whether the user was told that no trainer tells the epoch."""
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
    def has_gates(self) -> bool:
        """Whether the rule trains something beside the model."""
        return self.sampler is not None and type(self.sampler).build_gates is not NegativeSampler.build_gates

    def build_gates(self, width: int) -> None:
        """Make what the rule trains, for item rows of a width; optimizer and checkpoints know it from here."""
        assert self.sampler is not None
        self.gates = self.sampler.build_gates(width, self.run.seed)

    @property
    def needs_view(self) -> bool:
        """Whether a step reads the model's embeddings before the base's loss does."""
        return any(part is not None for part in (self.sampler, self.text_head, self.comparator, self.ranking))

    def check_losses(self, model: str) -> None:
        """Refuse to go on with a model whose loss took nothing of what was made for it, after every step.

        Raises:
            RuntimeError: Naming the model and the remedy.
        """
        for part in (self.ranking, self.joint):
            if part is not None:
                part.check_taken(model)

    @property
    def needs_hops(self) -> bool:
        """Whether the rule may read rows hop by hop."""
        return self.sampler is not None and reads_hops(self.sampler)

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
        candidates = self.sampler.draw_candidates(users.to(self.interactions.device), self.run.negatives)
        check_candidates(self.sampler, candidates, users.numel(), self.run.negatives)
        return candidates

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
        self.sampler.epoch = self.epoch
        if candidates is None:
            negatives = self.sampler.sample(users, positives, view)
        else:
            blocks = candidates.view(candidates.shape[0], self.run.negatives, -1).transpose(0, 1)  # (K, B, C)
            negatives = self.sampler.sample(users, positives, view, blocks.reshape(users.numel(), -1))
        if self.sampler.guard is not None:
            for name, value in self.sampler.guard.last.items():
                self.statistics.add(name, value)
        check_drawn(self.sampler, negatives, users, self.interactions, view)
        return negatives

    def vector_rows(self, users: Tensor, positives: Tensor) -> Tensor | None:
        """Where the vectors of pairs are, shape ``(N, K)`` on the CPU; None where training reads none."""
        if self.text_head is None or self.text_head.text.pairs is None:
            return None
        return self.text_head.text.rows_of(users, positives)

    def tell(self, rows: Tensor) -> bool:
        """Have a later batch's vectors read by then; whether it was taken."""
        return self.text_head is not None and self.run.negatives == 1 and self.text_head.text.tell(rows)

    def rows_of_step(self, space: Any) -> contextlib.AbstractContextManager[None]:
        """While it is entered, the model reads the rows that a comparator puts in place of its own.

        Args:
            space: The model's item space.
        """
        if self.comparator is None or not self.comparator.exchanges:
            return contextlib.nullcontext()
        modules = [space.users[0], space.items[0]]
        rows = self.comparator.step_rows(modules[0].weight, modules[1].weight, self.generator)
        return read_instead(modules, rows)

    def extra_losses(
        self,
        users: Tensor,
        positives: Tensor,
        negatives: Tensor,
        view: EmbeddingView | None,
        vector_rows: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Weighted terms that join the base's loss, by the names they are logged under.

        Args:
            users: User ids, shape ``(M,)``.
            positives: Positive items, likewise.
            negatives: Negative items, shape ``(M, K)``.
            view: The model's embeddings; None where neither sampler nor text needs them.
            vector_rows: Where the pairs' vectors are, or None to look them up.
        """
        terms = {}
        if self.text_head is not None and view is not None:
            terms["alignment_loss"] = self.text_head.alignment(view, users, positives, vector_rows)
        if self.sampler is not None and view is not None:
            terms["sampler_loss"] = self.sampler.extra_loss(users, positives, view)
            check_term(self.sampler, terms["sampler_loss"])
        if self.comparator is not None and view is not None:
            step = Step(users, positives, negatives[:, 0], view, self.generator)
            terms["comparator_loss"] = self.comparator.loss(step)
        return {name: term for name, term in terms.items() if term is not None}

    @property
    def _generators(self) -> dict[str, torch.Generator]:
        guard = self.sampler.guard if self.sampler is not None else None
        return {"generator": self.generator, **({"guard": guard.drawer.generator} if guard is not None else {})}

    def get_extra_state(self) -> dict[str, Any]:
        """State of the sampler's and the guard's generator, so that a resumed run goes on with the same draws."""
        states = {name: generator.get_state() for name, generator in self._generators.items()}
        return {**states, **self._text_digest, "device": self.generator.device.type}

    @property
    def _text_digest(self) -> dict[str, str]:
        """What tells text apart where rows are made of it whenever they are read."""
        return {"text": self.comparator.text.digest} if isinstance(self.comparator, MergingComparator) else {}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the generators, unless the state is one of another kind of device; tell of other text."""
        if any(state.get(key, value) != value for key, value in self._text_digest.items()):
            logger.warning(
                "the checkpoint was trained on other text vectors, and rows will be made anew of those at hand; bring "
                "its artefacts back, or read it with recbole-hnlm export, which keeps the rows"
            )
        if state["device"] != self.generator.device.type:
            logger.warning("a checkpoint of %s restores no draws on %s", state["device"], self.generator.device.type)
            return
        for name, generator in self._generators.items():
            if name in state:  # else the run that wrote it had no guard
                restore(generator, state[name], self._rank)

    def __deepcopy__(self, memo: dict[int, Any]) -> HardNegativeHead:
        """A head of its own over the same interactions and text; RecBole copies models to count their operations."""
        copied = HardNegativeHead(self.run, self.interactions, self.generator.device)
        if self.sampler is not None:
            copied.sampler = self.sampler.twin(copied.generator)
            copied.gates = copied.sampler.gates = copy.deepcopy(self.gates, memo)
        for name, generator in copied._generators.items():
            generator.set_state(self._generators[name].get_state())
        if copied.ranking is not None and self.ranking is not None:
            copied.ranking.sparing = self.ranking.sparing
        copied.text_head = copy.deepcopy(self.text_head, memo)
        copied.comparator = copy.deepcopy(self.comparator, memo)
        return copied
