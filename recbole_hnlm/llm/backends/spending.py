"""Prices, the budget of a run, and what is spent so far."""

from __future__ import annotations

from dataclasses import dataclass

from recbole_hnlm.llm.backends.options import SpendingOptions
from recbole_hnlm.llm.backends.outcome import Answer, BudgetExceeded, Job

BATCH_DISCOUNT = 0.5
"""Share of the price that OpenAI's Batch API takes."""
PRICES_OF = "June 2025"
"""When the table of prices was made; check it against OpenAI's page and override it by options."""
_TABLE = {  # US dollars per million tokens read, written
    "gpt-4o": (2.5, 10.0),
    "gpt-4o-mini": (0.15, 0.6),
    "gpt-4.1": (2.0, 8.0),
    "gpt-4.1-mini": (0.4, 1.6),
    "gpt-4.1-nano": (0.1, 0.4),
}
_MILLION = 1e6
_MOST_CORRECTION = 4.0


@dataclass(frozen=True)
class Prices:
    """US dollars per million tokens read and written.

    >>> Prices(0.15, 0.6).cost(2_000_000, 1_000_000)
    0.9
    """

    read: float
    written: float

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        """US dollars for so many tokens."""
        return (prompt_tokens * self.read + completion_tokens * self.written) / _MILLION

    def scaled(self, factor: float) -> Prices:
        """These prices at a discount."""
        return Prices(self.read * factor, self.written * factor)


def prices_of(options: SpendingOptions, model: str, is_openai: bool) -> Prices | None:
    """The prices that the options give, else those of OpenAI's model, else None.

    Raises:
        ValueError: If there is a budget in dollars but no price.
    """
    if options.input_price is not None and options.output_price is not None:
        return Prices(options.input_price, options.output_price)
    if is_openai and model in _TABLE:
        return Prices(*_TABLE[model])
    if options.budget_dollars is not None:
        raise ValueError(
            f"llm_budget_dollars needs prices and none are known of {model!r}; set llm_input_price and "
            "llm_output_price, in dollars per million tokens"
        )
    return None


class Budget:
    """Keeps a run below its limits: a request is only sent if its dearest outcome still fits.

    The dearest outcome is the estimated prompt, corrected upwards where servers counted more than the estimate, and an
    answer of all the tokens allowed. Attempts that fail without a report of their tokens count as free.

    Attributes:
        spent: US dollars so far; stays 0 without prices.
    """

    def __init__(self, options: SpendingOptions, prices: Prices | None) -> None:
        """A budget of which nothing is spent."""
        self.spent = 0.0
        self._options = options
        self._prices = prices
        self._asked = 0
        self._correction = 1.0
        self._held = 0.0
        self._reserved: dict[bytes, float] = {}

    def reserve(self, job: Job) -> bool:
        """Set aside what ``job`` may cost at most; False, and nothing set aside, if that exceeds a limit."""
        dollars = 0.0
        if self._prices is not None:
            dollars = self._prices.cost(job.prompt_tokens * self._correction, job.request.max_tokens)
        limit = self._options.budget_dollars
        if limit is not None and self.spent + self._held + dollars > limit:
            return False
        if self._options.budget_requests is not None and self._asked >= self._options.budget_requests:
            return False
        self._asked += 1
        self._held += dollars
        self._reserved[job.digest] = dollars
        return True

    def settle(self, job: Job, answer: Answer) -> None:
        """Replace what was set aside for ``job`` by what it cost."""
        self._held -= self._reserved.pop(job.digest, 0.0)
        if not self._reserved:
            self._held = 0.0  # without what rounding left
        if self._prices is not None:
            self.spent += self._prices.cost(answer.prompt_tokens, answer.completion_tokens)
        if job.prompt_tokens and answer.prompt_tokens:
            ratio = answer.prompt_tokens / job.prompt_tokens
            self._correction = min(max(self._correction, ratio), _MOST_CORRECTION)

    def exceeded(self, kept: str) -> BudgetExceeded:
        """The error for a request that does not fit any more; ``kept`` is where the answers are."""
        options = self._options
        limits = []
        if options.budget_requests is not None:
            limits.append(f"llm_budget_requests={options.budget_requests} ({self._asked} asked)")
        if options.budget_dollars is not None:
            limits.append(f"llm_budget_dollars={options.budget_dollars:g} (${self.spent:.4f} spent)")
        return BudgetExceeded(
            f"the next request could exceed {' or '.join(limits)}; all answers are kept in {kept}: raise the limit, or "
            "leave it for as much again, and run the same command"
        )
