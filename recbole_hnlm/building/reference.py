"""The frozen reference model whose best items LLMRec picks from: the teacher, trained on training pairs alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from recbole_hnlm.artefacts.storage import write_npy
from recbole_hnlm.building.teacher import teacher_class, teacher_tables
from recbole_hnlm.building.turns import make_in_turn
from recbole_hnlm.models.attaching import interactions_of
from recbole_hnlm.models.comparators.reference import best_unseen, reference_file
from recbole_hnlm.run_options import RunOptions, cache_directory

logger = logging.getLogger(__name__)


def ensure_reference(config: Any, run: RunOptions, train_data: Any) -> None:
    """Store every user's best items where the run's comparator reads them and they are not there yet.

    Args:
        config: RecBole's configuration of the run.
        run: The run's options.
        train_data: A loader over the training split.

    Raises:
        ValueError: If the reference model cannot teach, or no user has two unseen items.
    """
    options = run.triples
    if options is None:
        return
    dataset = train_data._dataset

    def absent() -> Callable[[], None] | None:
        interactions = interactions_of(dataset)
        path = reference_file(run, interactions, options.top_items)

        def make() -> None:
            teacher_class(run.llm)
            tables = teacher_tables(config, dataset, run.llm, cache_directory(run))
            users, items = (torch.from_numpy(table) for table in tables)
            best = best_unseen(users, items, interactions, options.top_items)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_npy(path, best.numpy(), np.int32)
            logger.info("the %d best items of %d users in %s", options.top_items, dataset.user_num - 1, path)

        return None if path.is_file() else make

    make_in_turn(config, run, absent)
