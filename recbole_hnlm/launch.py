"""One process or several: RecBole's ``--nproc --world_size --ip --port``, or torchrun, for :func:`run_recbole_hnlm`."""

from __future__ import annotations

import json
import logging
import os
import pickle
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.multiprocessing as multiprocessing
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from recbole_hnlm.config import HNLMConfig, MainConfig
from recbole_hnlm.data_source import check_dataset_files, load_dataset
from recbole_hnlm.quick_start import run_recbole_hnlm
from recbole_hnlm.training.processes import USER_ERRORS, backend_of, free_port, user_error_of

_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def launch(
    model: str | None,
    dataset: str | None,
    config_file_list: list[str] | None,
    config_dict: Mapping[str, Any] | None = None,
    processes: Mapping[str, Any] | None = None,
    config_class: type[HNLMConfig] = MainConfig,
) -> dict[str, Any] | None:
    """Run in this process, or in ``nproc`` processes of a group of ``world_size``.

    The processes train one model together (data parallel), each on its share of every batch, on a CUDA device each or
    on the CPU. A process that torchrun has started takes its place in torchrun's group. A script that calls this with
    several processes needs ``if __name__ == "__main__"``, since they import it anew.

    Args:
        model: Name of the model.
        dataset: Name of the dataset.
        config_file_list: YAML files.
        config_dict: Parameters that override the files.
        processes: ``nproc``, ``world_size``, ``ip``, ``port`` and ``group_offset``, as RecBole names them. Without a
            port a group on one host takes a free one, a group on several hosts RecBole's 5678.
        config_class: How the settings are read.

    Returns:
        The result of rank 0, or None on a host or in a process without it.

    Raises:
        ValueError: On settings that cannot work, before a process is started; and what a process raised, as a
            ``ValueError``, ``TypeError``, ``FileNotFoundError`` or ``ImportError``.
        RuntimeError: If a process failed otherwise; all others of this host are ended.
    """
    group: dict[str, Any] = {"nproc": 1, "world_size": -1, "ip": "localhost", "port": None, "group_offset": 0}
    group.update({key: value for key, value in (processes or {}).items() if value is not None})
    group["offset"] = group.pop("group_offset")
    started = all(name in os.environ for name in _TORCHRUN) and int(os.environ["WORLD_SIZE"]) > 1
    alone = group["nproc"] == 1 and group["world_size"] <= 0
    if started and not alone:
        raise ValueError("torchrun has started the processes already; leave out --nproc and --world_size")
    if started:
        values = {**(config_dict or {}), **_torchrun_place()}
        result = run_recbole_hnlm(model, dataset, config_file_list, values, config_class=config_class)
        return result if int(os.environ["RANK"]) == 0 else None
    if alone:
        return run_recbole_hnlm(model, dataset, config_file_list, config_dict, config_class=config_class)
    _complete(group)
    config = config_class(model, dataset, config_file_list, config_dict)
    backend_of({**config.final_config_dict, "nproc": group["nproc"]})
    check_dataset_files(config)
    if not os.path.exists(config["data_path"]):
        load_dataset(config)  # downloads it, once
    values = {**(config_dict or {}), **group}
    return _spawn(group["nproc"], (model, dataset, config_file_list, values, config_class))


def _torchrun_place() -> dict[str, Any]:
    """This process's place in torchrun's group, in RecBole's words."""
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    world_size = int(os.environ["WORLD_SIZE"])
    return {
        "local_rank": local_rank,
        "offset": rank - local_rank,
        "nproc": int(os.environ.get("LOCAL_WORLD_SIZE", world_size)),
        "world_size": world_size,
        "ip": os.environ["MASTER_ADDR"],
        "port": os.environ["MASTER_PORT"],
    }


def _complete(group: dict[str, Any]) -> None:
    """Fill in the group's size and port.

    Raises:
        ValueError: If this host's processes do not fit into the group.
    """
    if group["world_size"] <= 0:
        group["world_size"] = group["nproc"] + group["offset"]
    if group["nproc"] < 1 or group["offset"] + group["nproc"] > group["world_size"]:
        raise ValueError(
            f"nproc={group['nproc']} from rank group_offset={group['offset']} on does not fit into "
            f"world_size={group['world_size']}; world_size counts the processes of all hosts"
        )
    if group["port"] is None:
        group["port"] = free_port() if group["world_size"] == group["nproc"] else "5678"


def _spawn(count: int, arguments: tuple[Any, ...]) -> dict[str, Any] | None:
    """Start the processes, wait for them, and hand on what they left: a result or an error."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            multiprocessing.spawn(  # type: ignore[attr-defined]
                _run_rank, args=(folder, *arguments), nprocs=count, join=True
            )
        except (ProcessRaisedException, ProcessExitedException) as failed:
            told = sorted(folder.glob("error-*.json"))
            if not told:
                raise RuntimeError(f"training in {count} processes failed, all are ended: {failed}") from failed
            kind, message = json.loads(told[0].read_text(encoding="utf-8"))
            raise USER_ERRORS[kind](message) from failed
        if not logging.getLogger().handlers:  # only the processes have logged so far
            logging.basicConfig(level=logging.INFO, format="%(message)s")
        path = folder / "result"
        return pickle.loads(path.read_bytes()) if path.exists() else None


def _run_rank(
    local_rank: int,
    folder: Path,
    model: str | None,
    dataset: str | None,
    config_file_list: list[str] | None,
    config_dict: dict[str, Any],
    config_class: type[HNLMConfig],
) -> None:
    values = {**config_dict, "local_rank": local_rank}
    try:
        result = run_recbole_hnlm(model, dataset, config_file_list, values, config_class=config_class)
    except tuple(USER_ERRORS.values()) as error:
        draft = folder / f"draft-{local_rank}"
        draft.write_text(json.dumps([user_error_of(error), str(error)]), encoding="utf-8")
        draft.rename(folder / f"error-{local_rank}.json")  # whole or not at all: this process may be ended any moment
        raise
    if local_rank + values["offset"] == 0:
        (folder / "result").write_bytes(pickle.dumps(result))
