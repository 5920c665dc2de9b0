"""Where the best items of the reference model, and what a language model picks of them, are kept between the offline
part and training.

Shapes: ``U`` users, ``T`` best items.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_hnlm.options.imports import known_by
from recbole_hnlm.run_options import RunOptions, cache_directory
from recbole_hnlm.samplers import TrainingInteractions

PICK_TEMPLATE = "picks-1/like_and_dislike"
"""Prompt of ``properties/prompts/picks.yaml`` that kept picks were made with."""


def reference_file(run: RunOptions, interactions: TrainingInteractions, count: int) -> Path:
    """File of the ``count`` best items, named after the training pairs and the reference's settings.

    Args:
        run: The run's options.
        interactions: Training pairs by internal ids.
        count: ``T``.
    """
    return _kept("reference", run, _reference_settings(run, interactions, count), interactions)


def picks_file(run: RunOptions, interactions: TrainingInteractions, count: int) -> Path:
    """File of each user's like and dislike by the run's chat model, named after whom it was asked of and how.

    Args:
        run: The run's options, with a chat model.
        interactions: Training pairs by internal ids.
        count: ``T``, best items that they are picked from.
    """
    chat, llm = run.chat, run.llm
    assert chat is not None
    asked = chat.model.chat_model, chat.model.chat_revision, chat.model.temperature, chat.text.history_words
    told = llm.user_history, llm.user_history_order, llm.text_fields
    made_of = {**_reference_settings(run, interactions, count), "asked": [PICK_TEMPLATE, *asked], "told": told}
    return _kept("picks", run, made_of, interactions)


def _reference_settings(run: RunOptions, interactions: TrainingInteractions, count: int) -> dict[str, Any]:
    llm = run.llm
    return {
        "model": known_by(llm.teacher_model), "epochs": llm.teacher_epochs, "candidates": llm.teacher_candidates,
        "seed": llm.seed, "count": count, "n_users": interactions.n_users, "n_items": interactions.n_items,
    }  # fmt: skip


def _kept(kind: str, run: RunOptions, made_of: dict[str, Any], interactions: TrainingInteractions) -> Path:
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode())
    digest.update(interactions.keys.cpu().numpy().tobytes())
    return cache_directory(run) / f"{kind}-{digest.hexdigest()[:16]}.npy"


def best_unseen(users: Tensor, items: Tensor, interactions: TrainingInteractions, count: int) -> Tensor:
    """For each user the items of the highest inner product that are no training positives, best first, ``(U, T)``.

    A user with fewer of them has zeros, which are no items, in the places that remain.

    Args:
        users: User rows of the reference, shape ``(U, D)``.
        items: Its item rows; row 0 is padding.
        interactions: Training pairs.
        count: ``T``.

    Raises:
        ValueError: If no user has two unseen items, a like and a dislike.
    """
    most = int(interactions.unseen_counts(torch.arange(1, interactions.n_users, device=users.device)).max())
    if most < 2:
        raise ValueError(
            f"comparator_top_items={count} picks from unseen items, of which no user has two; set comparator_weight: 0"
        )
    best = torch.zeros(interactions.n_users, count, dtype=torch.long, device=users.device)
    step = max(1, (1 << 24) // items.shape[0])
    owner = torch.div(interactions.keys, interactions.n_items, rounding_mode="floor")
    for start in range(0, interactions.n_users, step):
        block = slice(start, min(start + step, interactions.n_users))
        scores = users[block] @ items.T
        low, high = torch.searchsorted(owner, torch.tensor([block.start, block.stop], device=owner.device)).tolist()
        scores.view(-1)[interactions.keys[low:high] - start * interactions.n_items] = float("-inf")
        scores[:, 0] = float("-inf")
        highest = scores.topk(min(count, items.shape[0]), dim=1)
        best[block, : highest.indices.shape[1]] = highest.indices.masked_fill_(highest.values == float("-inf"), 0)
    return best


def read_reference(run: RunOptions, interactions: TrainingInteractions, count: int) -> Tensor:
    """What the offline part has stored, shape ``(U, T)``, on the device of the interactions.

    Raises:
        FileNotFoundError: If there is none.
    """
    return _read(reference_file(run, interactions, count), "best items of a reference model", interactions)


def read_picks(run: RunOptions, interactions: TrainingInteractions, count: int) -> Tensor | None:
    """Each user's like and dislike, 0 for none, shape ``(U, 2)``; None where no chat model is asked.

    Raises:
        FileNotFoundError: If there are none.
    """
    if run.chat is None:
        return None
    return _read(picks_file(run, interactions, count), "likes and dislikes by a chat model", interactions)


def _read(path: Path, what: str, interactions: TrainingInteractions) -> Tensor:
    if not path.is_file():
        raise FileNotFoundError(
            f"no {what} in {path}; run_recbole_hnlm or recbole-hnlm build make them, and hosts that train together "
            "have to share llm_cache_dir"
        )
    return torch.from_numpy(np.load(path)).long().to(interactions.device)
