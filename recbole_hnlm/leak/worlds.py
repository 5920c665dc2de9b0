"""A dataset's split written twice as atomic files: as it is, and with held-out pairs exchanged.

RecBole reads either as a fixed split (``benchmark_filename``), so a method meets it like any other dataset: on disk, in
the dataset object, in samplers. What was filtered or labelled before the split is not done again.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_hnlm.artefacts.atomic import stream_atomic
from recbole_hnlm.config import HNLMConfig, encoding_of
from recbole_hnlm.leak.poison import Pairs

PARTS = ("train", "valid", "test")
_DONE_BEFORE = ("user_inter_num_interval", "item_inter_num_interval", "val_interval", "threshold", "rm_dup_inter")
WRITTEN_SETTINGS = (
    *_DONE_BEFORE,
    *("filter_inter_by_user_or_item", "benchmark_filename", "masked_filename", "load_col"),
)
"""What :func:`settings_of_split` sets."""
_OF_ITS_OWN = ("hnlm_artefact_dir", "llm_cache_dir")
_NOT_AN_INPUT = ("data_path", "config_files", "checkpoint_dir", *_OF_ITS_OWN)
_ALSO_READ = ("kg", "link", "net")


def pairs_of(dataset: Any) -> Pairs:
    """The pairs of a RecBole split."""
    feat = dataset.inter_feat
    return Pairs(feat[dataset.uid_field].numpy(), feat[dataset.iid_field].numpy())


def write_world(folder: Path, name: str, splits: Sequence[Any], pairs: Sequence[Pairs], order_seed: int | None) -> None:
    """Write one dataset into ``folder/name``.

    Args:
        folder: Folder of the world.
        name: Name of the dataset.
        splits: RecBole's train, valid and test datasets, for every column but the pairs.
        pairs: The pairs to write in their place.
        order_seed: Shuffles numbers (ratings, times) over the rows of each held-out split; None leaves them.
    """
    home = folder / name
    home.mkdir(parents=True)
    for part, dataset, written in zip(PARTS, splits, pairs, strict=True):
        shuffled = part != "train" and order_seed is not None
        rows = np.random.default_rng(order_seed).permutation(len(written.users)) if shuffled else None
        _to_file(_columns(dataset, written, rows), home / f"{name}.{part}.inter", dataset.config)
    for field, suffix in ((splits[0].uid_field, "user"), (splits[0].iid_field, "item")):
        source = Path(splits[0].config["data_path"]) / f"{splits[0].dataset_name}.{suffix}"
        if source.is_file():
            known = set(splits[0].field2id_token[field].tolist())
            _write_known(source, home / f"{name}.{suffix}", field, known, splits[0].config)
    for suffix in (*_ALSO_READ, *(splits[0].config["additional_feat_suffix"] or ())):
        source = Path(splits[0].config["data_path"]) / f"{splits[0].dataset_name}.{suffix}"
        if source.is_file():
            os.symlink(source.resolve(), home / f"{name}.{suffix}")


def write_pairs(path: Path, dataset: Any) -> None:
    """Write a RecBole split as it is."""
    _to_file(_columns(dataset, pairs_of(dataset), None), path, dataset.config)


def _to_file(columns: pd.DataFrame, path: Path, config: Any) -> None:
    columns.to_csv(path, index=False, sep=config["field_separator"], encoding=encoding_of(config))


def _columns(dataset: Any, pairs: Pairs, order: Any) -> pd.DataFrame:
    ids = {dataset.uid_field: pairs.users, dataset.iid_field: pairs.items}
    columns: dict[str, Any] = {}
    between = dataset.config["seq_separator"]
    for field in dataset.inter_feat.columns:
        kind = dataset.field2type[field].value
        values = dataset.inter_feat[field].numpy()
        if kind.startswith("token"):
            tokens = dataset.field2id_token[field]
            values = ids.get(field, values)
            values = tokens[values] if kind == "token" else [between.join(tokens[row[row > 0]]) for row in values]
        else:
            values = values if order is None else values[order]
            values = values if kind == "float" else [between.join(map(str, row)) for row in values]
        columns[f"{field}:{kind}"] = values
    return pd.DataFrame(columns)


def _write_known(source: Path, target: Path, field: str, known: set[str], config: HNLMConfig) -> None:
    """The rows of a side file whose user or item the dataset has; filters may have taken others out."""
    separator, encoding = config["field_separator"], encoding_of(config)
    types, rows = stream_atomic(source, separator=separator, encoding=encoding)
    column = list(types).index(field)
    with target.open("w", encoding=encoding, newline="") as kept:
        writer = csv.writer(kept, delimiter=separator, lineterminator="\n")
        writer.writerow(f"{name}:{kind}" for name, kind in types.items())
        writer.writerows(cells for _, cells in rows if len(cells) > column and cells[column] in known)


def world_config(first: HNLMConfig, model: Any, folder: Path, epochs: int) -> HNLMConfig:
    """The settings of ``first`` on the world in ``folder``: a fixed number of epochs, no selection, full ranking.

    Args:
        first: The settings as the user gave them.
        model: Name or class of the model.
        folder: Folder of the world; paths that the method makes itself lie below it.
        epochs: Epochs of training.
    """
    given: Mapping[str, Any] = first.external_config_dict
    values = {key: _absolute(value) for key, value in given.items()}
    values.update({key: str(folder / key) for key in _OF_ITS_OWN if key in given})
    values.update(settings_of_split(first, folder / str(first["dataset"]) / f"{first['dataset']}.train.inter"))
    mode = {**(given.get("eval_args") or {}), "mode": "full"}
    values.update(
        epochs=epochs, eval_args=mode, metric_decimal_place=10, checkpoint_dir=str(folder / "saved"),
        save_dataset=False, save_dataloaders=False, dataset_save_path=None, dataloaders_save_path=None,
    )  # fmt: skip
    return _class_at(type(first), folder)(model, str(first["dataset"]), None, values)


def settings_of_split(first: HNLMConfig, train_file: Path) -> dict[str, Any]:
    """Settings that read what :func:`write_world` has written: nothing is filtered, labelled or split again.

    Args:
        first: The settings that made the split.
        train_file: Its training part, for the names of the columns.
    """
    load_col = first["load_col"]
    if load_col is not None:
        with train_file.open(encoding=encoding_of(first)) as lines:
            header = next(lines).rstrip("\n").split(first["field_separator"])
        written = [column.rpartition(":")[0] for column in header]
        load_col = {**{key: fields for key, fields in load_col.items() if key != "inter"}, "inter": written}
    fixed = {"filter_inter_by_user_or_item": False, "benchmark_filename": list(PARTS), "load_col": load_col}
    return {**dict.fromkeys((*_DONE_BEFORE, "masked_filename")), **fixed}


def _class_at(base: type[HNLMConfig], folder: Path) -> type[HNLMConfig]:
    """A configuration that reads no command line, since ``first`` has, and whose data lie in ``folder``."""

    class WorldConfig(base):  # type: ignore[misc, valid-type]
        def _load_cmd_line(self) -> dict[str, Any]:
            return {}

        def _set_default_parameters(self) -> None:
            super()._set_default_parameters()
            self.final_config_dict["data_path"] = str(folder / self.dataset)  # RecBole has its own for ml-100k

    return WorldConfig


def _absolute(value: Any) -> Any:
    return str(Path(value).resolve()) if _is_path(value) else value


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and os.sep in value and os.path.exists(value)


def given_paths(first: HNLMConfig) -> dict[str, str]:
    """Files and folders that the settings name: made before, so that no check can tell what they were made of."""
    given = first.external_config_dict
    return {key: str(value) for key, value in given.items() if key not in _NOT_AN_INPUT and _is_path(value)}
