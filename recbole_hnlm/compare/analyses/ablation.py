"""What every part of hnlm is worth: one row without each of them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping
from typing import Any

from recbole_hnlm.compare.analyses.base import NO_ALIGNMENT, NO_TEXT, Analysis, Entry, defaults_of_text

_WITHOUT: dict[str, dict[str, Any]] = {
    "all": {},
    "without alignment": NO_ALIGNMENT,
    "without mixing": {"hnlm_alpha": 0.0},
    "without text start": {"hnlm_init": "random"},
    "id negatives alone": NO_TEXT,
}


class Ablation(Analysis):
    """hnlm as configured, and without fine-tuning, alignment, mixing and the start from text."""

    title = "Ablation"

    def __init__(self) -> None:
        self._tuned = True

    def entries(self, args: Namespace, shared: Mapping[str, Any]) -> list[Entry]:
        """A row for all of it, and one without each part."""
        self._tuned = shared.get("llm_negatives") == "hybrid"
        rows = dict(_WITHOUT)
        if self._tuned:
            rows["without fine-tuning"] = {"llm_tune_epochs": 0}
        return [Entry(name, "", {**defaults_of_text(shared), **values}) for name, values in rows.items()]

    def notes(self) -> Iterator[str]:
        """Which part these settings do not have."""
        if not self._tuned:
            yield "These settings tune no language model; --llm_negatives=hybrid does, and adds the row without it."
