"""A guard between drawing and choosing: candidates that look like positives are exchanged for others.

The knobs are those of sentence-transformers' ``mine_hard_negatives``. Shapes: ``B`` pairs, ``C`` candidates per pair,
``R`` pairs with a refused candidate, ``S`` spare candidates of such a pair.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from recbole_hnlm.options.guard import GuardOptions
from recbole_hnlm.samplers.base import EmbeddingView
from recbole_hnlm.samplers.candidates import CandidateDrawer
from recbole_hnlm.samplers.false_negative_scores import FalseNegativeScores


class GuardScore(Protocol):
    """What a guard judges candidates, and their positive, by: higher is more suspicious."""

    def __call__(self, users: Tensor, items: Tensor, view: EmbeddingView) -> Tensor:
        """Scores without gradient, ``(B,), (B, C) -> (B, C)``; -inf for items that it cannot judge."""


def model_score(users: Tensor, items: Tensor, view: EmbeddingView) -> Tensor:
    """The score of the model under training."""
    return view.score(users, items)


class TreeScore:
    """Dual-tree scores, as a guard asks for them; items without a score have 0.

    Args:
        scores: Each user's leading candidates, scored before training.
    """

    def __init__(self, scores: FalseNegativeScores) -> None:
        self.scores = scores

    def __call__(self, users: Tensor, items: Tensor, view: EmbeddingView) -> Tensor:
        """The table's scores; the model is not asked."""
        return self.scores.of(users, items)


class _ScoredView:
    """A view that has the scores of one batch's candidates already."""

    def __init__(self, view: EmbeddingView, items: Tensor, scores: Tensor) -> None:
        self._view = view
        self._items = items
        self._scores = scores

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        return self._scores if items is self._items else self._view.score(users, items)

    def score_hop(self, hop: int, users: Tensor, items: Tensor) -> Tensor:
        one = self._view.n_hops == 1  # its scores are then the hop's
        return self.score(users, items) if one else self._view.score_hop(hop, users, items)


