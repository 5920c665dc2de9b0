"""How much of the language model's vector belongs in a negative."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from typing import Any

from recbole_hnlm.compare.analyses.base import Analysis, Entry, defaults_of_text

_SHARES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


class Alpha(Analysis):
    """``hnlm_alpha`` from 0 to 0.8."""

    title = "Share of text in the negative"
    axis = "alpha"

    def add_arguments(self, parser: ArgumentParser) -> None:
        """``--alphas``."""
        parser.add_argument("--alphas", nargs="+", type=float, default=list(_SHARES), help="default: 0 to 0.8")

    def entries(self, args: Namespace, shared: Mapping[str, Any]) -> list[Entry]:
        """hnlm with every share."""
        return [
            Entry("hnlm", f"alpha {alpha:g}", {**defaults_of_text(shared), "hnlm_alpha": alpha}, alpha)
            for alpha in args.alphas
        ]
