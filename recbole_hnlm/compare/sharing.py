"""Artefacts that runs of a comparison share: built once, built anew where they are damaged, within one budget."""

from __future__ import annotations

import json
import os
import platform
import traceback
from pathlib import Path
from typing import Any

from filelock import FileLock

from recbole_hnlm.artefacts import ArtefactError, ArtefactReader, MissingArtefactError
from recbole_hnlm.artefacts.manifest import ArtefactPaths
from recbole_hnlm.compare.children import in_child
from recbole_hnlm.compare.ledger import FAILED, STOPPED, RunSetting, digest
from recbole_hnlm.llm.backends.outcome import RunStopped

_MADE_OF = (
    "neg_sampler", "hnlm_base_sampler", "hnlm_comparator", "hnlm_user_text", "neg_sampler_guard", "neg_sampler_judge",
    "neg_sampler_reference_model", "neg_sampler_reference_epochs", "neg_sampler_tree_seed",
)  # fmt: skip
"""Settings beside those of the offline part that say what a run makes before it trains."""
_REFUSED = "refused"
_ERRORS: dict[str, type[Exception]] = {_REFUSED: ValueError, STOPPED: RunStopped, FAILED: RuntimeError}
_SPENT = "spent.json"


def refuses(error: Exception) -> bool:
    """Whether it is a user's error, and not RecBole's ValueError for a loss that became nan in :meth:`Trainer.fit`."""
    trained = any(frame.f_code.co_name == "fit" for frame, _ in traceback.walk_tb(error.__traceback__))
    return isinstance(error, (ValueError, TypeError, FileNotFoundError)) and not trained


def open_account(folder: Path) -> None:
    """Begin a command: nothing of its budget for a chat model is spent, whatever commands before it have spent."""
    (folder / "artefacts" / _SPENT).unlink(missing_ok=True)


def ensure_shared(setting: RunSetting, values: dict[str, Any], folder: Path) -> None:
    """Have the run's artefacts built once, however many processes want them, and apart from the memory of the run.

    A process that comes while another builds waits for it. What has been damaged since is built anew. All builds of a
    command spend of one budget.

    Args:
        setting: The run.
        values: Its dictionary, with the folder of the artefacts.
        folder: The comparison's folder.

    Raises:
        ValueError: If the build refused the run.
        RunStopped: If a chat model cannot be asked any further: no credit, no budget, no server.
        RuntimeError: If it failed otherwise.
    """
    directory = values.get("hnlm_artefact_dir")
    if directory is None:
        return
    what = digest({key: values.get(key) for key in _MADE_OF})[:8]
    done = Path(directory).with_name(f"{Path(directory).name}.{what}.built")
    done.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(done.parent / ".building.lock")):  # one at a time: builds of a dataset share texts and teachers
        ours = "hnlm_artefact_dir" not in setting.values  # what lies elsewhere is not ours to make anew
        damaged = ours and done.exists() and _is_damaged(Path(directory), setting.dataset)
        if done.exists() and not damaged:
            return
        own = {**values, "hnlm_rebuild": True} if damaged else values
        message, kind = in_child(_build, (setting.model, setting.dataset, own, folder / "artefacts" / _SPENT))
        if message:
            raise _ERRORS[kind](f"building the artefacts failed: {message}")
        with done.open("a", encoding="utf-8") as file:
            file.write(f"built by process {os.getpid()} of {platform.node()}\n")


def _is_damaged(directory: Path, dataset: str) -> bool:
    """Whether a finished build's files are cut short, changed or gone."""
    try:
        ArtefactReader.open(directory, dataset)
    except MissingArtefactError:
        return ArtefactPaths(directory, dataset).manifest.exists()  # else this run reads other things than text
    except ArtefactError:
        return True
    return False


def _build(model: str, dataset: str, values: dict[str, Any], account: Path) -> tuple[str, str]:
    """What went wrong, and of which kind it is; empty where all went well."""
    from recbole_hnlm.compare.plan import CompareConfig
    from recbole_hnlm.quick_start import prepare

    try:
        config = CompareConfig(model, dataset, config_dict=values)
        spent = config.run.chat.spent if config.run is not None and config.run.chat is not None else None
        if spent is None:
            prepare(config)
            return "", ""
        account.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(str(account.with_suffix(".lock"))):  # builds on other datasets spend of the same budget
            if account.exists():
                before = json.loads(account.read_text(encoding="utf-8"))
                spent.dollars, spent.requests = before["dollars"], before["requests"]
            try:
                prepare(config)
            finally:
                account.write_text(json.dumps({"dollars": spent.dollars, "requests": spent.requests}), encoding="utf-8")
    except Exception as error:
        kind = STOPPED if isinstance(error, RunStopped) else _REFUSED if refuses(error) else FAILED
        return f"{type(error).__name__}: {error}", kind
    return "", ""
