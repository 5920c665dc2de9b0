"""Metrics by item group.

Shapes: ``U`` users, ``I`` items including padding, ``k`` length of the ranking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from recbole.utils import get_trainer

GROUPS = ("least-clicked 80 %", "rest", "top 5 %")


def popularity_groups(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Group of each item, an index into :data:`GROUPS`; -1 for padding.

    Args:
        counts: Training pairs of each item, shape ``(I,)``; of equal counts the smaller id counts as less clicked.
    """
    items = len(counts) - 1
    order = np.argsort(counts[1:], kind="stable") + 1
    group = np.full(len(counts), -1, dtype=np.int64)
    low, high = int(0.8 * items), items - max(1, round(0.05 * items))
    group[order[:low]], group[order[low:high]], group[order[high:]] = 0, 1, 2
    return group


def group_metrics(
    ranking: NDArray[np.int64], positives: Sequence[NDArray[np.int64]], group: NDArray[np.int64], cuts: Sequence[int]
) -> dict[str, dict[str, float]]:
    """Recall and NDCG by group, over the users who have a positive in it.

    Args:
        ranking: Ranked items of each user, shape ``(U, k)`` with ``k`` at least the largest cut.
        positives: Test items of each user.
        group: Group of each item, shape ``(I,)``.
        cuts: Lengths of the list that metrics look at.

    Returns:
        Group -> ``recall@20`` and the like; groups without a positive are left out.
    """
    found: dict[str, dict[str, float]] = {}
    for number, name in enumerate(GROUPS):
        told: dict[str, list[float]] = {}
        for row, items in zip(ranking, positives, strict=True):
            own = items[group[items] == number]
            if not len(own):
                continue
            hits = np.isin(row, own)
            for cut in cuts:
                gains = 1 / np.log2(np.arange(2, cut + 2))
                told.setdefault(f"recall@{cut}", []).append(hits[:cut].sum() / len(own))
                ideal = gains[: min(cut, len(own))].sum()
                told.setdefault(f"ndcg@{cut}", []).append(float((hits[:cut] * gains).sum() / ideal))
        if told:
            found[name] = {metric: float(np.mean(values)) for metric, values in told.items()}
    return found


def metrics_by_popularity(config: Any, model: Any, loaders: tuple[Any, Any, Any]) -> Mapping[str, Any]:
    """Test metrics of a trained model by the popularity of items in training."""
    train_data, _, test_data = loaders
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.eval_collector.data_collect(train_data)
    trainer.evaluate(test_data, load_best_model=False, show_progress=False)  # sets what a batch needs
    cuts = [int(cut) for cut in config["topk"]]
    with torch.no_grad():
        scores = (trainer._full_sort_batch_eval(batch)[1] for batch in test_data)
        ranking = torch.cat([one.topk(max(cuts), dim=1).indices.cpu() for one in scores]).numpy()
    trainer.tensorboard.close()
    dataset = train_data._dataset
    counts = np.bincount(dataset.inter_feat[dataset.iid_field].numpy(), minlength=dataset.item_num)
    positives = [test_data.uid2positive_item[user].numpy() for user in test_data.uid_list.tolist()]
    return group_metrics(ranking, positives, popularity_groups(counts), cuts)
