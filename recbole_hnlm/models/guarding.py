"""The guard of a run's sampler, and its score by text.

Shapes: ``B`` pairs, ``C`` candidates per pair.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_hnlm.models.text import TextVectors
from recbole_hnlm.models.view import gathered_scores
from recbole_hnlm.run_options import RunOptions
from recbole_hnlm.samplers import EmbeddingView, NegativeSampler
from recbole_hnlm.samplers.guard import CandidateGuard, GuardScore, model_score

_GUARD_SEEDS = 7_368_787  # apart from the draws of the sampler and of other ranks


class TextScore:
    """Cosine of a user's text vector with an item's.

    Where the user's is the mean of the training items (``hnlm_user_text: items``), the positive is among them, so it
    scores somewhat higher than its text deserves.

    Args:
        text: Text vectors of the run.
    """

    def __init__(self, text: TextVectors) -> None:
        self.text = text

    @torch.no_grad()
    def __call__(self, users: Tensor, items: Tensor, view: EmbeddingView) -> Tensor:
        """Cosines, ``(B,), (B, C) -> (B, C)``; -inf where user or item has no text."""
        cosines = gathered_scores(self.text.users[users], self.text.items, items) * self.text.item_scale[items]
        known = self.text.item_mask[items] & self.text.user_mask[users].unsqueeze(1)
        return cosines.masked_fill_(~known, -torch.inf)


def _yet_to_come(users: Tensor, items: Tensor, view: EmbeddingView) -> Tensor:
    raise RuntimeError("the guard has nothing to judge by yet; train through run_recbole_hnlm, which makes it")


def attach_guard(sampler: NegativeSampler, run: RunOptions, seed: int) -> None:
    """Give a sampler the guard that the options ask for; one that judges by text or trees waits for :func:`judge_by`.

    Args:
        sampler: The sampler of a model under training.
        run: The run's options.
        seed: Seed of the sampler's own draws; the guard's are others.
    """
    if not run.guard.active:
        return
    score = model_score if run.guard.guard == "score" else _yet_to_come
    generator = torch.Generator(device=sampler.generator.device).manual_seed(seed + _GUARD_SEEDS)
    sampler.guard = CandidateGuard(run.guard, sampler.drawer.with_generator(generator), score)


def judge_by(sampler: NegativeSampler | None, run: RunOptions, kind: str, score: GuardScore) -> None:
    """Let the guard of a sampler judge by ``score`` where the options name its ``kind``, "text" or "tree"."""
    if sampler is not None and sampler.guard is not None and run.guard.guard == kind:
        sampler.guard.score = score
