"""Whether one row is better than another: paired tests over the same seeds, corrected for how many are made."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

_ROUNDING = 1e-12  # of the larger figure: float64 has 16 digits
_TIED = 2.5e-6  # figures have 6 decimals, so that equal differences are told up to 2e-6 apart


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and sample standard deviation; None for the latter with fewer than two values."""
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()), float(array.std(ddof=1)) if array.size > 1 else None


@dataclass(frozen=True)
class Difference:
    """One row against another.

    Attributes:
        percent: Relative difference of the means in percent, over the common seeds.
        seeds: Common seeds.
        p_t: Two-sided p of the paired t-test; None with fewer than two seeds, and where the differences are all the
            same but for rounding, so that nothing tells how they would vary.
        p_resampled: The same where every seed splits the same pairs anew, so that runs share most of their training
            pairs: the t-test with the variance of Nadeau and Bengio (2003). None where ``p_t`` is, and where nobody
            knows how many pairs are held out.
        p_wilcoxon: Two-sided p of the Wilcoxon signed-rank test, with ties where figures of 6 decimals cannot tell
            sizes apart; exact to 13 seeds, from there on by the normal approximation where there are ties, as scipy
            does it; None with fewer than two seeds, and where seeds change neither row: copies of a run
            are no further evidence.
    """

    percent: float
    seeds: int
    p_t: float | None
    p_resampled: float | None
    p_wilcoxon: float | None


def difference(
    ours: Mapping[int, float], theirs: Mapping[int, float], held_out: float | None = 0.0
) -> Difference | None:
    """Compare two rows seed by seed; None where they have no seed in common.

    Args:
        ours: Metric by seed.
        theirs: Metric of the row compared with, by seed.
        held_out: Test pairs for each training pair where seeds split anew; 0 for one split, None if unknown.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    a, b = (np.array([row[seed] for seed in seeds], dtype=np.float64) for row in (ours, theirs))
    percent = 100 * (a.mean() / b.mean() - 1) if b.mean() else float("nan")
    if len(seeds) < 2:
        return Difference(float(percent), len(seeds), None, None, None)
    if np.all(a == b):
        return Difference(float(percent), len(seeds), 1.0, None if held_out is None else 1.0, 1.0)
    rounding = _ROUNDING * max(np.abs(a).max(), np.abs(b).max())
    same = np.ptp(a - b) <= rounding
    copies = np.ptp(a) <= rounding and np.ptp(b) <= rounding
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of figures that are no numbers
        p_t = None if same else _number(stats.ttest_rel(a, b).pvalue)
        p_resampled = None if same or held_out is None else _number(_resampled_p(a - b, held_out))
        p_wilcoxon = None if copies else _number(stats.wilcoxon(_with_ties(a - b, rounding)).pvalue)
    return Difference(float(percent), len(seeds), p_t, p_resampled, p_wilcoxon)


def _resampled_p(differences: NDArray[np.float64], held_out: float) -> float:
    """p of the t-test whose variance counts what training sets share: ``1 / seeds + held_out`` for ``1 / seeds``."""
    spread = differences.var(ddof=1) * (1 / differences.size + held_out)
    return float(2 * stats.t.sf(abs(differences.mean()) / math.sqrt(spread), differences.size - 1))


def _with_ties(differences: NDArray[np.float64], rounding: float) -> NDArray[np.float64]:
    """The differences, those of one size made equal; their ranks would otherwise follow how figures were rounded.

    A size reaches :data:`_TIED` up from the smallest that has it: on a fixed grid equal ones could fall apart. Equal
    figures stay equal when rounded, so nothing beyond float64's own ``rounding`` becomes 0.
    """
    sizes = np.abs(differences)
    sizes[sizes <= rounding] = 0.0
    smallest = 0.0
    for place in np.argsort(sizes):
        if smallest == 0.0 or not sizes[place] - smallest <= _TIED:  # a difference that is no number stays so
            smallest = sizes[place]
        sizes[place] = smallest
    return np.sign(differences) * sizes


def _number(p: Any) -> float | None:
    return None if math.isnan(float(p)) else float(p)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction: p-values that hold for all tests together; None and nan become None and count for nothing.

    The i-th smallest of m is multiplied by m - i, made no smaller than the one before it, and cut at 1.
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None and not math.isnan(p))
    corrected: list[float | None] = [None] * len(p_values)
    least = 0.0
    for rank, (p, place) in enumerate(known):
        least = max(least, min(1.0, (len(known) - rank) * p))
        corrected[place] = least
    return corrected


def least_wilcoxon(seeds: int) -> float:
    """The smallest two-sided p that the Wilcoxon test can give with so many pairs."""
    return float(2.0 ** (1 - seeds))
