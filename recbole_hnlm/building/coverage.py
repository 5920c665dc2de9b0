"""How many training pairs can have a hard negative at all, told before a teacher is trained or a model is asked."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from recbole_hnlm.llm import AtomicTable, select_text_fields
from recbole_hnlm.llm.corpus import Corpus
from recbole_hnlm.llm.grouping import tellable_pairs
from recbole_hnlm.run_options import RunOptions
from recbole_hnlm.samplers.semantic import SemanticOptions

logger = logging.getLogger(__name__)


def check_tellable(run: RunOptions, corpus: Corpus) -> None:
    """Refuse to ask a model for the negatives of so few pairs that training would refuse them.

    Args:
        run: The run's options.
        corpus: What the model is told of.

    Raises:
        ValueError: If fewer pairs have an item with text than the run's coverage asks for.
    """
    share = len(tellable_pairs(corpus)) / max(len(corpus.pair_items), 1)
    bare = sum(not name for name in corpus.names)
    for option, least in _asked_coverage(run).items():
        if share < least:
            raise ValueError(
                f"only {share:.1%} of the training pairs are of an item with text, so no more can have a hard negative "
                f"that a model names, and {option} asks for {least:.1%}; nothing was asked of the model: lower "
                f"{option}, or give the items a text ({bare:,} of {len(corpus.items):,} have none)"
            )


def warn_of_thin_text(run: RunOptions, dataset: Any, items: AtomicTable | None) -> None:
    """Warn where a teacher's hard negatives, if they have text as often as what users chose, are too few to train on.

    Args:
        run: The run's options.
        dataset: The training split.
        items: The dataset's ``.item`` file, or None.
    """
    fields = [] if items is None else list(select_text_fields(items, run.llm.text_fields))
    if items is None or not fields or run.hnlm is None or not run.hnlm.reads_pair_vectors:
        return
    told = items.frame.loc[(items.frame[fields] != "").any(axis=1), items.key]
    has_text = np.isin(np.asarray(dataset.field2id_token[dataset.iid_field], dtype=str), told.to_numpy(dtype=str))
    share = float(has_text[dataset.inter_feat[dataset.iid_field].numpy()].mean())
    if share < run.hnlm.min_coverage:
        logger.warning(
            "only %.1f %% of the training pairs are of an item with text (%d items have none); the teacher's hard "
            "negatives will hardly have it more often, and hnlm_min_coverage asks for %.1f %%, so that training may be "
            "refused once the teacher is trained: lower it, set hnlm_alpha: 0, or give the items a text",
            *(100 * share, int((~has_text[1:]).sum()), 100 * run.hnlm.min_coverage),
        )


def _asked_coverage(run: RunOptions) -> dict[str, float]:
    """The least coverage that the run's parts ask for, by the option's name."""
    asked = {}
    if run.hnlm is not None and run.hnlm.reads_pair_vectors:
        asked["hnlm_min_coverage"] = run.hnlm.min_coverage
    own = run.sampler_options
    if isinstance(own, SemanticOptions) and own.folder is None:
        asked["neg_sampler_min_coverage"] = own.min_coverage
    return asked
