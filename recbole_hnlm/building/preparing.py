"""What a run needs beside its split, made before training where it is absent: artefacts, grounded items, trees."""

from __future__ import annotations

from typing import Any

from recbole_hnlm.building.artefacts import ensure_artefacts
from recbole_hnlm.building.dual_tree import ensure_dual_trees
from recbole_hnlm.building.grounded import ensure_grounded
from recbole_hnlm.building.picks import ensure_picks
from recbole_hnlm.building.reference import ensure_reference
from recbole_hnlm.models.dual_tree import tree_options
from recbole_hnlm.run_options import RunOptions
from recbole_hnlm.samplers.semantic import SemanticOptions


def needs_anything(run: RunOptions) -> bool:
    """Whether a run reads what :func:`make_what_is_absent` makes."""
    return run.reads_text or tree_options(run) is not None or isinstance(run.sampler_options, SemanticOptions)


def make_what_is_absent(config: Any, run: RunOptions, train_data: Any) -> None:
    """Build, from training pairs alone, whatever the run's sampler, text part, guard or comparator reads.

    Args:
        config: RecBole's configuration of the run.
        run: The run's options.
        train_data: A loader over the training split.

    Raises:
        ValueError: On options, data or artefacts that cannot work.
    """
    for ensure in (ensure_artefacts, ensure_grounded, ensure_reference, ensure_picks, ensure_dual_trees):
        ensure(config, run, train_data)
