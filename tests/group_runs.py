"""Work for the processes of tests/training/test_processes.py. A module of its own, since every process imports it anew."""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from recbole.utils import get_trainer
from recbole_runs import settings
from torch import Tensor

from recbole_hnlm.config import HNLMConfig
from recbole_hnlm.quick_start import build_model, prepare
from recbole_hnlm.samplers import EmbeddingView, Negatives, NegativeSampler
from recbole_hnlm.training.processes import free_port, on_first_rank
from recbole_hnlm.training.watching import watching

DEADLINE = 240  # seconds; a group that hangs fails the test


class FixedSampler(NegativeSampler):
    """The negative of a pair is a function of the pair, whoever draws it."""

    def choose(self, users: Tensor, positives: Tensor, candidates: Tensor, view: EmbeddingView) -> Negatives:
        """The same for every process."""
        return Negatives((1 + (users * 7 + positives * 3) % (self.interactions.n_items - 1)).unsqueeze(1))


FIXED = "group_runs:FixedSampler"


def run_group(work: Callable[..., Any], *arguments: Any, count: int = 2) -> list[Any]:
    """What ``work(rank, place, *arguments)`` returned in each of ``count`` processes; ``place`` goes into the
    configuration."""
    folder = Path("ranks").absolute()
    folder.mkdir(exist_ok=True)
    place = {"nproc": count, "world_size": count, "ip": "localhost", "port": free_port(), "offset": 0}
    context = multiprocessing.spawn(_work, args=(work, folder, place, arguments), nprocs=count, join=False)
    until = time.monotonic() + DEADLINE
    while not context.join(timeout=1):
        if time.monotonic() > until:
            for process in context.processes:
                process.kill()
            raise TimeoutError("the processes hang")
    return [pickle.loads((folder / str(rank)).read_bytes()) for rank in range(count)]


def _work(rank: int, work: Callable[..., Any], folder: Path, place: dict[str, Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    result = work(rank, {**place, "local_rank": rank}, *arguments)
    (folder / str(rank)).write_bytes(pickle.dumps(result))
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def digest(model: Any) -> str:
    """Hash of a model's parameters and buffers."""
    made = hashlib.sha256()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        made.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return made.hexdigest()


def fitted(place: dict[str, Any], data: Path, model: str, values: dict[str, Any], resume: str = "") -> dict[str, Any]:
    """Train a model, and tell all that the ranks of a group must agree on, and the pairs and generators they must not."""
    config = HNLMConfig(model, "tiny", config_dict={**settings(data, model, **values), **place})
    loaders = prepare(config)
    built = build_model(config, loaders[0])
    trainer = watching(get_trainer(config["MODEL_TYPE"], model))(config, built)
    if resume:
        trainer.resume_checkpoint(resume)
    pairs: list[tuple[int, int]] = []
    digests: list[str] = []
    train_epoch, exchange = trainer._train_epoch, built.calculate_loss

    def watched_loss(interaction: Any) -> Any:
        pairs.extend(zip(interaction["user_id"].tolist(), interaction["item_id"].tolist(), strict=True))
        return exchange(interaction)

    def watched_epoch(*args: Any, **kwargs: Any) -> Any:
        pairs.clear()
        loss = train_epoch(*args, **kwargs)
        digests.append(digest(built))
        return loss

    head = getattr(built, "hnlm", None)
    generator = bytes(head.generator.get_state().numpy()) if head is not None else b""
    built.calculate_loss, trainer._train_epoch = watched_loss, watched_epoch
    best, _ = trainer.fit(loaders[0], loaders[1], show_progress=False)
    test = trainer.evaluate(loaders[2], show_progress=False)
    return {
        "agreed": {
            "digests": digests, "best": best, "test": dict(test), "losses": trainer.train_loss_dict,
            "checkpoint": trainer.saved_model_file, "best_epoch": trainer.best_epoch,
            "statistics": trainer.negative_statistics, "batch": (trainer.config["world_size"], len(loaders[0])),
        },
        "pairs": pairs,
        "generator": generator,
        "split": len(loaders[0]._dataset),
        "weights": {name: weight.detach().clone() for name, weight in built.named_parameters()},
    }  # fmt: skip


def train_all(
    rank: int, place: dict[str, Any], data: Path, runs: dict[str, tuple[str, dict[str, Any]]]
) -> dict[str, dict[str, Any]]:
    """Several runs in one group, one after the other."""
    return {name: fitted(place, data, model, values) for name, (model, values) in runs.items()}


def evaluate_checkpoint(
    rank: int, place: dict[str, Any], data: Path, checkpoint: str, settings_: list[dict[str, Any]]
) -> list[dict[str, float]]:
    """Test metrics of a checkpoint under several evaluation settings."""
    results = []
    for values in settings_:
        config = HNLMConfig("BPR", "tiny", config_dict={**settings(data, "BPR", neg_sampler="dns", **values), **place})
        loaders = prepare(config)
        trainer = watching(get_trainer(config["MODEL_TYPE"], "BPR"))(config, build_model(config, loaders[0]))
        trainer.eval_collector.data_collect(loaders[0])
        results.append(dict(trainer.evaluate(loaders[2], model_file=checkpoint, show_progress=False)))
    return results


def train_and_evaluate(rank: int, place: dict[str, Any], data: Path, runs: Any, checkpoint: str, evals: Any) -> Any:
    """All that one group can answer, since starting one takes seconds."""
    trained = train_all(rank, place, data, runs)
    resumed = fitted(place, data, "BPR", {**runs["dns"][1], "epochs": 4}, trained["dns"]["agreed"]["checkpoint"])
    return trained, resumed, evaluate_checkpoint(rank, place, data, checkpoint, evals)


def wait_for_the_first(rank: int, place: dict[str, Any], data: Path, ending: str) -> str:
    """What the ranks learn when the first one's work ends well, with an error, or with the process."""
    config = HNLMConfig("BPR", "tiny", config_dict={**settings(data, "BPR"), **place})

    def work() -> None:
        time.sleep(0.5)
        if ending == "error":
            raise FileNotFoundError("no such profile; write it")
        if ending == "bug":
            raise ZeroDivisionError("by nought")
        if ending == "exit":
            os._exit(0)
        Path("built").write_text("whole")

    try:
        on_first_rank(config, work)
    except (FileNotFoundError, ZeroDivisionError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return Path("built").read_text() + str(config["group_rank"])


def all_endings(rank: int, place: dict[str, Any], data: Path) -> None:
    """The endings one after the other; the last one takes the first process with it.

    The other one leaves at once, since torch may abort when it takes down a group with a dead member.
    """
    wait = functools.partial(wait_for_the_first, rank, place, data)
    told = [wait("well"), wait("error"), wait("bug")]
    if rank == 0:
        (Path("ranks") / "0").write_bytes(pickle.dumps(told))
    told.append(wait("exit"))
    (Path("ranks") / str(rank)).write_bytes(pickle.dumps(told))
    os._exit(0)
