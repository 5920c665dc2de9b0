"""Hands the sampler ``semantic`` the grounded negatives of a run's training pairs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from recbole_hnlm.artefacts.grounded import read_grounded
from recbole_hnlm.models.text import artefact_directory, hash_of_training_pairs
from recbole_hnlm.options import HNLMOptions
from recbole_hnlm.run_options import RunOptions
from recbole_hnlm.samplers import NegativeSampler
from recbole_hnlm.samplers.semantic import GroundedTable, SemanticOptions, SemanticSampler

logger = logging.getLogger(__name__)


def grounded_directory(config: Any, run: RunOptions, options: SemanticOptions) -> Path:
    """Where the grounded negatives of a run are, or would be: as told, else among its artefacts."""
    return Path(options.folder) if options.folder else artefact_directory(config, run.hnlm or HNLMOptions())


def attach_grounded(sampler: NegativeSampler | None, config: Any, dataset: Any, run: RunOptions) -> None:
    """Give a :class:`SemanticSampler` its table; does nothing to any other sampler.

    Args:
        sampler: The sampler of a model under training.
        config: RecBole's configuration.
        dataset: The training split.
        run: The run's options.

    Raises:
        FileNotFoundError: If there is no ``NAME.neg_text``; the message says how to build it.
        ValueError: If it is damaged, belongs to another split, or covers too few pairs.
    """
    if not isinstance(sampler, SemanticSampler):
        return
    options, name = run.sampler_options, str(config["dataset"])
    directory = grounded_directory(config, run, options)
    tokens = dataset.field2id_token
    users, items = tokens[dataset.uid_field], tokens[dataset.iid_field]
    found = read_grounded(directory, name, users, items, pairs_hash=hash_of_training_pairs(dataset))
    if found.coverage < options.min_coverage:
        raise ValueError(
            f"only {found.coverage:.1%} of the training pairs have a grounded negative in {directory}, "
            f"neg_sampler_min_coverage asks for {options.min_coverage:.1%}; ground anew or lower it"
        )
    pairs = torch.from_numpy(found.users), torch.from_numpy(found.items)
    sampler.use(GroundedTable(*pairs, torch.from_numpy(found.negatives), sampler.interactions))
    logger.info("grounded negatives cover %.1f %% of the training pairs, from %s", 100 * found.coverage, directory)
