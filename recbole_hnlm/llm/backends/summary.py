"""What a run of a backend did, as numbers and as a short table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from recbole_hnlm.llm.backends.outcome import Answer
from recbole_hnlm.llm.chat import Estimate
from recbole_hnlm.llm.figures import figures


@dataclass
class RunSummary:
    """Counts of one run, complete when it has ended.

    Attributes:
        requests: Requests taken up.
        cached: Of these, answered by the cache or by an equal request of the same run.
        answered: Of these, answered by the model.
        retried: Attempts that were repeated, by cause.
        unread: Attempts whose answer did not come whole and may have been charged; the cost has them at their dearest.
        failed: Requests without an answer, by cause, kept failures included.
        prompt_tokens: Tokens read.
        completion_tokens: Tokens written.
        answer_seconds: Sum of the answers' own times.
        cost: US dollars, or None where prices are unknown.
        seconds: Wall time.
    """

    requests: int = 0
    cached: int = 0
    answered: int = 0
    retried: Counter[str] = field(default_factory=Counter)
    unread: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    answer_seconds: float = 0.0
    cost: float | None = None
    seconds: float = 0.0

    def count(self, answer: Answer) -> None:
        """Add what the model said, or did not say, to one request."""
        self.prompt_tokens += answer.prompt_tokens
        self.completion_tokens += answer.completion_tokens
        self.unread += answer.unread
        if answer.text is None:
            self.failed[answer.cause] += 1
        else:
            self.answered += 1
            self.answer_seconds += answer.seconds

    def count_again(self, answer: Answer) -> None:
        """Add a request that an answer known before serves."""
        self.cached += 1
        if answer.text is None:
            self.failed[answer.cause] += 1

    def table(self) -> str:
        """The numbers, one a line."""
        rows = [
            ("requests", f"{self.requests:,}"),
            ("answered / known before", f"{self.answered:,} / {self.cached:,}"),
            ("attempts repeated", _by_cause(self.retried)),
            ("failed", _by_cause(self.failed)),
            ("tokens read / written", f"{self.prompt_tokens:,} / {self.completion_tokens:,}"),
            *([("attempts perhaps paid, unread", f"{self.unread:,}")] if self.unread else []),
            ("cost, at most" if self.unread else "cost", _dollars(self.cost)),
            ("seconds", f"{self.seconds:.1f}"),
        ]
        return figures(rows)


def estimate_table(estimate: Estimate, source: str) -> str:
    """What requests would take, one number a line; ``source`` says what counted the tokens."""
    seconds = "unknown" if estimate.seconds is None else f"{estimate.seconds:,.0f}{', assumed' * estimate.assumed}"
    rows = [
        ("requests", f"{estimate.requests:,}"),
        ("known before", f"{estimate.cached:,}"),
        ("tokens to read", f"{estimate.prompt_tokens:,}"),
        ("tokens to write, at most", f"{estimate.completion_tokens:,}"),
        ("tokens counted by", source),
        ("cost, at most", _dollars(estimate.cost)),
        ("seconds, about", seconds),
    ]
    return figures(rows)


def _by_cause(counts: Counter[str]) -> str:
    detail = ", ".join(f"{cause} {count:,}" for cause, count in sorted(counts.items()))
    return f"{counts.total():,} ({detail})" if detail else "0"


def _dollars(cost: float | None) -> str:
    return "unknown" if cost is None else f"${cost:,.4f}"
