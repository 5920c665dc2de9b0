"""Pairs that evaluation masks beside those of the split: a true pair that was kept from training is no mistake."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from recbole_hnlm.artefacts.atomic import read_atomic
from recbole_hnlm.config import encoding_of


def mask_also(config: Any, train_data: Any, held_out: Iterable[Any]) -> None:
    """Have loaders of held-out data rank the pairs of ``masked_filename`` as little as those of training.

    A pair that a loader holds out itself stays; users and items that the data do not have are passed over. Where the
    held-out data say themselves what is ranked (``mode: labeled``) nothing is masked, as in RecBole.

    Args:
        config: RecBole's configuration of the run.
        train_data: A loader over the training split, for the ids.
        held_out: The loaders of validation and test.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    if not config["masked_filename"]:
        return
    pairs = _pairs(config, train_data._dataset)
    for loader in held_out:
        history, sampler = getattr(loader, "uid2history_item", None), getattr(loader, "_sampler", None)
        for user, items in pairs.items():
            if history is not None and history[user] is not None:
                wanted = (set(history[user].tolist()) | items) - set(loader.uid2positive_item[user].tolist())
                history[user] = torch.tensor(sorted(wanted), dtype=torch.int64)
            elif history is None and sampler is not None:
                sampler.used_ids[user] |= items  # negatives to rank against are drawn outside of these


def _pairs(config: Any, dataset: Any) -> dict[int, set[int]]:
    """Items of each user in the file, as ids of the dataset."""
    path = Path(str(config["data_path"])) / f"{config['dataset']}.{config['masked_filename']}.inter"
    if not path.is_file():
        raise FileNotFoundError(f"masked_filename={config['masked_filename']!r} asks for {path}, which is not there")
    users, items = (dataset.field2token_id[field] for field in (dataset.uid_field, dataset.iid_field))
    table = read_atomic(path, separator=str(config["field_separator"]), encoding=encoding_of(config))
    found: defaultdict[int, set[int]] = defaultdict(set)
    for user, item in zip(table.column(dataset.uid_field), table.column(dataset.iid_field), strict=True):
        if user in users and item in items:
            found[users[user]].add(items[item])
    return found
