"""The judge of ``neg_sampler: dtl``: joins kept trees and scores to a chat model, which re-ranks leading candidates."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from recbole_hnlm.building.chat import chat_backend
from recbole_hnlm.llm.chat import ChatBackend
from recbole_hnlm.llm.judging import MOST_JUDGED, JudgedUser, judge, place_of
from recbole_hnlm.run_options import RunOptions, cache_directory
from recbole_hnlm.samplers import TrainingInteractions
from recbole_hnlm.trees.build import DualTrees, pairs_of


def judged_by_model(config: Any, run: RunOptions, seen: TrainingInteractions, trees: DualTrees) -> DualTrees:
    """The same trees with scores re-ranked by the run's chat model; see :func:`rerank`."""
    backend = chat_backend(config, run, cache_directory(run))
    return rerank(trees, seen, backend, show_progress=bool(config["show_progress"]))


def rerank(
    trees: DualTrees, seen: TrainingInteractions, backend: ChatBackend, *, show_progress: bool = False
) -> DualTrees:
    """Each user's 20 highest scores go to the candidates that the model takes for liked first, in its order.

    The scores themselves stay what calibration made them; only who has which changes, within a user. A user without a
    usable answer keeps the rule's.

    Args:
        trees: Kept by the rule.
        seen: The training pairs.
        backend: The model.
        show_progress: Whether to show a bar.
    """
    users, items = pairs_of(seen)
    places = np.array([place_of(*paths) for paths in zip(trees.collaborative, trees.semantic, strict=True)])
    order = np.lexsort((trees.items, -trees.scores, trees.users))  # by user, best first
    owners = np.unique(trees.users)
    starts, ends = (np.searchsorted(trees.users[order], owners, side=side) for side in ("left", "right"))
    leading = [order[start : min(start + MOST_JUDGED, end)] for start, end in zip(starts, ends, strict=True)]
    bounds = [np.searchsorted(users, owners, side=side) for side in ("left", "right")]  # pairs stand by user
    told = [
        JudgedUser(places[items[first:last]].tolist(), places[trees.items[mine]].tolist())
        for mine, first, last in zip(leading, *bounds, strict=True)
    ]
    verdicts, figures = judge(backend, told, show_progress=show_progress)
    scores = trees.scores.copy()
    for mine, liked in zip(leading, verdicts, strict=True):
        if liked:
            rest = [place for place in range(len(mine)) if place not in set(liked)]
            scores[mine[[*liked, *rest]]] = trees.scores[mine]
    return dataclasses.replace(trees, scores=scores, report={**trees.report, "judge": dict(figures)})
