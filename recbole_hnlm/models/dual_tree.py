"""Hands the sampler ``dtl`` the trees and scores that were made of a run's training pairs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from recbole_hnlm.models.guarding import judge_by
from recbole_hnlm.models.text import item_text_of
from recbole_hnlm.options.imports import known_by
from recbole_hnlm.run_options import RunOptions, cache_directory
from recbole_hnlm.samplers import NegativeSampler, TrainingInteractions
from recbole_hnlm.samplers.dtl import DualTreeOptions, DualTreeSynthesizer
from recbole_hnlm.samplers.guard import TreeScore
from recbole_hnlm.trees.store import JUDGE_TEMPLATE, fingerprint, read_dual_trees, store_path, tables_of

logger = logging.getLogger(__name__)


def semantic_vectors(config: Any, dataset: Any, run: RunOptions) -> np.ndarray | None:
    """Text vectors of the items, zero where there is none, or None where the run reads no text."""
    if run.hnlm is None or not run.hnlm.reads_text:
        return None
    vectors, mask = item_text_of(config, dataset, run.hnlm, run.seed)
    return np.where(mask.numpy()[:, None], vectors.numpy(), 0).astype(np.float32)


def tree_options(run: RunOptions) -> DualTreeOptions | None:
    """Options of trees and scores: the sampler's own, defaults for a guard that asks for them, or None."""
    if isinstance(run.sampler_options, DualTreeOptions):
        return run.sampler_options
    return DualTreeOptions() if run.guard.guard == "tree" else None


def trees_of(
    config: Any, seen: TrainingInteractions, run: RunOptions, vectors: np.ndarray | None, options: DualTreeOptions
) -> tuple[Path, str]:
    """File and fingerprint of a run's trees and scores, as the judge of ``options`` leaves them."""
    reference = options.reference_model
    extra: dict[str, Any] = {} if known_by(reference) == reference else {"model": known_by(reference)}
    if options.judge == "llm":
        assert run.chat is not None
        asked = run.chat.model
        extra["judge"] = [JUDGE_TEMPLATE, asked.chat_model, asked.chat_revision, asked.temperature]
    key = fingerprint(seen, options, vectors, extra)
    return store_path(cache_directory(run), str(config["dataset"]), key), key


def attach_dual_trees(sampler: NegativeSampler | None, config: Any, dataset: Any, run: RunOptions) -> None:
    """Give a :class:`DualTreeSynthesizer`, or a guard that judges by them, the tables; else does nothing.

    Args:
        sampler: The sampler of a model under training.
        config: RecBole's configuration.
        dataset: The training split.
        run: The run's options.

    Raises:
        FileNotFoundError: If they have not been made for this split and these options.
    """
    options = tree_options(run)
    if sampler is None or options is None:
        return
    vectors = semantic_vectors(config, dataset, run)
    path, key = trees_of(config, sampler.interactions, run, vectors, options)
    found = read_dual_trees(path, key)
    if found is None:
        raise FileNotFoundError(
            f"{path} with trees and scores of these training pairs and options is not there or damaged; train through "
            "run_recbole_hnlm or recbole_hnlm.register(), which make it"
        )
    tables = tables_of(found, sampler.interactions.n_items).to(sampler.interactions.device)
    logger.info("dual trees from %s: %d scored pairs", path, len(tables.scores))
    judge_by(sampler, run, "tree", TreeScore(tables.scores))
    if isinstance(sampler, DualTreeSynthesizer):
        sampler.use(tables)
        assert sampler.suspects is not None
        logger.info("%d pairs are suspected false negatives", len(sampler.suspects))
