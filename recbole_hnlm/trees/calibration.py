"""False-negative scores: a logistic regression on hidden training pairs, judged on users it was not fitted on.

Shapes: ``U`` users, ``T`` candidates of a user, ``F`` features, ``E`` training pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

HIDDEN_SHARE = 0.1
_LEAST_PAIRS = 5  # users with fewer hide nothing, since little would be left to tell them by
PRECISION_AT = (1, 5, 10)

Floats = NDArray[np.float64]


def hidden_pairs(users: NDArray[np.int64], *, share: float = HIDDEN_SHARE, seed: int = 0) -> NDArray[np.bool_]:
    """Which training pairs are hidden for calibration: of each user with at least five a share, at least one.

    Args:
        users: Users of the distinct training pairs, shape ``(E,)``.
        share: Share of a user's pairs.
        seed: Seed of the choice.

    Returns:
        Bool, shape ``(E,)``.
    """
    order = np.lexsort((np.random.default_rng(seed).random(len(users)), users))
    sorted_users = users[order]
    rank = np.arange(len(users)) - np.searchsorted(sorted_users, sorted_users)
    counts = np.bincount(users)[sorted_users]
    quota = np.where(counts >= _LEAST_PAIRS, np.maximum(1, np.round(share * counts)), 0)
    hidden = np.zeros(len(users), dtype=bool)
    hidden[order] = rank < quota
    return hidden


@dataclass(frozen=True)
class Calibration:
    """A fitted score and what it is worth out of sample.

    Attributes:
        model: Scaler and logistic regression; features in, probabilities out.
        report: Figures: pairs, positives, AUC and precisions of the score and of the reference's rank alone.
    """

    model: Pipeline
    report: dict[str, Any]

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities that candidates are hidden positives, ``(..., F) -> (...)``."""
        flat = features.reshape(-1, features.shape[-1])
        return np.asarray(self.model.predict_proba(flat)[:, 1], dtype=np.float32).reshape(features.shape[:-1])

    def table(self) -> str:
        """The report as it is logged."""
        names = ("score", "reference rank")
        rows = [f"  {'':<16}" + "".join(f"{figure:>14}" for figure in self.report[names[0]])]
        rows += [f"  {name:<16}" + "".join(f"{value:>14.4f}" for value in self.report[name].values()) for name in names]
        return "\n".join(rows)


def calibrate(
    features: NDArray[np.float32], hidden: NDArray[np.bool_], present: NDArray[np.bool_], *, seed: int = 0
) -> Calibration:
    """Fit the probability that a candidate is a hidden training pair.

    Users fall into two halves at random; each half is scored by the regression fitted on the other, and the report is
    on these scores. The regression that is kept is fitted on all.

    Args:
        features: Of users' candidates, best first by the reference, shape ``(U, T, F)``; users who have hidden pairs.
        hidden: Which candidates were hidden, shape ``(U, T)``.
        present: Which places hold a candidate, shape ``(U, T)``.
        seed: Seed of the halves.

    Raises:
        ValueError: If a half has no hidden pair among its candidates, so that nothing can be learnt.
    """
    half = np.random.default_rng(seed).permutation(len(features)) % 2 == 0
    for side in (half, ~half):
        if not (hidden & present)[side].any():
            raise ValueError(
                "the reference model finds no hidden training pair among its leading candidates, so false negatives "
                "cannot be told; raise neg_sampler_reference_epochs, or use mixgcf"
            )
    scores = np.zeros(hidden.shape)
    for side in (half, ~half):
        fitted = Calibration(_fitted(features[~side], hidden[~side], present[~side]), {})
        scores[side] = fitted.score(features[side])
    rank = -np.broadcast_to(np.arange(hidden.shape[1], dtype=np.float64), hidden.shape)
    report = {
        "users": len(features),
        "candidates": int(present.sum()),
        "hidden among them": int((hidden & present).sum()),
        "score": judged(scores, hidden, present),
        "reference rank": judged(rank, hidden, present),
    }
    return Calibration(_fitted(features, hidden, present), report)


def judged(scores: Floats, hidden: NDArray[np.bool_], present: NDArray[np.bool_]) -> dict[str, float]:
    """AUC over all candidates, its mean over users, and the mean share of hidden ones among a user's k best.

    Users differ in how much of theirs is hidden, which the first AUC rewards a score for knowing; the second does not.
    """
    by_user = _user_aucs(scores, hidden & present, present)
    figures = {"AUC": float(roc_auc_score(hidden[present], scores[present])), "AUC by user": float(by_user.mean())}
    order = np.argsort(np.where(present, -scores, np.inf), axis=1, kind="stable")
    ranked = np.take_along_axis(hidden & present, order, axis=1)
    for k in PRECISION_AT:
        figures[f"precision@{k}"] = float(ranked[:, :k].sum() / (len(ranked) * k))
    return figures


def _user_aucs(scores: Floats, hidden: NDArray[np.bool_], present: NDArray[np.bool_]) -> Floats:
    """AUC of each user who has hidden and other candidates, from the sum of the hidden ones' ranks."""
    ranks = rankdata(np.where(present, scores, -np.inf), axis=1) - (~present).sum(axis=1, keepdims=True)
    positives, others = hidden.sum(axis=1), (present & ~hidden).sum(axis=1)
    above = (ranks * hidden).sum(axis=1) - positives * (positives + 1) / 2
    told = (positives > 0) & (others > 0)
    return np.asarray(above[told] / (positives * others)[told])


def _fitted(features: NDArray[np.float32], hidden: NDArray[np.bool_], present: NDArray[np.bool_]) -> Pipeline:
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return model.fit(features[present].astype(np.float64), hidden[present])
