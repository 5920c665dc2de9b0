"""One training batch of a wrapped model: its pairs, its negatives in RecBole's layout, its loss over several of them.

Shapes: ``B`` pairs of a batch, ``K`` negatives per pair, ``M = B K`` rows, ``D`` width of an item row.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_hnlm.models.item_space import StepRows
from recbole_hnlm.models.losses import joint_ranking_loss
from recbole_hnlm.samplers import Negatives

CANDIDATES = "hnlm_candidates"
"""Column of a batch that holds candidates drawn ahead."""
VECTOR_ROWS = "hnlm_vector_rows"
"""Column of a batch that says where the pairs' hard-negative vectors are."""


def take_column(interaction: Interaction, name: str) -> Tensor | None:
    """What the loader has put into the batch for us, taken out of it."""
    if name not in interaction:
        return None
    column: Tensor = interaction[name]
    interaction.drop(name)
    return column


def pairs_of(model: Any, interaction: Interaction) -> tuple[Tensor, Tensor, Tensor | None]:
    """Users, positives and, where RecBole's loader drew them, negatives of a batch, each of shape ``(M,)``."""
    users, items = interaction[model.USER_ID], interaction[model.ITEM_ID]
    if model.hnlm.sampler is None:
        if model._pairwise:
            return users, items, interaction[model.NEG_ITEM_ID]
        pairs = int((interaction[model._label] > 0).sum())  # RecBole puts the positives first
        times = users.numel() // pairs - 1
        return users[pairs:], items[:pairs].repeat(times), items[pairs:]
    times = model.hnlm.run.negatives
    return (users, items, None) if times == 1 else (users.repeat(times), items.repeat(times), None)


def exchanged_batch(model: Any, interaction: Interaction, negatives: Negatives) -> tuple[Interaction, StepRows]:
    """The batch as the base expects it, and what its negatives' lookups return.

    Pairwise models get ``K`` blocks of the same rows and a column of negatives; pointwise ones rows labelled 0 after
    the positives. Negatives that RecBole's loader drew stay where they are.
    """
    ids = negatives.ids.T.reshape(-1)  # K blocks of B rows, as RecBole orders them
    if model._pairwise:
        times = ids.numel() // len(interaction)
        batch = interaction.repeat(times) if times > 1 else Interaction(dict(interaction.interaction))
        shown = model._space.negative_ids(ids, negatives.rows is not None).contiguous()
        batch.update(Interaction({**model._space.features.of_negatives(ids), model.NEG_ITEM_ID: shown}))
        return batch, StepRows(ids, negatives.rows, shown, offset=0)
    if model.hnlm.sampler is None:
        shown = interaction[model.ITEM_ID]
        return interaction, StepRows(ids, negatives.rows, shown, offset=len(interaction) - ids.numel())
    pairs = len(interaction)
    batch = interaction.repeat(1 + ids.numel() // pairs)
    shown = torch.cat([interaction[model.ITEM_ID], ids])
    labels = torch.zeros(shown.numel(), device=ids.device)
    labels[:pairs] = 1.0
    batch.update(Interaction({**model._space.features.of_items(shown), model.ITEM_ID: shown, model._label: labels}))
    return batch, StepRows(ids, negatives.rows, shown, offset=pairs)


@contextmanager
def made_rows_told(model: Any, step: StepRows) -> Iterator[None]:
    """Tell a model that indexes something of its own by rows that only its tables have."""
    try:
        yield
    except IndexError as error:
        if step.rows is None or not model._space.is_table:
            raise
        raise RuntimeError(
            f"{model.hnlm_base.__name__} indexes something beside its tables and embeddings by the negatives' ids, "
            "and made rows have none of the catalogue's; use an id-only sampler such as dns with hnlm_alpha: 0"
        ) from error


class JointLossHook:
    """Forward hook of a BPR loss: several negatives of one pair enter one logarithm, or carry weights."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._taken = False

    def check_taken(self, model: str) -> None:
        """Refuse to go on with a model whose BPR loss was not that of the step's rows, once after every step.

        Raises:
            RuntimeError: Naming the model and the remedy.
        """
        taken, self._taken = self._taken, False
        if not taken:
            raise RuntimeError(
                f"{model} has a BPRLoss and did not give it a score for each row of the batch, so the weights of "
                "negatives do not reach its loss; take a sampler that has none, e.g. neg_sampler: dns, without "
                "hnlm_use: extra"
            )

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor | None:
        """The joint loss in place of the mean over all rows, where the batch has several negatives per pair."""
        step: StepRows | None = self.model._step_rows
        if step is None:
            return None
        several: Negatives | None = self.model._step_negatives
        weights = several.weights if several is not None else None
        importance = several.importance if several is not None else None
        shaped = weights if weights is not None else importance
        times = shaped.shape[1] if shaped is not None else self.model.hnlm.run.negatives
        scores = inspect.signature(module.forward).bind(*args, **kwargs).args
        rows = step.ids.numel()
        if any(one.numel() != rows or one.shape[0] != rows for one in scores[:2]):
            return None
        pos_scores, neg_scores = (one.reshape(-1) for one in scores[:2])
        self._taken = True
        if times == 1:
            return None
        blocks = neg_scores.view(times, -1).T  # (B, K)
        if importance is not None:
            blocks = blocks + importance.log()
        return joint_ranking_loss(pos_scores.view(times, -1)[0], blocks, weights)
