"""What a negative sampler is: candidates in, one negative (or weighted many) per pair out.

Shapes: ``B`` pairs, ``C`` candidates per pair, ``D`` width of an item row, ``H`` hops of a graph model (1 without).
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from recbole_hnlm.samplers.candidates import CandidateDrawer, UniformCandidates, candidates_for, chosen_of
from recbole_hnlm.samplers.interactions import TrainingInteractions

if TYPE_CHECKING:
    from recbole_hnlm.samplers.guard import CandidateGuard


@dataclass(frozen=True)
class Negatives:
    """What a sampler hands to the loss.

    Attributes:
        ids: Catalogue items, shape ``(B, K)``.
        rows: Synthetic item rows that stand in for them, ``K`` blocks of ``B``, shape ``(K B, D)``, or None for the
            items' own.
        weights: Weight of each negative in the pair's loss, shape ``(B, K)``, rows summing to 1; None means K = 1.
        importance: Factor of each negative's exponential in one softmax, shape ``(B, K)``; None means K = 1.
    """

    ids: Tensor
    rows: Tensor | None = None
    weights: Tensor | None = None
    importance: Tensor | None = None


class EmbeddingView(Protocol):
    """What a sampler may ask of the model under training. ``score*`` run without gradient, ``*_rows`` with it."""

    n_hops: int
    """Hops whose item rows average to the final row; 1 where the model has none, and its scores are then the hop's."""
    has_user_rows: bool
    """Whether user and item rows have one width and a score is their inner product."""

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores of items, shapes ``(B,), (B, C) -> (B, C)``."""

    def score_hop(self, hop: int, users: Tensor, items: Tensor) -> Tensor:
        """Inner products of final user rows and the items' rows at one hop, ``(B,), (B, C) -> (B, C)``."""

    def user_rows(self, users: Tensor) -> Tensor:
        """Final user rows, ``(B,) -> (B, D)``."""

    def item_rows(self, items: Tensor) -> Tensor:
        """Final item rows, ``(B,) -> (B, D)``."""

    def item_hop_rows(self, hop: int, items: Tensor) -> Tensor:
        """Item rows at one hop, ``(B,) -> (B, D)``."""


@dataclass(frozen=True)
class NoOptions:
    """For samplers without options of their own."""


