"""What an adapter that was tuned on another dataset is worth on this one."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_hnlm.compare.analyses.base import Analysis, Entry, defaults_of_text


class Transfer(Analysis):
    """Hybrid negatives by an adapter of another dataset, beside one tuned here, none, and no text in negatives."""

    title = "Transfer to an unseen dataset"

    def add_arguments(self, parser: ArgumentParser) -> None:
        """``--adapter``."""
        parser.add_argument("--adapter", default=None, help="folder of an adapter that was tuned on another dataset")

    def entries(self, args: Namespace, shared: Mapping[str, Any]) -> list[Entry]:
        """Transferred with its projector refitted and with mean soft tokens, tuned here, untuned, without mixing.

        Raises:
            ValueError: If no adapter is named, or it is not there.
        """
        if args.adapter is None or not (Path(args.adapter) / "hybrid.json").is_file():
            raise ValueError(
                f"--adapter={args.adapter} is no folder of an adapter; make one by recbole-hnlm build --dataset=OTHER "
                "--llm_negatives=hybrid, which keeps it in llm_cache_dir/hybrid/adapter-OTHER-..."
            )
        hybrid = {**defaults_of_text(shared), "llm_negatives": "hybrid"}
        adapter = str(Path(args.adapter).resolve())
        rows: dict[str, dict[str, Any]] = {
            "transferred, refitted": {"llm_adapter": adapter, "llm_transfer": "refit"},
            "transferred, mean soft tokens": {"llm_adapter": adapter, "llm_transfer": "mean"},
            "tuned here": {},
            "untuned": {"llm_tune_epochs": 0},
        }
        made = [Entry(name, "", {**hybrid, **values}) for name, values in rows.items()]
        return [*made, Entry("no text in negatives", "", {**defaults_of_text(shared), "hnlm_alpha": 0.0})]
