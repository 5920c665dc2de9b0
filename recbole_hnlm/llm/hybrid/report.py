"""What fine-tuning and generation did, as numbers and as short tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recbole_hnlm.llm.figures import figures
from recbole_hnlm.llm.hybrid.evaluation import Retrieval


@dataclass(frozen=True)
class AdapterReport:
    """Outcome of :func:`~recbole_hnlm.llm.hybrid.tuning.fine_tune`.

    Attributes:
        directory: The adapter.
        pairs: Pairs that were tuned on.
        held_out: Pairs that validation looked at.
        steps: Changes of the weights.
        truncated: Share of the prompts of which a profile was cut.
        chance: Retrieval accuracy of a guess.
        untuned: What validation found before tuning.
        tuned: What it found of the adapter.
        zeroed: The same with zeros for soft tokens.
        shuffled: The same with the soft tokens of other pairs.
        seconds: Wall time of this run, validation included.
    """

    directory: Path
    pairs: int
    held_out: int
    steps: int
    truncated: float
    chance: float
    untuned: Retrieval
    tuned: Retrieval
    zeroed: Retrieval
    shuffled: Retrieval
    seconds: float

    def table(self) -> str:
        """The numbers, one a line."""
        rows = [
            ("pairs tuned on", f"{self.pairs:,}"),
            ("held-out pairs looked at", f"{self.held_out:,}"),
            ("steps", f"{self.steps:,}"),
            ("prompts cut", f"{self.truncated:.2%}"),
            ("retrieval accuracy: chance", f"{self.chance:.2%}"),
            ("  untuned", f"{self.untuned.accuracy:.2%}"),
            ("  tuned", f"{self.tuned.accuracy:.2%}"),
            ("  tuned, soft tokens zero", f"{self.zeroed.accuracy:.2%}"),
            ("  tuned, soft tokens shuffled", f"{self.shuffled.accuracy:.2%}"),
            ("validation loss: untuned / tuned", f"{self.untuned.loss:.3f} / {self.tuned.loss:.3f}"),
            ("seconds", f"{self.seconds:.1f}"),
        ]
        return figures(rows)


@dataclass(frozen=True)
class GenerateReport:
    """Outcome of :func:`~recbole_hnlm.llm.hybrid.generation.generate`.

    Attributes:
        path: The vectors, float16, of unit length, shape ``(P, S)``, in the order of the pairs.
        pairs: Number of pairs, P.
        made: Pairs whose vectors this process made now; the others were there or are another process's.
        truncated: Share of the prompts of which a profile was cut.
        tokens: Tokens of all prompts, without padding.
        seconds: Wall time of this run.
    """

    path: Path
    pairs: int
    made: int
    truncated: float
    tokens: int
    seconds: float

    def table(self) -> str:
        """The numbers, one a line."""
        rows = [
            ("pairs / made now", f"{self.pairs:,} / {self.made:,}"),
            ("prompts cut", f"{self.truncated:.2%}"),
            ("tokens", f"{self.tokens:,}"),
            ("seconds", f"{self.seconds:.1f}"),
        ]
        return figures(rows)
