"""Where the best items of the reference model are kept between the offline part and training.

Shapes: ``U`` users, ``T`` best items.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recbole_hnlm.run_options import RunOptions
from recbole_hnlm.samplers import TrainingInteractions


def reference_file(run: RunOptions, interactions: TrainingInteractions, count: int) -> Path:
    """File of the ``count`` best items, named after the training pairs and the reference's settings.

    Args:
        run: The run's options.
        interactions: Training pairs by internal ids.
        count: ``T``.
    """
    llm = run.llm
    made_of = {
        "model": llm.teacher_model, "epochs": llm.teacher_epochs, "candidates": llm.teacher_candidates,
        "seed": llm.seed, "count": count, "n_users": interactions.n_users, "n_items": interactions.n_items,
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode())
    digest.update(interactions.keys.cpu().numpy().tobytes())
    folder = Path(llm.cache_dir) if llm.cache_dir is not None else Path("hnlm_cache")
    return folder / f"reference-{digest.hexdigest()[:16]}.npy"


def best_unseen(users: Tensor, items: Tensor, interactions: TrainingInteractions, count: int) -> Tensor:
    """For each user the items of the highest inner product that are no training positives, best first, ``(U, T)``.

    Args:
        users: User rows of the reference, shape ``(U, D)``.
        items: Its item rows; row 0 is padding.
        interactions: Training pairs.
        count: ``T``.

    Raises:
        ValueError: If some user has fewer unseen items.
    """
    fewest = int(interactions.unseen_counts(torch.arange(1, interactions.n_users, device=users.device)).min())
    if fewest < count:
        raise ValueError(f"comparator_top_items={count}, but a user has {fewest} unseen items; lower it")
    best = torch.empty(interactions.n_users, count, dtype=torch.long, device=users.device)
    step = max(1, (1 << 24) // items.shape[0])
    owner = torch.div(interactions.keys, interactions.n_items, rounding_mode="floor")
    for start in range(0, interactions.n_users, step):
        block = slice(start, min(start + step, interactions.n_users))
        scores = users[block] @ items.T
        low, high = torch.searchsorted(owner, torch.tensor([block.start, block.stop], device=owner.device)).tolist()
        scores.view(-1)[interactions.keys[low:high] - start * interactions.n_items] = float("-inf")
        scores[:, 0] = float("-inf")
        best[block] = scores.topk(count, dim=1).indices
    return best


def read_reference(run: RunOptions, interactions: TrainingInteractions, count: int) -> Tensor:
    """What the offline part has stored, shape ``(U, T)``, on the device of the interactions.

    Raises:
        FileNotFoundError: If there is none.
    """
    path = reference_file(run, interactions, count)
    if not path.is_file():
        raise FileNotFoundError(
            f"no best items of a reference model in {path}; run_recbole_hnlm or recbole-hnlm build make them, and "
            "hosts that train together have to share llm_cache_dir"
        )
    return torch.from_numpy(np.load(path)).long().to(interactions.device)