class NegativeSampler(ABC):
    """One rule for negatives: candidates are drawn, the rule chooses. A subclass implements :meth:`choose`.

    Args:
        options: The sampler's own options, an instance of :attr:`Options`.
        interactions: The training pairs.
        generator: Source of randomness on the training device.
    """

    Options: ClassVar[type] = NoOptions
    """Frozen dataclass of this sampler's options; a field ``top_m`` is the key ``neg_sampler_top_m``."""
    needs_user_rows: ClassVar[bool] = False
    """Whether the rule reads user rows of the items' width, which only inner-product models have."""
    synthesizes: ClassVar[bool] = False
    """Whether negatives are rows of no catalogue item."""
    weighs: ClassVar[bool] = False
    """Whether all candidates enter the loss with weights, which needs a loss that can take them."""

    def __init__(self, options: Any, interactions: TrainingInteractions, generator: torch.Generator) -> None:
        self.options = options
        self.interactions = interactions
        self.generator = generator
        self.drawer: CandidateDrawer = UniformCandidates(interactions, generator)
        self.guard: CandidateGuard | None = None
        """What exchanges candidates that look like false negatives, or None to use what is drawn."""
        self.gates: nn.Module | None = None
        """What the rule trains together with the model, made by :meth:`build_gates`; most rules have nothing."""
        self.epoch: int | None = None
        """Number of the epoch under training from 0, or None where no trainer tells it."""

    def build_gates(self, width: int, seed: int) -> nn.Module | None:
        """Make :attr:`gates` for item rows of a width; global random state is left alone.

        Args:
            width: ``D``.
            seed: Seed of the start.

        Returns:
            What was made, or None for rules that train nothing.
        """
        return None

    @classmethod
    def reads_user_rows(cls, options: Any) -> bool:
        """Whether a sampler of these options reads user rows of the items' width."""
        return cls.needs_user_rows

    @property
    def candidates_per_negative(self) -> int:
        """``C``; 1 for rules that take what is drawn."""
        return 1

    def draw_candidates(self, users: Tensor, negatives: int = 1) -> Tensor:
        """Candidates for pairs, which do not depend on the model and may be drawn for many batches at once.

        Args:
            users: User ids, shape ``(B,)``.
            negatives: ``K``.

        Returns:
            Item ids, shape ``(B, K C)``.
        """
        return self.drawer.draw(users, negatives * self.candidates_per_negative)

    def sample(
        self, users: Tensor, positives: Tensor, view: EmbeddingView, candidates: Tensor | None = None
    ) -> Negatives:
        """Negatives for a batch of training pairs.

        Args:
            users: User ids, shape ``(B,)``.
            positives: Item ids of the pairs, shape ``(B,)``.
            view: The model's current embeddings.
            candidates: Candidates drawn beforehand, shape ``(B, C)``, or None to draw them now.

        Returns:
            Negatives; ids are never 0 and never a training positive of the row's user.
        """
        candidates = self.draw_candidates(users) if candidates is None else candidates
        candidates = self.offered(users, positives, candidates)
        if self.guard is not None:
            candidates, view = self.guard.clean(users, positives, candidates, view)
        return self.choose(users, positives, candidates, view)

    def offered(self, users: Tensor, positives: Tensor, candidates: Tensor) -> Tensor:
        """Candidates that the rule chooses among: those drawn, unless it has others for the very pair.

        Args:
            users: User ids, shape ``(B,)``.
            positives: Item ids of the pairs, shape ``(B,)``.
            candidates: What was drawn, shape ``(B, C)``; left unchanged.

        Returns:
            Candidates, shape ``(B, C)``.
        """
        return candidates

    def twin(self, generator: torch.Generator) -> NegativeSampler:
        """The same rule over the same tables, under the same guard, with draws of its own.

        Args:
            generator: Source of the twin's draws; its guard gets one of its own, whose state the caller sets.
        """
        other = copy.copy(self)
        other.generator, other.drawer = generator, self.drawer.with_generator(generator)
        other.guard = self.guard.twin() if self.guard is not None else None
        return other

    @abstractmethod
    def choose(self, users: Tensor, positives: Tensor, candidates: Tensor, view: EmbeddingView) -> Negatives:
        """Negatives among ``candidates`` of shape ``(B, C)``."""

    def extra_loss(self, users: Tensor, positives: Tensor, view: EmbeddingView) -> Tensor | None:
        """A weighted term of the rule's own that joins the model's loss, after :meth:`choose` of the same step.

        Args:
            users: User ids, shape ``(B,)``.
            positives: Item ids of the pairs, shape ``(B,)``.
            view: The model's current embeddings.

        Returns:
            Scalar, or None for rules without one.
        """
        return None


@dataclass(frozen=True)
class CandidateOptions:
    """Options of samplers that choose among candidates."""

    candidates: int | None = 32
    """Candidates drawn per pair, with replacement; ``None`` = as many as suit the catalogue (``candidates_for``)."""

    def __post_init__(self) -> None:
        if self.candidates is not None and self.candidates < 1:
            raise ValueError(f"neg_sampler_candidates={self.candidates} must be at least 1")


class CandidateSampler(NegativeSampler):
    """Every rule that chooses among ``neg_sampler_candidates`` uniform candidates."""

    Options = CandidateOptions

    def __init__(self, options: Any, interactions: TrainingInteractions, generator: torch.Generator) -> None:
        super().__init__(options, interactions, generator)
        if options.candidates is None:
            self.options = replace(options, candidates=candidates_for(interactions.n_items - 1))

    @property
    def candidates_per_negative(self) -> int:
        """``C`` of the options."""
        return int(self.options.candidates)


class Selector(CandidateSampler):
    """A candidate sampler that picks one column from the scores alone."""

    needs_positive_score: ClassVar[bool] = False
    """Whether :meth:`select` reads the positives' scores."""

    def choose(self, users: Tensor, positives: Tensor, candidates: Tensor, view: EmbeddingView) -> Negatives:
        """Score, select a column, gather the ids."""
        if candidates.shape[1] == 1:
            return Negatives(candidates)
        with torch.no_grad():
            scores = view.score(users, candidates)  # (B, C)
            positive = view.score(users, positives.unsqueeze(1)).squeeze(1) if self.needs_positive_score else None
            column = self.select(positive, scores)
        return Negatives(chosen_of(candidates, column, type(self).__name__))

    @abstractmethod
    def select(self, pos_scores: Tensor | None, cand_scores: Tensor) -> Tensor:
        """Column of the chosen candidate.

        Args:
            pos_scores: Scores of the positives, shape ``(B,)``, or None where the rule does not read them.
            cand_scores: Scores of the candidates, shape ``(B, C)``.

        Returns:
            Index into the candidate axis, shape ``(B,)``, int64.
        """