class CandidateGuard:
    """Exchanges refused candidates for spare ones, from a generator of its own.

    As long as nothing is refused, nothing is drawn, so a run in which every candidate passes has the draws of a run
    without a guard. Survivors keep the distribution of the drawer, conditioned on passing.

    Args:
        options: The limits.
        drawer: Where spare candidates come from.
        score: What candidates are judged by.
    """

    def __init__(self, options: GuardOptions, drawer: CandidateDrawer, score: GuardScore) -> None:
        self.options = options
        self.drawer = drawer
        self.score = score
        self.last: dict[str, Tensor] = {}
        """Scalars of the last batch: share of candidates ``guard_refused``, of pairs ``guard_uncleaned``."""
        self._seen = 0, 0
        self._totals = torch.zeros(4, dtype=torch.int64, device=drawer.generator.device)

    def twin(self) -> CandidateGuard:
        """The same limits by the same scores, with draws and counts of its own."""
        drawer = self.drawer.with_generator(torch.Generator(device=self.drawer.generator.device))
        return CandidateGuard(self.options, drawer, self.score)

    @torch.no_grad()
    def clean(
        self, users: Tensor, positives: Tensor, candidates: Tensor, view: EmbeddingView
    ) -> tuple[Tensor, EmbeddingView]:
        """The candidates with refused ones exchanged, and a view that has their scores at hand where it can.

        A pair with a refused candidate keeps those that pass, in their order, followed by spare ones that pass. Where
        these are fewer than ``C`` they are repeated; repeating, unlike taking refused ones in, leaves nothing
        suspicious for a rule that looks for the highest score. Where none passes the lowest-scored takes every place.

        Args:
            users: User ids, shape ``(B,)``.
            positives: Positive items, likewise.
            candidates: Drawn candidates, shape ``(B, C)``; left unchanged.
            view: The model's embeddings.

        Returns:
            Candidates, shape ``(B, C)``, the same tensor where all of them pass; and the view for the rule.
        """
        scores = self.score(users, candidates, view)
        by_limit = self._above(scores, self.options.guard_max_score)
        margin = self._margin(users, positives, view)
        by_margin = self._above(scores, margin)
        refused = by_limit | by_margin
        rows = torch.nonzero(refused.any(dim=1)).flatten()
        short = uncleaned = refused.new_zeros((), dtype=torch.int64)
        if rows.numel():
            pool, pool_scores, passes = candidates[rows], scores[rows], ~refused[rows]
            if self.options.guard_spares:
                spares = self.drawer.draw(users[rows], self.options.guard_spares)
                found = self.score(users[rows], spares, view)  # (R, S)
                margin = margin[rows] if margin is not None else None
                refused_spares = self._above(found, self.options.guard_max_score) | self._above(found, margin)
                pool, pool_scores = torch.cat([pool, spares], dim=1), torch.cat([pool_scores, found], dim=1)
                passes = torch.cat([passes, ~refused_spares], dim=1)
            kept = _columns(passes, pool_scores, candidates.shape[1])
            candidates = candidates.index_copy(0, rows, pool.gather(1, kept))
            scores = scores.index_copy(0, rows, pool_scores.gather(1, kept))
            passing = passes.sum(dim=1)
            uncleaned = (passing == 0).sum()
            short = (passing < candidates.shape[1]).sum() - uncleaned
        self._count(refused, torch.stack([by_limit.sum(), by_margin.sum(), short, uncleaned]))
        return candidates, _ScoredView(view, candidates, scores) if self.score is model_score else view

    def _margin(self, users: Tensor, positives: Tensor, view: EmbeddingView) -> Tensor | None:
        """The limit below each positive's score, ``(B, 1)``; inf where the positive cannot be judged."""
        if self.options.guard_relative_margin is None:
            return None
        positive = self.score(users, positives.unsqueeze(1), view)
        below = positive - positive.abs() * self.options.guard_relative_margin
        return torch.where(positive.isfinite(), below, torch.inf)

    @staticmethod
    def _above(scores: Tensor, limit: Tensor | float | None) -> Tensor:
        return scores > (torch.inf if limit is None else limit)

    def _count(self, refused: Tensor, counts: Tensor) -> None:
        pairs, candidates = refused.shape[0], refused.numel()
        self._seen = self._seen[0] + pairs, self._seen[1] + candidates
        self._totals += counts
        self.last = {
            "guard_refused": refused.sum() / max(1, candidates),
            "guard_uncleaned": counts[-1] / max(1, pairs),
        }

    def table(self) -> str:
        """What was refused since the start, by which knob, and which one to relax; lines of a Markdown table."""
        options, counts = self.options, dict(zip(_COUNTED, (*self._seen, *self._totals.tolist()), strict=True))
        lines = [f"| neg_sampler_guard={options.guard} | count | share |", "| --- | --- | --- |"]
        whole = {"max_score": "candidates", "relative_margin": "candidates"}
        for name, label in _COUNTED.items():
            of = max(1, counts[whole.get(name, "pairs")])
            knob = getattr(options, f"guard_{name}", None)
            if name in whole and knob is None:
                continue
            share = "" if name in ("pairs", "candidates") else f"{100 * counts[name] / of:.2f} %"
            lines.append(f"| {label.format(knob)} | {counts[name]:,} | {share} |")
        return "\n".join([*lines, self._advice(counts)])

    def _advice(self, counts: dict[str, int]) -> str:
        by_limit = counts["max_score"] >= counts["relative_margin"] and self.options.guard_max_score is not None
        knob = "neg_sampler_guard_max_score" if by_limit else "neg_sampler_guard_relative_margin"
        if counts["uncleaned"] or counts["short"]:
            relaxed = f"{'raise' if by_limit else 'lower'} {knob}"
            return f"for more candidates that pass, {relaxed} or raise neg_sampler_guard_spares"
        if not counts["max_score"] and not counts["relative_margin"]:
            return f"nothing was refused; {'lower' if by_limit else 'raise'} {knob} to guard more"
        return "every pair had enough candidates that pass"


_COUNTED = {
    "pairs": "pairs",
    "candidates": "candidates of them",
    "max_score": "above max_score {}",
    "relative_margin": "above the positive less relative_margin {}",
    "short": "pairs filled up with what passed",
    "uncleaned": "pairs of which nothing passed",
}


def _columns(passes: Tensor, scores: Tensor, count: int) -> Tensor:
    """Which ``count`` columns each row keeps: those that pass in order and in turn, else the lowest-scored alone.

    Args:
        passes: Shape ``(R, C + S)``, bool.
        scores: Likewise.
        count: ``C``.

    Returns:
        Column numbers, shape ``(R, C)``.
    """
    width = passes.shape[1]
    columns = torch.arange(width, device=passes.device).expand_as(passes)
    place = torch.where(passes, passes.cumsum(dim=1) - 1, width)  # refused columns meet in one place after the others
    order = columns.new_zeros(len(passes), width + 1).scatter_(1, place, columns)
    passing = passes.sum(dim=1, keepdim=True)
    turn = columns[:1, :count] % passing.clamp_min(1)
    return torch.where(passing > 0, order.gather(1, turn), scores.argmin(dim=1, keepdim=True))
