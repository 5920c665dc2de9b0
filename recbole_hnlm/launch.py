"""One process or several: RecBole's ``--nproc --world_size --ip --port`` for :func:`run_recbole_hnlm`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.multiprocessing as multiprocessing

from recbole_hnlm.config import HNLMConfig, MainConfig
from recbole_hnlm.quick_start import run_recbole_hnlm


def launch(
    model: str | None,
    dataset: str | None,
    config_file_list: list[str] | None,
    config_dict: Mapping[str, Any] | None = None,
    processes: Mapping[str, Any] | None = None,
    config_class: type[HNLMConfig] = MainConfig,
) -> dict[str, Any] | None:
    """Run in this process, or in ``nproc`` processes of a group of ``world_size``.

    Args:
        model: Name of the model.
        dataset: Name of the dataset.
        config_file_list: YAML files.
        config_dict: Parameters that override the files.
        processes: ``nproc``, ``world_size``, ``ip``, ``port`` and ``group_offset``, as RecBole names them.
        config_class: How the settings are read.

    Returns:
        The result of rank 0, or None on a host without it.

    Raises:
        ValueError: If several processes are asked for without a CUDA device for each.
    """
    group = {"nproc": 1, "world_size": -1, "ip": "localhost", "port": "5678", "group_offset": 0, **(processes or {})}
    if group["nproc"] == 1 and group["world_size"] <= 0:
        return run_recbole_hnlm(model, dataset, config_file_list, config_dict, config_class=config_class)
    if torch.cuda.device_count() < group["nproc"]:
        raise ValueError(
            f"nproc={group['nproc']} needs as many CUDA devices, found {torch.cuda.device_count()}; RecBole's trainer "
            "cannot train on several CPU processes, so run with --nproc=1"
        )
    if group["world_size"] == -1:
        group["world_size"] = group["nproc"]
    group["offset"] = group.pop("group_offset")
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    arguments = (model, dataset, config_file_list, {**(config_dict or {}), **group}, queue, config_class)
    multiprocessing.spawn(  # type: ignore[attr-defined]
        _run_rank, args=arguments, nprocs=group["nproc"], join=True
    )
    return None if queue.empty() else queue.get()


def _run_rank(
    rank: int,
    model: str,
    dataset: str,
    config_file_list: list[str] | None,
    config_dict: dict[str, Any],
    queue: Any,
    config_class: type[HNLMConfig],
) -> None:
    values = {**config_dict, "local_rank": rank}
    run_recbole_hnlm(model, dataset, config_file_list, values, queue=queue, config_class=config_class)
