"""Trees and scores for ``neg_sampler: dtl``, made before training where they are not kept yet."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from recbole_hnlm.building.teacher import teacher_class, teacher_tables
from recbole_hnlm.building.turns import make_in_turn
from recbole_hnlm.building.unanswered import tell_lost, to_ask_again
from recbole_hnlm.models.abilities import check_model
from recbole_hnlm.models.attaching import interactions_of
from recbole_hnlm.models.dual_tree import semantic_vectors, tree_options, trees_of
from recbole_hnlm.options import LLMOptions
from recbole_hnlm.run_options import RunOptions, cache_directory
from recbole_hnlm.samplers.dtl import DualTreeOptions
from recbole_hnlm.trees.build import DualTrees, TrainReference, TreeSource, build_dual_trees
from recbole_hnlm.trees.features import Reference
from recbole_hnlm.trees.store import read_dual_trees, write_dual_trees

logger = logging.getLogger(__name__)
_MODEL_KEY = "neg_sampler_reference_model"


def ensure_dual_trees(config: Any, run: RunOptions, train_data: Any) -> None:
    """Make trees and scores of the training split where ``dtl`` or a guard reads them and none that fit are kept.

    Of several processes the first one makes them. Validation and test are never looked at.

    Raises:
        ValueError: If the reference model is unfit, or no hidden pair can be told.
    """
    options = tree_options(run)
    if options is None:
        return
    dataset = train_data._dataset
    verdicts: dict[str, Any] = {}

    def absent() -> Callable[[], None] | None:
        seen, vectors = interactions_of(dataset), semantic_vectors(config, dataset, run)
        path, key = trees_of(config, seen, run, vectors, options)

        def make() -> None:
            check_model(config, dataset, run)
            source = TreeSource(seen, _trainer(config, run, dataset, options), vectors, options.tree_seed)
            trees = _by_rule(config, run, source, options)
            if options.judge == "llm":
                from recbole_hnlm.building.judge import judged_by_model

                judged = judged_by_model(config, run, seen, trees)
                write_dual_trees(path, judged, key)
                verdicts.update(judged.report["judge"])

        found = read_dual_trees(path, key)
        verdicts.update({} if found is None else found.report.get("judge", {}))
        return None if found is not None and not to_ask_again(run, verdicts) else make

    make_in_turn(config, run, absent)
    tell_lost("verdicts of the judge", verdicts)


def _by_rule(config: Any, run: RunOptions, source: TreeSource, options: DualTreeOptions) -> DualTrees:
    """Trees and scores by the rule, read back or made."""
    path, key = trees_of(config, source.seen, run, source.vectors, replace(options, judge="rule"))
    trees = read_dual_trees(path, key)
    if trees is None:
        told = "text vectors" if source.vectors is not None else "the reference model's item rows"
        logger.info("building dual trees of %s, semantic tree of %s", config["dataset"], told)
        trees = build_dual_trees(source)
        write_dual_trees(path, trees, key)
    return trees


def _trainer(config: Any, run: RunOptions, dataset: Any, options: DualTreeOptions) -> TrainReference:
    """Trains the reference model on some of the split's pairs, or reads it from the cache."""
    teacher = LLMOptions(
        teacher_model=options.reference_model, teacher_epochs=options.reference_epochs, seed=options.tree_seed
    )
    teacher_class(teacher, _MODEL_KEY)

    def train(users: np.ndarray, items: np.ndarray) -> Reference:
        part = only_pairs(dataset, users, items)
        return Reference(*teacher_tables(config, part, teacher, cache_directory(run), _MODEL_KEY))

    return train


def only_pairs(dataset: Any, users: np.ndarray, items: np.ndarray) -> Any:
    """The split with the rows of some of its pairs; itself where those are all."""
    feat, n_items = dataset.inter_feat, dataset.item_num
    keys = feat[dataset.uid_field].numpy() * n_items + feat[dataset.iid_field].numpy()
    kept = np.isin(keys, users * n_items + items)
    return dataset if kept.all() else dataset.copy(feat[np.flatnonzero(kept)])
