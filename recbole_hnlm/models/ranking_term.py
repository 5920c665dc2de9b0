"""A ranking loss of ours in the place of a model's own: made before the model's loss, handed over inside it.

The model computes everything else itself: its regularisation and its own further losses. What it ranked its drawn
negatives with is thrown away; those negatives go on being regularised. Shapes: ``B`` pairs, ``U`` distinct users,
``N`` shared negatives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from recbole.model.general_recommender import SGL, ConvNCF
from recbole.model.loss import BPRLoss
from torch import Tensor, nn
from torch.nn import functional

from recbole_hnlm.models.precision import widened
from recbole_hnlm.models.ranking_losses import RANKING_LOSSES, RankingBatch
from recbole_hnlm.models.sparing import NegativeSparing
from recbole_hnlm.options.loss import RankingRun
from recbole_hnlm.samplers import EmbeddingView, TrainingInteractions

_CROWDED = 64  # items for each negative, below which a permutation costs less than what it avoids


class RankingTerm:
    """The ranking loss of one model, step by step.

    Args:
        run: Its name and options.
        interactions: Training pairs, which never count as negatives.
        generator: Source of the shared negatives.
    """

    def __init__(self, run: RankingRun, interactions: TrainingInteractions, generator: torch.Generator) -> None:
        self.name = run.name
        self.loss = RANKING_LOSSES[run.name](run.options)
        self._negatives: int | None = getattr(run.options, "negatives", None)
        self._interactions = interactions
        self._generator = generator
        self.sparing: NegativeSparing | None = None
        """What weighs the negatives by text; None where all count alike."""
        self._value: Tensor | None = None
        self._taken = 0

    def prepare(self, users: Tensor, positives: Tensor, view: EmbeddingView) -> None:
        """Compute the loss of a step's pairs, shape ``(B,)`` each, from the model's rows of this moment."""
        distinct_users, user_of = torch.unique(users, return_inverse=True)
        distinct_items, item_of = torch.unique(positives, return_inverse=True)
        negatives = seen = log_weights = None
        if self._negatives is not None:
            ids = self._drawn(self._negatives)
            negatives, seen = _unit(view.item_rows(ids)), seen_among(distinct_users, ids, self._interactions)
            if self.sparing is not None:
                log_weights = self.sparing.log_weights(distinct_users, ids).to(negatives.dtype)
        users_rows, item_rows = _unit(view.user_rows(distinct_users)), _unit(view.item_rows(distinct_items))
        self._value = self.loss(RankingBatch(users_rows, user_of, item_rows, item_of, negatives, seen, log_weights))
        self._taken = 0

    def _drawn(self, count: int) -> Tensor:
        """Distinct uniform items, shape ``(N,)``; all of them where no more exist than are asked for.

        Of large catalogues they are drawn with replacement and the few repeated ones dropped.
        """
        n_items, device = self._interactions.n_items, self._interactions.device
        if count >= n_items - 1:
            return torch.arange(1, n_items, device=device)
        if n_items <= count * _CROWDED:
            return torch.randperm(n_items - 1, generator=self._generator, device=device)[:count] + 1
        return torch.unique(torch.randint(1, n_items, (count,), generator=self._generator, device=device))

    @property
    def active(self) -> bool:
        """Whether a training step is under way."""
        return self._value is not None

    def take(self) -> Tensor:
        """The step's loss."""
        assert self._value is not None
        self._taken += 1
        return self._value

    def end(self) -> None:
        """Forget the step."""
        self._value = None

    def check_taken(self, model: str) -> None:
        """Refuse to go on with a model that did not take its loss from here.

        Raises:
            RuntimeError: Naming the model and the remedy.
        """
        if self._taken != 1:
            raise RuntimeError(
                f"{model} computed its BPRLoss {self._taken} times in a step, where ranking_loss={self.name} can take "
                "its place once; set ranking_loss: base and report this model"
            )


def _unit(rows: Tensor) -> Tensor:
    return functional.normalize(widened(rows), dim=-1, eps=1e-8)


def seen_among(users: Tensor, items: Tensor, interactions: TrainingInteractions) -> Tensor:
    """Training positives of some users among distinct items, as places ``row of the user * N + place of the item``.

    Args:
        users: User ids, shape ``(U,)``.
        items: Item ids, none twice, shape ``(N,)``.
        interactions: The training pairs; the cost is that of the users' own.
    """
    counts = interactions.user_counts.index_select(0, users)
    rows = torch.repeat_interleave(counts)  # (sum of counts,)
    first = torch.cumsum(counts, 0) - counts  # of each user's positives among those rows
    begins = interactions.user_starts.index_select(0, users) - first
    places = torch.arange(rows.numel(), device=rows.device).add_(begins.index_select(0, rows))
    positives = interactions.keys.index_select(0, places).sub_((users * interactions.n_items).index_select(0, rows))
    place_of = torch.full((interactions.n_items,), -1, dtype=torch.int32, device=items.device)
    place_of[items] = torch.arange(items.numel(), dtype=torch.int32, device=items.device)
    columns = place_of.index_select(0, positives)
    kept = torch.nonzero(columns >= 0).flatten()
    return rows.index_select(0, kept).mul_(items.numel()).add_(columns.index_select(0, kept))


class RankingLossHook:
    """Forward hook of RecBole's ``BPRLoss``: the term in place of the loss."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """The term, during a training step."""
        term: RankingTerm | None = self.model.hnlm.ranking if self.model.hnlm is not None else None
        return term.take() if term is not None and term.active else None


def hook_ranking_loss(model: nn.Module) -> None:
    """Put the term of ``model.hnlm.ranking`` in the place of the model's ``BPRLoss``."""
    for module in list(model.modules()):
        if isinstance(module, BPRLoss):
            module.register_forward_hook(RankingLossHook(model))


def has_ranking_loss(model: nn.Module) -> bool:
    """Whether a model has a ranking loss that the term can take the place of."""
    return any(isinstance(module, BPRLoss) for module in model.modules()) or bool(ranking_methods(type(model)))


def _loss_of_sgl(
    self: Any, user_emd: Tensor, item_emd: Tensor, user_list: Tensor, pos_item_list: Tensor, neg_item_list: Tensor
) -> Tensor:
    """SGL's ranking loss, a sum over the batch without a module of its own, and its regularisation."""
    term: RankingTerm | None = self.hnlm.ranking if self.hnlm is not None else None
    if term is None or not term.active:
        own: Tensor = SGL.calc_bpr_loss(self, user_emd, item_emd, user_list, pos_item_list, neg_item_list)
        return own
    rows = self.user_embedding(user_list), self.item_embedding(pos_item_list), self.item_embedding(neg_item_list)
    regularised: Tensor = self.reg_loss(*rows) * self.reg_weight
    return term.take() * user_list.numel() + regularised


def sums_over_pairs(model_class: type) -> bool:
    """Whether a model's ranking loss is the sum over the pairs of a batch, where the others' is the mean."""
    return bool(ranking_methods(model_class)) or issubclass(model_class, ConvNCF)


def ranking_methods(model_class: type) -> dict[str, Callable[..., Tensor]]:
    """Methods for a subclass of ``model_class`` through which the term reaches a model without a ``BPRLoss``."""
    inherited = getattr(model_class, "calc_bpr_loss", None)
    return {"calc_bpr_loss": _loss_of_sgl} if inherited in (SGL.calc_bpr_loss, _loss_of_sgl) else {}
