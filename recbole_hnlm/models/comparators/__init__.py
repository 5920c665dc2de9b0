"""Published LLM-enhanced methods on the text vectors of ours: one file each, and who belongs to which options."""

from __future__ import annotations

from collections.abc import Callable

import torch

from recbole_hnlm.models.comparators.base import Comparator, Surroundings
from recbole_hnlm.models.comparators.kar import KAR
from recbole_hnlm.models.comparators.llmrec import LLMRec
from recbole_hnlm.models.comparators.reference import read_picks, read_reference
from recbole_hnlm.models.comparators.rlmrec_con import RLMRecCon
from recbole_hnlm.models.comparators.rlmrec_gen import RLMRecGen
from recbole_hnlm.models.item_space import ItemSpace
from recbole_hnlm.models.text import TextVectors
from recbole_hnlm.options.comparator import (
    ComparatorOptions,
    KAROptions,
    LLMRecOptions,
    RLMRecConOptions,
    RLMRecGenOptions,
)
from recbole_hnlm.run_options import RunOptions
from recbole_hnlm.samplers import TrainingInteractions

CLASSES: dict[type, type[Comparator]] = {
    RLMRecConOptions: RLMRecCon,
    RLMRecGenOptions: RLMRecGen,
    KAROptions: KAR,
    LLMRecOptions: LLMRec,
}
"""Options of a comparator -> the comparator."""


def comparator_of_run(
    run: RunOptions,
    text: TextVectors,
    row_width: Callable[[], int],
    space: ItemSpace,
    interactions: TrainingInteractions,
) -> Comparator | None:
    """The comparator of a run on the device of its interactions, or None where its weight takes it out.

    Args:
        run: The run's options, with a comparator.
        text: Its text vectors.
        row_width: Tells the width of the model's final item rows; asked only where there is a comparator to build.
        space: Where the model reads items.
        interactions: Training pairs.

    Raises:
        FileNotFoundError: If it reads the best items of a reference model, or what a chat model picks of them, and
            there are none.
    """
    options, best, picks = run.comparator, None, None
    assert options is not None
    if isinstance(options, (RLMRecConOptions, RLMRecGenOptions)) and options.weight == 0:
        return None
    if run.triples is not None:
        best = read_reference(run, interactions, run.triples.top_items)
        picks = read_picks(run, interactions, run.triples.top_items)
    around = Surroundings(text, row_width(), space.users, space.items, best, picks)
    built = build_comparator(options, around, run.seed)
    return built.to(interactions.device)


def build_comparator(options: ComparatorOptions, around: Surroundings, seed: int) -> Comparator:
    """The comparator of some options.

    Args:
        options: Its options.
        around: The model and the text.
        seed: Seed of its weights; global random state is left alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return CLASSES[type(options)](options, around)


__all__ = ["CLASSES", "Comparator", "Surroundings", "build_comparator", "comparator_of_run"]
