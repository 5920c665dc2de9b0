"""Counts that RecBole makes of batches in place of pairs."""

import functools
from types import ModuleType, SimpleNamespace
from typing import Any

from .registry import shim


def _counts_once_a_batch(model_class: Any) -> bool:
    import torch

    cpu = torch.device("cpu")
    probe = SimpleNamespace(ITEM_ID="item", item_cnt=torch.zeros(2, 1, dtype=torch.long), max_cnt=None, device=cpu)
    model_class.calculate_loss(probe, {"item": torch.tensor([1, 1])})
    return int(probe.item_cnt[1, 0]) != 2


@shim("recbole.model.general_recommender.pop")
def popularity_of_pairs(module: ModuleType) -> bool:
    """Have ``Pop`` count training pairs.

    ``Pop.calculate_loss`` adds 1 to ``item_cnt[item]`` by brackets, which counts an item once a batch however many of
    its pairs are in it, and counts sampled negatives as well, so that what it ranks by depends on ``train_batch_size``
    and the seed: the larger the batch, the nearer to chance. No upstream issue known.
    """
    import torch

    if not _counts_once_a_batch(module.Pop):
        return False
    original = module.Pop.__init__

    @functools.wraps(original)
    def __init__(self: Any, config: Any, dataset: Any) -> None:
        original(self, config, dataset)
        self.label_field = config["LABEL_FIELD"]

    def calculate_loss(self: Any, interaction: Any) -> torch.Tensor:
        items = interaction[self.ITEM_ID]
        if self.label_field in interaction.columns:
            items = items[interaction[self.label_field] > 0]
        self.item_cnt += torch.bincount(items, minlength=self.n_items).unsqueeze(1)
        self.max_cnt = torch.max(self.item_cnt, dim=0)[0]
        return torch.nn.Parameter(torch.zeros(1)).to(self.device)

    module.Pop.__init__ = __init__
    module.Pop.calculate_loss = calculate_loss
    return True
