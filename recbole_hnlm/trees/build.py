"""Trees and scores of one training split, from first to last (DTL-NS, arXiv 2602.18249)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recbole_hnlm.samplers.interactions import TrainingInteractions
from recbole_hnlm.samplers.tree_codes import TreeCodes
from recbole_hnlm.trees.balanced import balanced_tree
from recbole_hnlm.trees.calibration import Calibration, calibrate, hidden_pairs
from recbole_hnlm.trees.features import Candidates, Reference, candidate_features, leading_candidates
from recbole_hnlm.trees.spectral import co_occurrence_vectors, unit

logger = logging.getLogger(__name__)

Ints = NDArray[np.int64]
Codes = NDArray[np.int8]
TrainReference = Callable[[Ints, Ints], Reference]
"""Trains the reference model on the pairs of these users and items, ids of RecBole's."""


@dataclass(frozen=True)
class TreeSource:
    """What trees and scores are made of.

    Attributes:
        seen: The training pairs, on the CPU.
        train: How the reference model is trained.
        vectors: Text vectors of the items, shape ``(n_items, S)``, or None for the reference model's item rows.
        seed: Seed of everything.
    """

    seen: TrainingInteractions
    train: TrainReference
    vectors: NDArray[np.float32] | None
    seed: int


@dataclass(frozen=True)
class DualTrees:
    """The result, as it is kept.

    Attributes:
        collaborative: Paths in the collaborative tree, shape ``(n_items, L)``.
        semantic: Paths in the semantic tree, likewise.
        users: Users of the scored pairs, shape ``(N,)``.
        items: Their items.
        scores: Probabilities to be a false negative, float32.
        report: How well hidden training pairs were told, for log and file.
    """

    collaborative: Codes
    semantic: Codes
    users: Ints
    items: Ints
    scores: NDArray[np.float32]
    report: dict[str, Any]


def build_dual_trees(source: TreeSource) -> DualTrees:
    """Calibrate on a tenth of each user's training pairs, hidden, then make trees and scores of all pairs.

    The reference model is trained twice: without the hidden pairs, to learn what tells them, and with all.

    Raises:
        ValueError: If no hidden pair is among the reference's candidates.
    """
    started = time.perf_counter()
    users, items = pairs_of(source.seen)
    hidden = hidden_pairs(users, seed=source.seed)
    if not hidden.any():
        raise ValueError("no user has five training pairs, so none can be hidden for calibration; use mixgcf")
    calibration = _calibrated(source, (users, items), hidden)
    logger.info("hidden training pairs among the reference's candidates\n%s", calibration.table())
    codes, candidates, features = _views(source, source.seen)
    present = candidates.present
    scores = torch.from_numpy(calibration.score(features.numpy()))
    seconds = time.perf_counter() - started
    logger.info("dual trees of %d levels, %d scored pairs, in %.1f s", codes[0].shape[1], int(present.sum()), seconds)
    owners = candidates.users.unsqueeze(1).expand_as(present)
    return DualTrees(
        *codes,
        owners[present].numpy(),
        candidates.items[present].numpy(),
        scores[present].numpy(),
        calibration.report,
    )


def pairs_of(seen: TrainingInteractions) -> tuple[Ints, Ints]:
    """Users and items of the distinct training pairs, in the order of both."""
    keys = seen.keys.cpu().numpy()
    return keys // seen.n_items, keys % seen.n_items


def _calibrated(source: TreeSource, pairs: tuple[Ints, Ints], hidden: NDArray[np.bool_]) -> Calibration:
    """The score, fitted on pairs that neither the reference model nor the trees have seen."""
    whole = source.seen
    seen, away = (
        TrainingInteractions(
            torch.from_numpy(pairs[0][part]), torch.from_numpy(pairs[1][part]), whole.n_users, whole.n_items
        )
        for part in (~hidden, hidden)
    )
    _, candidates, features = _views(source, seen)
    judged = away.user_counts[candidates.users] > 0
    found = away.contains(candidates.users.unsqueeze(1), candidates.items)
    tables = features[judged].numpy(), found[judged].numpy(), candidates.present[judged].numpy()
    calibration = calibrate(*tables, seed=source.seed)
    calibration.report.update({"hidden": int(hidden.sum()), "training pairs": len(hidden)})
    return calibration


def _views(source: TreeSource, seen: TrainingInteractions) -> tuple[tuple[Codes, Codes], Candidates, torch.Tensor]:
    """Both trees, the reference's candidates and their features, of ``seen`` alone."""
    users, items = pairs_of(seen)
    reference = source.train(users, items)
    vectors = source.vectors if source.vectors is not None else known_rows(reference.items, seen)
    spectral = co_occurrence_vectors(users, items, (seen.n_users, seen.n_items), seed=source.seed)
    codes = balanced_tree(spectral, seed=source.seed), balanced_tree(unit(vectors), seed=source.seed)
    trees = TreeCodes(torch.from_numpy(codes[0])), TreeCodes(torch.from_numpy(codes[1]))
    candidates = leading_candidates(reference, seen)
    return codes, candidates, candidate_features(candidates, seen, trees)


def known_rows(rows: NDArray[np.float32], seen: TrainingInteractions) -> NDArray[np.float32]:
    """Item rows of the reference model, zero for items without a training pair, of which it knows nothing."""
    return np.where(seen.item_counts.numpy()[:, None] > 0, rows, 0).astype(np.float32)
