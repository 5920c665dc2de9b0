"""A training run that also tells of every epoch's negatives and of item groups."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from recbole_hnlm.compare.analyses.groups import metrics_by_popularity
from recbole_hnlm.compare.ledger import OK, Record, RunSetting
from recbole_hnlm.compare.plan import CompareConfig
from recbole_hnlm.compare.runner import circumstances, failure, run_values
from recbole_hnlm.compare.sharing import ensure_shared
from recbole_hnlm.quick_start import build_model, prepare, train


def train_and_probe(setting: RunSetting, folder: Path, account: Path | None = None) -> Record:
    """As :func:`recbole_hnlm.compare.runner.train_once`, with ``negatives`` of all epochs and ``groups``.

    Args:
        setting: The run.
        folder: Folder of artefacts and caches that runs share.
        account: What the command has spent on a chat model so far, if anything.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="analyse-") as checkpoints:
            values = run_values(setting, folder, checkpoints)
            ensure_shared(setting, values, account)
            return {**setting.described(), "status": OK, **_figures(setting, values), **circumstances(setting, values)}
    except Exception as error:  # a failing row is told below the table and stops no other
        return failure(setting, error)


def _figures(setting: RunSetting, values: dict[str, Any]) -> Record:
    config = CompareConfig(setting.model, setting.dataset, config_dict=values)
    loaders = prepare(config)
    result = train(config, loaders)
    model = build_model(config, loaders[0])
    stored = torch.load(result["hnlm"]["checkpoint"], map_location=config["device"], weights_only=False)
    model.load_state_dict(stored["state_dict"])
    model.load_other_parameter(stored.get("other_parameter"))
    return {
        "valid_score": float(result["best_valid_score"]),
        "test": {name: float(value) for name, value in result["test_result"].items()},
        "negatives": result["hnlm"]["negatives"],
        "groups": metrics_by_popularity(config, model, loaders) if hasattr(loaders[2], "uid2positive_item") else {},
    }
