"""What became of a stage's prompts, and whether it is worth going on."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from recbole_hnlm.llm.backends.outcome import RunStopped
from recbole_hnlm.llm.figures import figures

logger = logging.getLogger(__name__)
_SHOWN_FAILURES = 3
_PROMPTS_BEFORE_STOPPING = 50


@dataclass
class StageCounts:
    """What became of a stage's requests; ends as a short table.

    Attributes:
        stage: Name of the stage.
        rows: Lines of the stage's own, name and figure, before the common ones.
        requests: Prompts that were put, without repairs.
        answered: Prompts that ended with a usable answer.
        repaired: Of those, how many needed the second try.
        failed: Prompts without a usable answer.
        lost: Of those, how many brought nothing that is kept, twice; the next run asks them again.
        waiting: Requests that were lost once, with the reason; they are asked again when all others have been.
        texts_cut: Texts that were longer than allowed.
        cached: Replies that the cache gave, of prompts and repairs.
        prompt_tokens: Tokens that were read now.
        completion_tokens: Tokens that were written now.
        seconds: Wall time.
        failures: Key and reason of the first failures.
    """

    stage: str
    rows: list[tuple[str, str]] = field(default_factory=list)
    requests: int = 0
    answered: int = 0
    repaired: int = 0
    failed: int = 0
    lost: int = 0
    waiting: dict[str, str] = field(default_factory=dict)
    texts_cut: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    failures: list[tuple[str, str]] = field(default_factory=list)

    def table(self) -> str:
        """The numbers, one a line."""
        rows = [
            *self.rows,
            ("requests", f"{self.requests:,}"),
            ("replies from cache", f"{self.cached:,}"),
            ("answered", f"{self.answered:,}"),
            ("answered after repair", f"{self.repaired:,}"),
            ("failed", f"{self.failed:,}"),
            ("texts cut to length", f"{self.texts_cut:,}"),
            ("tokens read / written", f"{self.prompt_tokens:,} / {self.completion_tokens:,}"),
            ("seconds", f"{self.seconds:.1f}"),
        ]
        return figures(rows)

    def log(self) -> None:
        """The table as one INFO entry, and the first failures as one warning."""
        logger.info("%s\n%s", self.stage, self.table())
        if self.failed:
            shown = "; ".join(f"{key}: {reason}" for key, reason in self.failures)
            logger.warning("%s: %d of %d requests failed, e.g. %s", self.stage, self.failed, self.requests, shown)

    def check(self, least_usable: float) -> None:
        """Stop where so few answers can be used that more of them would be money lost.

        Raises:
            RunStopped: If 50 prompts or more have ended and a smaller share than ``least_usable`` was answered.
        """
        failed = self.failed + len(self.waiting)
        ended = self.answered + failed
        if ended < _PROMPTS_BEFORE_STOPPING or self.answered >= least_usable * ended:
            return
        examples = [*self.failures, *self.waiting.items()][:_SHOWN_FAILURES]
        shown = "; ".join(f"{key}: {reason}" for key, reason in examples)
        told = f"{self.stage}: {failed} of the first {ended} prompts brought no usable answer ({shown})"
        if 2 * (self.lost + len(self.waiting)) > failed:
            raise RunStopped(
                f"{told}. Of most nothing is kept: see to what the server says and run the same command, which asks "
                "for these alone, or go on without them by llm_least_usable=0"
            )
        raise RunStopped(
            f"{told}. All answers are kept, and are not asked for again: where the server was at fault, ask it anew "
            "under another llm_chat_revision. Else take another model, give one that thinks first room "
            "(llm_thinking_tokens=4000), look at llm_prompts, or go on regardless by llm_least_usable=0"
        )

    def fail(self, key: str, reason: str, lost: bool = False) -> None:
        """Count a prompt without a usable answer."""
        self.failed += 1
        self.lost += lost
        if len(self.failures) < _SHOWN_FAILURES:
            self.failures.append((key, reason))
