"""A trained model without pickled classes: safetensors for the weights, JSON for the settings."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch

from recbole_hnlm.compat.checkpoints import plain_state


def export_checkpoint(checkpoint: Path, directory: Path) -> tuple[Path, Path]:
    """Write a checkpoint of RecBole's or ours as ``model.safetensors`` and ``config.json``.

    The checkpoint is unpickled, so name only files that you trust.

    Args:
        checkpoint: A ``.pth`` file that a RecBole trainer wrote.
        directory: Where the two files go; made if absent.

    Returns:
        The paths of weights and settings.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it is none.
    """
    from safetensors.torch import save_file

    if not checkpoint.is_file():
        raise FileNotFoundError(f"no checkpoint {checkpoint}; a training run prints the path of its own")
    try:
        stored = torch.load(checkpoint, map_location="cpu", weights_only=False)
        state, settings_of_run = stored["state_dict"], stored["config"].final_config_dict
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{checkpoint} is no checkpoint of RecBole's ({type(error).__name__}: {error})") from error
    directory.mkdir(parents=True, exist_ok=True)
    weights, settings = directory / "model.safetensors", directory / "config.json"
    save_file({name: value.contiguous() for name, value in plain_state(state).items()}, weights)
    values = {key: _plain(value) for key, value in settings_of_run.items()}
    settings.write_text(json.dumps(values, indent=2, sort_keys=True), encoding="utf-8")
    return weights, settings


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(getattr(value, "name", value))
