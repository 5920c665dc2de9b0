"""Artefacts that runs of a comparison share: built once, built anew where they are damaged, within one budget."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import platform
import shutil
import tempfile
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from recbole_hnlm.artefacts import ArtefactError, ArtefactReader, MissingArtefactError
from recbole_hnlm.artefacts.manifest import ArtefactPaths
from recbole_hnlm.artefacts.storage import write_text
from recbole_hnlm.compare.children import in_child
from recbole_hnlm.compare.ledger import FAILED, STOPPED, RunSetting, digest
from recbole_hnlm.llm.backends.outcome import RunStopped
from recbole_hnlm.options.chat import Spent
from recbole_hnlm.options.imports import known_by

_MADE_OF = (
    "neg_sampler", "hnlm_base_sampler", "hnlm_comparator", "hnlm_user_text", "neg_sampler_guard", "neg_sampler_judge",
    "neg_sampler_reference_model", "neg_sampler_reference_epochs", "neg_sampler_tree_seed", "comparator_top_items",
)  # fmt: skip
"""Settings beside those of the offline part that say what a run makes before it trains."""
_REFUSED = "refused"
_ERRORS: dict[str, type[Exception]] = {_REFUSED: ValueError, STOPPED: RunStopped, FAILED: RuntimeError}
_SECONDS = 1.0
"""Between two times that an account is written."""


def refuses(error: Exception) -> bool:
    """Whether it is a user's error, and not RecBole's ValueError for a loss that became nan in :meth:`Trainer.fit`."""
    trained = any(frame.f_code.co_name == "fit" for frame, _ in traceback.walk_tb(error.__traceback__))
    return isinstance(error, (ValueError, TypeError, FileNotFoundError)) and not trained


def open_account() -> Path:
    """Begin a command: where it writes down what it spends on a chat model, apart from what other commands spend."""
    folder = tempfile.mkdtemp(prefix="compare-account-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder) / "spent.json"


def ensure_shared(setting: RunSetting, values: dict[str, Any], account: Path | None = None) -> None:
    """Have the run's artefacts built once, however many processes want them, and apart from the memory of the run.

    A process that comes while another builds waits for it. What has been damaged since is built anew. All builds of a
    command spend of one budget.

    Args:
        setting: The run.
        values: Its dictionary, with the folder of the artefacts.
        account: What :func:`open_account` gave the command; None has the whole budget for this build.

    Raises:
        ValueError: If the build refused the run.
        RunStopped: If a chat model cannot be asked any further: no credit, no budget, no server.
        RuntimeError: If it failed otherwise.
    """
    directory = values.get("hnlm_artefact_dir")
    if directory is None:
        return
    made_of = {key: values.get(key) for key in _MADE_OF}
    what = digest({key: known_by(one) if isinstance(one, str) else one for key, one in made_of.items()})[:8]
    done = Path(directory).with_name(f"{Path(directory).name}.{what}.built")
    done.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(done.parent / ".building.lock")):  # one at a time: builds of a dataset share texts and teachers
        ours = "hnlm_artefact_dir" not in setting.values  # what lies elsewhere is not ours to make anew
        damaged = ours and done.exists() and _is_damaged(Path(directory), setting.dataset)
        if done.exists() and not damaged:
            return
        own = {**values, "hnlm_rebuild": True} if damaged else values
        message, kind = in_child(_build, (setting.model, setting.dataset, own, account))
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


def _build(model: str, dataset: str, values: dict[str, Any], account: Path | None) -> tuple[str, str]:
    """What went wrong, and of which kind it is; empty where all went well."""
    from recbole_hnlm.compare.plan import CompareConfig
    from recbole_hnlm.quick_start import prepare

    try:
        config = CompareConfig(model, dataset, config_dict=values)
        spent = config.run.chat.spent if config.run is not None and config.run.chat is not None else None
        if spent is None or account is None:
            prepare(config)
            return "", ""
        with FileLock(str(account.with_suffix(".lock"))), _written_down(spent, account):
            prepare(config)  # one at a time, for builds on other datasets spend of the same budget
    except Exception as error:
        kind = STOPPED if isinstance(error, RunStopped) else _REFUSED if refuses(error) else FAILED
        return f"{type(error).__name__}: {error}", kind
    return "", ""


@contextlib.contextmanager
def _written_down(spent: Spent, account: Path) -> Iterator[None]:
    """Go on from what the account holds, and write down what is spent: every second, for a build may be killed."""
    if account.exists():
        before = json.loads(account.read_text(encoding="utf-8"))
        spent.dollars, spent.requests = before["dollars"], before["requests"]

    def write() -> None:
        """Put on disk what is spent so far."""
        write_text(account, [json.dumps({"dollars": spent.dollars, "requests": spent.requests})])

    def keep_writing() -> None:
        """Write until the block ends."""
        while not ended.wait(_SECONDS):
            write()

    ended = threading.Event()
    writer = threading.Thread(target=keep_writing, daemon=True)
    writer.start()
    try:
        yield
    finally:
        ended.set()
        writer.join()
        write()
