"""What fine-tuning and transfer share: the split, the run itself, and what tells whether it is done already."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recbole_hnlm.llm.hybrid.adapter import AdapterInfo, read_info
from recbole_hnlm.llm.hybrid.encoder import HybridEncoder
from recbole_hnlm.llm.hybrid.evaluation import HeldOutPairs, Retrieval
from recbole_hnlm.llm.hybrid.loading import locate
from recbole_hnlm.llm.hybrid.pairs import PairTexts, split_pairs
from recbole_hnlm.llm.hybrid.prompts import PromptBuilder, PromptTemplate
from recbole_hnlm.llm.hybrid.report import AdapterReport
from recbole_hnlm.llm.sharding import is_first, is_sharded, wait_for_all
from recbole_hnlm.options.hybrid import BaseSettings, FineTuneSettings

logger = logging.getLogger(__name__)
_VERSION = 2  # of what tuning computes from the same settings; raised with the code
Places = Sequence[NDArray[np.int64]]
"""Pairs of each dataset."""


def run_tuning(
    model: HybridEncoder,
    builders: Sequence[PromptBuilder],
    split: tuple[Places, Places],
    settings: FineTuneSettings,
    folder: Path | None,
) -> AdapterReport:
    """Tune those weights of ``model`` that may be, and measure it before and after.

    Args:
        model: What is tuned.
        builders: Of each dataset.
        split: What :func:`split_sources` gave.
        settings: Of the tuning.
        folder: Where checkpoints go; None tunes nothing and only measures.
    """
    from recbole_hnlm.llm.hybrid.trainer import ContrastiveTrainer, Plan, Validation

    tuned, held = split
    generator = np.random.default_rng((settings.seed, 1))
    parts = [HeldOutPairs(builder, places, generator) for builder, places in zip(builders, held, strict=True)]
    validation = Validation(parts, settings.temperature)
    truncated = [builder.truncated(places) for builder, places in zip(builders, tuned, strict=True)]
    share = float(np.average(truncated, weights=[len(places) for places in tuned]))
    count, steps = (sum(map(len, tuned)), 0) if folder else (0, 0)
    logger.info("tuning on %d pairs; %.2f%% of the prompts are cut", count, 100 * share)
    untuned = validation.measure(model)
    if folder is not None:
        steps = ContrastiveTrainer(model, Plan(builders, tuned, settings), validation, settings, folder).tune(folder)
        model.eval()
        for builder in builders:
            model.projector(builder.pairs.name).settle(builder.pairs)
    return AdapterReport(
        directory=Path(),
        pairs=count,
        held_out=untuned.pairs,
        steps=steps,
        truncated=share,
        chance=1 / untuned.choices,
        untuned=untuned,
        tuned=validation.measure(model),
        zeroed=validation.measure(model, "zero"),
        shuffled=validation.measure(model, "shuffled"),
        seconds=0.0,
    )


def split_sources(sources: Sequence[PairTexts], settings: FineTuneSettings) -> tuple[Places, Places]:
    """Pairs of each dataset to tune on and to validate on, as many as the settings allow in all."""
    generator = np.random.default_rng((settings.seed, 0))
    split = [split_pairs(pairs, settings.held_out, settings.held_out_by, generator) for pairs in sources]
    tuned = _at_most(settings.pairs, [part for part, _ in split], generator)
    return tuned, _at_most(settings.validation_pairs, [part for _, part in split], generator)


def _at_most(count: int, places: Places, generator: np.random.Generator) -> Places:
    """A draw of ``count`` pairs from all datasets together, at least one of each."""
    total = sum(map(len, places))
    if total <= count:
        return places
    kept = [max(round(len(mine) * count / total), 1) for mine in places]
    return [np.sort(generator.choice(mine, n, replace=False)) for mine, n in zip(places, kept, strict=True)]


@contextlib.contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Seed the global generators, which transformers draws from, and put them back as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def by_the_first(output: Path, tune: Callable[[], AdapterReport]) -> AdapterReport:
    """What ``tune`` returns, which writes an adapter to ``output``; in a group one process tunes and the others wait.

    Raises:
        ShardError: If another process of the group stopped.
    """
    if not is_sharded():
        with _alone():  # a group that trains may be around, of which this process alone builds
            return tune()
    if is_first():
        with _alone():
            tune()
    wait_for_all(output.parent)
    return recorded(output, read_info(output))


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Hide the group from transformers' Trainer, which would wait for the others to train along."""
    hidden = {key: os.environ.pop(key) for key in ("WORLD_SIZE", "RANK", "LOCAL_RANK") if key in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def checkpoints(output: Path) -> Path:
    """Folder of what is kept until the adapter at ``output`` is done."""
    return output.with_name(f"{output.name}-checkpoints")


def tuning_fingerprint(
    sources: Sequence[PairTexts],
    base: BaseSettings,
    settings: FineTuneSettings,
    template: PromptTemplate,
    more: str = "",
) -> str:
    """sha256 over everything that decides what comes out, ``more`` included; not where it runs and what it shows."""
    shown = {"show_progress", "tensorboard"}
    source, checksum = locate(base.base)
    made_of: dict[str, Any] = {
        "version": _VERSION,
        "settings": {key: value for key, value in asdict(settings).items() if key not in shown},
        "base": {key: value for key, value in asdict(base).items() if key not in ("device", "base")},
        "weights": checksum or source,
        "template": template.digest,
        "more": more,
    }
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode())
    for pairs in sources:
        digest.update(f"{pairs.name} {pairs.digest()}".encode())
        digest.update(np.ascontiguousarray(pairs.hard_item_of_pair, dtype="<i8").tobytes())
    return digest.hexdigest()


def recorded(output: Path, info: AdapterInfo) -> AdapterReport:
    """The report of a tuning that is done."""
    figures = dict(info.figures)
    for key in ("untuned", "tuned", "zeroed", "shuffled"):
        figures[key] = Retrieval(**figures[key])
    return AdapterReport(directory=output, **figures)
