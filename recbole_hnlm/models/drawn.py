"""What a sampler of the user's own has drawn, checked before a loss trips over it far from its author."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recbole_hnlm.samplers import Negatives, TrainingInteractions

_OURS = "recbole_hnlm."


def reads_hops(sampler: Any) -> bool:
    """Whether a rule may read rows hop by hop: it makes rows, or how it chooses is the user's own."""
    choosing = (type(sampler).choose, type(sampler).sample)
    return sampler.synthesizes or not all(method.__module__.startswith(_OURS) for method in choosing)


def check_drawn(sampler: Any, drawn: Any, users: Tensor, interactions: TrainingInteractions) -> None:
    """Refuse negatives that no loss could take, or that it would take for others.

    Args:
        sampler: Who drew.
        drawn: What it returned.
        users: The rows that it was asked for, shape ``(M,)``.
        interactions: Training pairs; ids of items lie below their ``n_items``.

    Raises:
        TypeError: If it is no :class:`Negatives`.
        ValueError: Naming the sampler, what is wrong and what was wanted.
    """
    name, rows = type(sampler).__name__, users.numel()
    if not isinstance(drawn, Negatives):
        raise TypeError(f"{name} should return Negatives(ids), got {type(drawn).__name__}")
    ids, weights = drawn.ids, drawn.weights
    if weights is None and ids.shape != (rows, 1):
        raise ValueError(
            f"{name} should return ids of shape ({rows}, 1), or weights for more; got {tuple(ids.shape)}; "
            "neg_sampler_num asks for several per pair"
        )
    if weights is not None and not sampler.weighs:
        raise ValueError(f"{name} returns weights, which no loss reads unless its class says weighs = True; add that")
    if weights is not None and weights.shape != ids.shape:
        raise ValueError(f"{name} returns weights of shape {tuple(weights.shape)} for ids of {tuple(ids.shape)}")
    if type(sampler).__module__.startswith(_OURS):
        return
    if ids.dtype not in (torch.int64, torch.int32) or ids.shape[0] != rows:
        raise ValueError(f"{name} should return whole ids of {rows} rows, got {ids.dtype} of {tuple(ids.shape)}")
    least, greatest = torch.stack(ids.aminmax()).tolist()
    if least < 1 or greatest >= interactions.n_items:
        raise ValueError(
            f"{name} returns ids from {least} to {greatest}; items have 1 to {interactions.n_items - 1}, 0 is padding"
        )
    if drawn.rows is not None and not sampler.synthesizes:
        raise ValueError(f"{name} returns rows, which models refuse unless its class says synthesizes = True; add that")
    if drawn.rows is not None and (drawn.rows.dim() != 2 or drawn.rows.shape[0] != ids.numel()):
        raise ValueError(f"{name} should return {ids.numel()} rows, one an id, got {tuple(drawn.rows.shape)}")
