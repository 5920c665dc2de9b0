"""Pairs that evaluation masks beside those of the split: a true pair that was kept from training is no mistake."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from recbole_hnlm.artefacts.atomic import read_atomic
from recbole_hnlm.config import encoding_of


def masked_file(config: Any) -> Path | None:
    """The file that ``masked_filename`` names, ``DATASET.NAME.inter`` beside the dataset's, or None."""
    name = config["masked_filename"]
    return Path(str(config["data_path"])) / f"{config['dataset']}.{name}.inter" if name else None


def mask_also(config: Any, train_data: Any, held_out: Iterable[Any]) -> None:
    """Have loaders of held-out data rank the pairs of :func:`masked_file` as little as those of training.

    A pair that a loader holds out itself stays; users and items that the data do not have are passed over.

    Args:
        config: RecBole's configuration of the run.
        train_data: A loader over the training split, for the ids.
        held_out: The loaders of validation and test.
    """
    path = masked_file(config)
    if path is None:
        return
    pairs = _pairs(path, config, train_data._dataset)
    for loader in held_out:
        for user, items in pairs.items():
            if not hasattr(loader, "uid2history_item"):
                loader._sampler.used_ids[user] |= items  # negatives to rank against are drawn outside of these
            elif loader.uid2history_item[user] is not None:
                known = set(loader.uid2history_item[user].tolist())
                wanted = (known | items) - set(loader.uid2positive_item[user].tolist())
                loader.uid2history_item[user] = torch.tensor(sorted(wanted), dtype=torch.int64)


def _pairs(path: Path, config: Any, dataset: Any) -> dict[int, set[int]]:
    """Items of each user, as ids of the dataset."""
    users, items = (dataset.field2token_id[field] for field in (dataset.uid_field, dataset.iid_field))
    table = read_atomic(path, separator=str(config["field_separator"]), encoding=encoding_of(config))
    found: defaultdict[int, set[int]] = defaultdict(set)
    for user, item in zip(table.column(dataset.uid_field), table.column(dataset.iid_field), strict=True):
        if user in users and item in items:
            found[users[user]].add(items[item])
    return found
