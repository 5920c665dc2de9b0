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

from filelock import FileLock

from recbole_hnlm.compare.children import in_child
from recbole_hnlm.compare.ledger import FAILED, OK, Record, RunSetting, digest

_ARTEFACT_KEYS = (
    "neg_sampler", "hnlm_base_sampler", "hnlm_comparator", "hnlm_user_text", "neg_sampler_guard", "neg_sampler_judge",
    "neg_sampler_reference_model", "neg_sampler_reference_epochs", "neg_sampler_tree_seed",
)  # fmt: skip
"""Settings beside those of the offline part that say what a run makes before it trains."""


def train_once(setting: RunSetting, folder: Path) -> Record:
    """Train in this process, and tell of it; what goes wrong is told too, as a record with status ``failed``.

    Args:
        setting: The run.
        folder: The comparison's folder, for artefacts and caches that runs share.

    Returns:
        The setting and its figures: ``valid_score`` is what may decide, ``valid`` and ``test`` are metrics at the best
        epoch of validation.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="compare-") as checkpoints:
            values = run_values(setting, folder, checkpoints)
            ensure_shared(setting, values)
            return {**setting.described(), "status": OK, **_figures(setting, values), **circumstances(values)}
    except Exception as error:  # a failing row is told in the table and stops no other
        return failure(setting, error)


def failure(setting: RunSetting, error: Exception) -> Record:
    """The record of a run that ended with an error.

    ``refused`` marks a user's error from before training: other points of the row would end with it, too.
    """
    trace = "".join(traceback.format_exception(error))[-4000:]
    told = {"status": FAILED, "error": f"{type(error).__name__}: {error}", "refused": _refuses(error), "trace": trace}
    return {**setting.described(), **told}


def _refuses(error: Exception) -> bool:
    """Whether it is a user's error, and not RecBole's ValueError for a loss that became nan in :meth:`Trainer.fit`."""
    trained = any(frame.f_code.co_name == "fit" for frame, _ in traceback.walk_tb(error.__traceback__))
    return isinstance(error, (ValueError, TypeError, FileNotFoundError)) and not trained


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
        "epochs": ours["epochs"], "best_epoch": best, "seconds_per_epoch": ours["seconds_per_epoch"],
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
        from recbole_hnlm.compare.plan import shaping
        from recbole_hnlm.data_source import named_files_digest

        made_by = {key: value for key, value in setting.values.items() if key.startswith("llm_")}
        files = named_files_digest(made_by)
        made_of = [setting.data, shaping(setting.values), made_by, *([files] if files else [])]
        name = f"seed-{setting.seed}-{digest(made_of)[:8]}"
        values.setdefault("hnlm_artefact_dir", str((folder / "artefacts" / setting.dataset / name).resolve()))
        values.setdefault("llm_cache_dir", str((folder / "artefacts" / setting.dataset / "cache").resolve()))
    return values


def ensure_shared(setting: RunSetting, values: dict[str, Any]) -> None:
    """Have the run's artefacts built once, however many processes want them, and apart from the memory of the run.

    A process that comes while another builds waits for it.

    Raises:
        ValueError: If the build refused the run.
        RuntimeError: If it failed.
    """
    directory = values.get("hnlm_artefact_dir")
    if directory is None:
        return
    what = digest({key: values.get(key) for key in _ARTEFACT_KEYS})[:8]
    done = Path(directory).with_name(f"{Path(directory).name}.{what}.built")
    done.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(done.parent / ".building.lock")):  # one at a time: builds of a dataset share texts and teachers
        if done.exists():
            return
        message, refused = in_child(_build, (setting.model, setting.dataset, values))
        if message:
            raise (ValueError if refused else RuntimeError)(f"building the artefacts failed: {message}")
        with done.open("a", encoding="utf-8") as file:
            file.write(f"built by process {os.getpid()} of {platform.node()}\n")


def _build(model: str, dataset: str, values: dict[str, Any]) -> tuple[str, bool]:
    """What went wrong, and whether it is a user's error; empty where all went well."""
    from recbole_hnlm.compare.plan import CompareConfig
    from recbole_hnlm.quick_start import prepare

    try:
        prepare(CompareConfig(model, dataset, config_dict=values))
    except Exception as error:
        return f"{type(error).__name__}: {error}", _refuses(error)
    return "", False


def circumstances(values: Mapping[str, Any]) -> Record:
    """Versions and machine of a run with these settings."""
    packages = ("recbole_hnlm", "torch", "recbole", "numpy")
    return {
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
