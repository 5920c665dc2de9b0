"""Requests that a language model left without a usable answer: kept in what is built, and told at every run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from recbole_hnlm.artefacts import Manifest
from recbole_hnlm.llm.stage_counts import StageCounts
from recbole_hnlm.run_options import RunOptions

logger = logging.getLogger(__name__)


def unanswered_of(stages: Sequence[StageCounts]) -> dict[str, Any]:
    """``{"unanswered": ...}`` for the manifest of artefacts, of the stages with requests that brought no answer."""
    counted = {
        one.stage: {"requests": one.requests, "failed": one.failed, "lost": one.lost} for one in stages if one.failed
    }
    return {"unanswered": counted} if counted else {}


def tell_unanswered(manifest: Manifest) -> None:
    """Warn where a language model has left requests without a usable answer, at the build and at every run."""
    stages: dict[str, dict[str, int]] = manifest.provenance.settings.get("unanswered", {})
    if stages:
        failed = ", ".join(f"{counts['failed']:,} of {counts['requests']:,} {name}" for name, counts in stages.items())
        lost = sum(counts["lost"] for counts in stages.values())
        again = f"; --hnlm_rebuild=True asks {lost:,} of them again, and what their answers change" if lost else ""
        logger.warning(
            "the language model gave no usable answer to %s: template profiles stand in for profiles, and pairs go "
            "without negatives%s",
            *(failed, again),
        )


def tell_lost(stage: str, figures: Mapping[str, Any]) -> None:
    """Warn, at the build and at every run, of requests that brought nothing that is kept."""
    if figures.get("lost"):
        logger.warning(
            "%s of %s requests for %s were lost, and who they were about goes without; --hnlm_rebuild=True asks them "
            "again",
            *(figures["lost"], figures["requests"], stage),
        )


def to_ask_again(run: RunOptions, figures: Mapping[str, Any]) -> bool:
    """Whether a run asks once more for what a server has lost of a stage; what was answered is kept.

    Args:
        run: The run's options.
        figures: What became of the stage's requests.
    """
    return run.hnlm is not None and run.hnlm.rebuild and bool(figures.get("lost"))
