"""One training run in a process of its own: metrics, time, memory and the curve of validation, as a record."""

from __future__ import annotations

import os
import platform
import tempfile
import traceback
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from recbole_hnlm.compare.defaults import defaults_of
from recbole_hnlm.compare.ledger import FAILED, OK, STOPPED, Record, RunSetting, digest
from recbole_hnlm.compare.sharing import ensure_shared, refuses
from recbole_hnlm.llm.backends.outcome import RunStopped
from recbole_hnlm.options.imports import known_by


def train_once(setting: RunSetting, folder: Path, account: Path | None = None) -> Record:
    """Train in this process, and tell of it; what goes wrong is told too, as a record with status ``failed``.

    Args:
        setting: The run.
        folder: The comparison's folder, for artefacts and caches that runs share.
        account: What the command has spent on a chat model so far; None for a run that belongs to none.

    Returns:
        The setting and its figures: ``valid_score`` is what may decide, ``valid`` and ``test`` are metrics at the best
        epoch of validation.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="compare-") as checkpoints:
            values = run_values(setting, folder, checkpoints)
            ensure_shared(setting, values, account)
            return {**setting.described(), "status": OK, **_figures(setting, values), **circumstances(setting, values)}
    except Exception as error:  # a failing row is told in the table and stops no other
        return failure(setting, error)


def failure(setting: RunSetting, error: Exception) -> Record:
    """The record of a run that ended with an error.

    ``refused`` marks a user's error from before training: other points of the row would end with it, too. A run that
    waits for money or a server has the status ``stopped``, is not kept, and ends the command.
    """
    if isinstance(error, RunStopped):
        return {**setting.described(), "status": STOPPED, "error": str(error)}
    trace = "".join(traceback.format_exception(error))[-4000:]
    told = {"status": FAILED, "error": f"{type(error).__name__}: {error}", "refused": refuses(error), "trace": trace}
    return {**setting.described(), **told}


def _figures(setting: RunSetting, values: dict[str, Any]) -> Record:
    from recbole_hnlm.compare.plan import CompareConfig
    from recbole_hnlm.quick_start import run_recbole_hnlm

    result = run_recbole_hnlm(setting.model, setting.dataset, config_dict=values, config_class=CompareConfig)
    ours = result["hnlm"]
    curve = [[epoch, seconds, score] for epoch, seconds, score in ours["curve"]]
    best = ours["best_epoch"]
    return {
        "valid_score": float(result["best_valid_score"]), "higher_is_better": bool(result["valid_score_bigger"]),
        "valid": {name: float(value) for name, value in result["best_valid_result"].items()},
        "test": {name: float(value) for name, value in result["test_result"].items()},
        "pairs": ours["pairs"], "epochs": ours["epochs"], "best_epoch": best,
        "seconds_per_epoch": ours["seconds_per_epoch"],
        "seconds": ours["fit_seconds"], "seconds_to_best": next((row[1] for row in curve if row[0] == best), None),
        "peak_memory_mib": ours["peak_memory_mib"], "peak_gpu_memory_mib": ours["peak_gpu_memory_mib"], "curve": curve,
        "negatives": ours["negatives"][-1:],
    }  # fmt: skip


def run_values(setting: RunSetting, folder: Path, checkpoints: str) -> dict[str, Any]:
    """The dictionary that trains a setting: its values, where they run, and artefacts that runs share.

    Artefacts belong to a training split, so runs with the same dataset, seed and settings of data share a folder.
    """
    values = {**setting.values, **setting.local, "seed": setting.seed, "checkpoint_dir": checkpoints}
    if values.get("neg_sampler") == "hnlm":
        from recbole_hnlm.compare.measuring import shaping
        from recbole_hnlm.data_source import named_files_digest

        made_by = {key: value for key, value in setting.values.items() if key.startswith("llm_")}
        files = named_files_digest(made_by)
        if "llm_teacher_model" in made_by:
            made_by["llm_teacher_model"] = known_by(str(made_by["llm_teacher_model"]))
        made_of = [setting.data, shaping(setting.values), made_by, *([files] if files else [])]
        name = f"seed-{setting.seed}-{digest(made_of)[:8]}"
        values.setdefault("hnlm_artefact_dir", str((folder / "artefacts" / setting.dataset / name).resolve()))
        values.setdefault("llm_cache_dir", str((folder / "artefacts" / setting.dataset / "cache").resolve()))
    return values


def circumstances(setting: RunSetting, values: Mapping[str, Any]) -> Record:
    """What a run with these values took for what nobody gave it, and its versions and machine."""
    from recbole_hnlm.compare.plan import CompareConfig

    packages = ("recbole_hnlm", "torch", "recbole", "numpy")
    return {
        "defaults": defaults_of(CompareConfig(setting.model, setting.dataset, config_dict=dict(values)), values),
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}},
        "machine": {
            "host": platform.node(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "device": _device(values),
        },
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _device(values: Mapping[str, Any]) -> str:
    import torch

    used = torch.cuda.is_available() and values.get("use_gpu") is not False
    return torch.cuda.get_device_name() if used else "cpu"
