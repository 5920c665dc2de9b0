"""What a sampler of the user's own has drawn, checked before a loss trips over it far from its author."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recbole_hnlm.samplers import EmbeddingView, Negatives, TrainingInteractions

_OURS = "recbole_hnlm."


def reads_hops(sampler: Any) -> bool:
    """Whether a rule may read rows hop by hop: it makes rows, or how it chooses is the user's own."""
    choosing = (type(sampler).choose, type(sampler).sample)
    return sampler.synthesizes or not all(method.__module__.startswith(_OURS) for method in choosing)


def _is_ours(sampler: Any) -> bool:
    return type(sampler).__module__.startswith(_OURS)


def check_candidates(sampler: Any, candidates: Any, pairs: int, negatives: int) -> None:
    """Refuse candidates that cannot be dealt to ``K`` negatives a pair.

    Args:
        sampler: Who drew.
        candidates: What it returned.
        pairs: How many pairs it was asked for.
        negatives: ``K``.

    Raises:
        ValueError: Naming the sampler, what was wanted and what came.
    """
    if _is_ours(sampler):
        return
    wanted = (pairs, negatives * sampler.candidates_per_negative)
    if not isinstance(candidates, Tensor) or candidates.shape != wanted:
        got = tuple(candidates.shape) if isinstance(candidates, Tensor) else type(candidates).__name__
        raise ValueError(
            f"{type(sampler).__name__}.draw_candidates should return ids of shape {wanted}, {negatives} x "
            f"candidates_per_negative for each of {pairs} users, got {got}"
        )


def check_term(sampler: Any, term: Any) -> None:
    """Refuse what cannot join a loss as a term of it.

    Args:
        sampler: Whose term it is.
        term: What its ``extra_loss`` returned.

    Raises:
        ValueError: If that is neither None nor a scalar.
    """
    if term is not None and (not isinstance(term, Tensor) or term.numel() != 1):
        got = f"shape {tuple(term.shape)}" if isinstance(term, Tensor) else type(term).__name__
        raise ValueError(f"{type(sampler).__name__}.extra_loss should return a scalar tensor or None, got {got}")


def check_drawn(
    sampler: Any, drawn: Any, users: Tensor, interactions: TrainingInteractions, view: EmbeddingView
) -> None:
    """Refuse negatives that no loss could take, or that it would take for others.

    Args:
        sampler: Who drew.
        drawn: What it returned.
        users: The rows that it was asked for, shape ``(M,)``.
        interactions: Training pairs; ids of items lie below their ``n_items``.
        view: What it drew from, whose rows are as wide as the sampler's own have to be.

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
    if _is_ours(sampler):
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
    if drawn.rows is not None:
        with torch.no_grad():
            wanted = (ids.numel(), view.item_rows(ids[:1, 0]).shape[1])
        if drawn.rows.shape != wanted:
            raise ValueError(f"{name} should return rows of shape {wanted}, one an id, got {tuple(drawn.rows.shape)}")
