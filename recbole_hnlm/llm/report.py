"""What a build did, as numbers and as a short table."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from recbole_hnlm.artefacts.manifest import Manifest
from recbole_hnlm.llm.figures import figures


@dataclass(frozen=True)
class BuildReport:
    """Outcome of :func:`~recbole_hnlm.llm.build.build_artefacts`.

    Attributes:
        directory: Where the artefact lies.
        manifest: Its manifest.
        duplicates: Repeated training pairs that were left out.
        items_without_text: Items of the catalogue without a profile.
        texts_encoded: Texts that the encoder saw in this build.
        texts_cached: Distinct texts whose vectors were there already.
        seconds: Wall time.
    """

    directory: Path
    manifest: Manifest
    duplicates: int
    items_without_text: int
    texts_encoded: int
    texts_cached: int
    seconds: float

    @property
    def without_text(self) -> int:
        """Training pairs none of whose hard negatives has a text vector."""
        return self.manifest.pairs - self.manifest.covered_pairs

    def table(self) -> str:
        """The numbers, one a line."""
        manifest = self.manifest
        rows = [
            ("training pairs", f"{manifest.pairs:,}"),
            ("repeated pairs left out", f"{self.duplicates:,}"),
            ("pairs with a vector", f"{manifest.covered_pairs:,}"),
            ("pairs without text", f"{self.without_text:,}"),
            ("coverage", f"{manifest.coverage:.2%}"),
            (
                "items with / without text",
                f"{manifest.items_with_text:,} / {self.items_without_text:,}",
            ),
            ("texts encoded / from cache", f"{self.texts_encoded:,} / {self.texts_cached:,}"),
            ("vectors", f"{manifest.rows:,} x {manifest.width}"),
            ("encoder", manifest.provenance.encoder),
            ("seconds", f"{self.seconds:.1f}"),
        ]
        return figures(rows)


@dataclass
class Stages:
    """Wall time of each stage of a build, in the order in which they ran.

    Attributes:
        seconds: Stage -> seconds.
    """

    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what is done within as the stage ``name``."""
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def table(self) -> str:
        """The seconds, a stage a line."""
        rows = [*self.seconds.items(), ("all", sum(self.seconds.values()))]
        return figures((name, f"{seconds:.1f} s") for name, seconds in rows)
