"""A training process and its threads, and a group of such: joining, leaving, what its ranks tell each other.

RecBole's names: ``nproc`` processes on this host, ``world_size`` on all hosts, ``offset`` the rank of this host's first
process, ``local_rank`` a process's place on its host; ours is ``group_rank``, its place among all. CUDA devices talk
through nccl, CPU processes through gloo. In a run of one process (``single_spec``) every function here returns at once.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from recbole_hnlm.options.general import GeneralOptions
from recbole_hnlm.options.parsing import parse_options

Value = TypeVar("Value")

PATIENCE = timedelta(days=7)
"""How long ranks wait for the first one's offline build; a rank that dies ends the wait at once."""
USER_ERRORS: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (ValueError, TypeError, FileNotFoundError, ImportError)
}
"""Errors that keep their type on the way from one process to another."""


def user_error_of(error: Exception) -> str | None:
    """Name of the first of :data:`USER_ERRORS` that an error is, or None."""
    return next((name for name, kind in USER_ERRORS.items() if isinstance(error, kind)), None)


def backend_of(values: Mapping[str, Any]) -> str:
    """``nccl`` with a CUDA device for each process of this host, ``gloo`` on the CPU.

    Args:
        values: ``gpu_id``, ``use_gpu`` and ``nproc`` of the run.

    Raises:
        ValueError: If the run wants CUDA devices and has fewer than processes.
    """
    devices = [name for name in str(values["gpu_id"]).split(",") if name.strip()]
    if not values["use_gpu"] or not devices or not torch.cuda.is_available():
        return "gloo"
    found = min(len(devices), torch.cuda.device_count())
    if found < values["nproc"]:
        several = ",".join(map(str, range(values["nproc"])))
        raise ValueError(
            f"nproc={values['nproc']} needs as many CUDA devices, gpu_id={values['gpu_id']!r} gives {found}; pass "
            f"--gpu_id={several}, or --use_gpu=False to train on the CPU"
        )
    return "nccl"


def join_group(values: dict[str, Any]) -> None:
    """Join the group that a configuration describes, and add device, rank and quiet to it, in place.

    What RecBole's ``Config`` does for CUDA, for the CPU too, and the folders that all ranks would make at once. A group
    that this process belongs to already is kept. Where nothing says how many threads a CPU process takes, the processes
    of a host share them.

    Raises:
        ValueError: If there are too few CUDA devices, or the description is incomplete.
    """
    missing = [key for key in ("nproc", "world_size", "ip", "port", "offset") if key not in values]
    if missing:
        raise ValueError(f"local_rank={values['local_rank']} without {', '.join(missing)}; start with --nproc instead")
    gpu_id, local_rank = values["gpu_id"], int(values["local_rank"])
    values["gpu_id"] = ",".join(map(str, gpu_id)) if isinstance(gpu_id, (tuple, list)) else str(gpu_id)
    os.environ.update(CUDA_VISIBLE_DEVICES=values["gpu_id"])  # as RecBole, before CUDA is looked at
    backend = backend_of(values)
    values["group_rank"] = local_rank + int(values["offset"])
    if not dist.is_initialized():
        dist.init_process_group(
            backend=backend,
            rank=values["group_rank"],
            world_size=int(values["world_size"]),
            init_method=f"tcp://{values['ip']}:{values['port']}",
        )
    for folder in (os.path.join("log", str(values["model"])), str(values["checkpoint_dir"])):
        os.makedirs(folder, exist_ok=True)  # RecBole looks first and then makes them, which two processes do at once
    if backend == "nccl":
        torch.cuda.set_device(local_rank)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // int(values["nproc"])))
    values["device"] = torch.device("cuda", local_rank) if backend == "nccl" else torch.device("cpu")
    values["single_spec"] = False
    if local_rank != 0:
        values.update(state="error", show_progress=False, verbose=False, log_wandb=False)


def leave_group(config: Any) -> None:
    """End this process's part in the group; under torchrun it is kept for the next run of the same process."""
    if config["single_spec"] or not dist.is_initialized():
        return
    if dist.is_torchelastic_launched():  # its store outlives the group, so a second one would meet stale addresses
        dist.barrier()
    else:
        dist.destroy_process_group()


def free_port() -> str:
    """A port of this host that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return str(probe.getsockname()[1])


def shared(config: Any, value: Value) -> Value:
    """The first rank's value, on every rank."""
    if config["single_spec"]:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def gathered(config: Any, value: Value) -> list[Value]:
    """Every rank's value in the order of ranks, on every rank."""
    if config["single_spec"]:
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def mean_over_ranks(config: Any, values: dict[str, float]) -> dict[str, float]:
    """Means of named numbers over the ranks that have them."""
    every = gathered(config, values)
    names = dict.fromkeys(name for one in every for name in one)
    held = {name: [one[name] for one in every if name in one] for name in names}
    return {name: sum(numbers) / len(numbers) for name, numbers in held.items()}


def on_first_rank(config: Any, work: Callable[[], None]) -> None:
    """Run ``work`` on the first rank alone; all ranks return when it is done, however long it takes, or fail with it.

    Raises:
        Exception: On the first rank what ``work`` raised; elsewhere the same message, with the same type where it is
            one of :data:`USER_ERRORS`.
        RuntimeError: If the first rank ended without a word.
    """
    if config["single_spec"]:
        work()
        return
    group = dist.new_group(backend="gloo", timeout=PATIENCE)  # nccl gives up after ten minutes
    failure: Exception | None = None
    if dist.get_rank() == 0:
        try:
            work()
        except Exception as error:
            failure = error
    outcome = [(user_error_of(failure), str(failure)) if failure is not None else None]
    try:
        dist.broadcast_object_list(outcome, src=0, group=group)
    except RuntimeError as error:
        if failure is None:
            raise RuntimeError("the first process ended while the others waited for it; see its output") from error
    if failure is not None:
        raise failure
    if outcome[0] is not None:
        kind, message = outcome[0]
        raise USER_ERRORS[kind](message) if kind is not None else RuntimeError(message)
    dist.destroy_process_group(group)


def set_threads(config: Any) -> None:
    """Set torch's thread count where ``torch_threads`` asks for it; small models are fastest with one."""
    threads = parse_options(GeneralOptions, "", config.final_config_dict).torch_threads
    if threads:
        torch.set_num_threads(threads)
