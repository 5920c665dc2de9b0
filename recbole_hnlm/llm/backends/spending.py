"""Prices, the budget of a run, and what is spent so far."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from dataclasses import dataclass

from recbole_hnlm.llm.backends.outcome import BudgetExceeded
from recbole_hnlm.options.chat import SpendingOptions, Spent

BATCH_DISCOUNT = 0.5
"""Share of the price that OpenAI's Batch API takes."""
_TABLE = {  # US dollars per million tokens read, written; as of June 2025, options override them
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
    answer of all the tokens allowed. An attempt whose answer did not come whole may have been paid for, so it counts at
    its dearest too, and is repeated only if that fits. An empty answer is paid for and asked for once more, which can
    take a run past its limit by what is under way at that moment.

    Attributes:
        spent: US dollars that went through this budget; stays 0 without prices.
    """

    def __init__(self, options: SpendingOptions, prices: Prices | None, run: Spent | None = None) -> None:
        """A budget of which as much is gone as the ``run`` has spent before; nothing by default."""
        self.spent = 0.0
        self._options = options
        self._prices = prices
        self._run = run if run is not None else Spent()
        self._correction = 1.0
        self._held = 0.0
        self._reserved: dict[Hashable, float] = {}
        self._dearest: dict[Hashable, float] = {}
        self._lock = threading.Lock()

    def reserve(self, name: Hashable, prompt_tokens: float, completion_tokens: float, requests: int = 1) -> bool:
        """Set aside what ``name`` may cost at most; False, and nothing set aside, if that exceeds a limit."""
        with self._lock:
            if not self._fits(self._dollars(prompt_tokens, completion_tokens), requests):
                return False
            self.hold(name, prompt_tokens, completion_tokens, requests)
            return True

    def repeat(self, name: Hashable) -> bool:
        """Set aside as much again for ``name``, an attempt of which was not read; False if that exceeds the dollars."""
        with self._lock:
            dollars = self._dearest.get(name, 0.0)
            if not self._fits(dollars, 0):
                return False
            self._reserved[name] += dollars
            self._held += dollars
            return True

    def _fits(self, dollars: float, requests: int) -> bool:
        limit, most = self._options.budget_dollars, self._options.budget_requests
        return (limit is None or self._run.dollars + self._held + dollars <= limit) and (
            most is None or self._run.requests + requests <= most
        )

    def hold(self, name: Hashable, prompt_tokens: float, completion_tokens: float, requests: int = 1) -> None:
        """Set aside for what is under way already, whether it fits or not."""
        self._run.requests += requests
        self._reserved[name] = self._dearest[name] = self._dollars(prompt_tokens, completion_tokens)
        self._held += self._reserved[name]

    def settle(
        self, name: Hashable, expected: int, prompt_tokens: int, completion_tokens: int, unread: int = 0
    ) -> None:
        """Replace what was set aside for ``name`` by what it cost.

        Args:
            name: What it was set aside for.
            expected: Tokens of its prompt as they were estimated.
            prompt_tokens: Tokens read.
            completion_tokens: Tokens written.
            unread: Attempts beside, whose answers did not come whole.
        """
        with self._lock:
            self._held -= self._reserved.pop(name, 0.0)
            if not self._reserved:
                self._held = 0.0  # without what rounding left
            dearest = self._dearest.pop(name, 0.0)
            if self._prices is not None:
                paid = self._prices.cost(prompt_tokens, completion_tokens) + unread * dearest
                self.spent += paid
                self._run.dollars += paid
            if expected and prompt_tokens:
                self._correction = min(max(self._correction, prompt_tokens / expected), _MOST_CORRECTION)

    def _dollars(self, prompt_tokens: float, completion_tokens: float) -> float:
        if self._prices is None:
            return 0.0
        return self._prices.cost(prompt_tokens * self._correction, completion_tokens)

    def exceeded(self, kept: str) -> BudgetExceeded:
        """The error for a request that does not fit any more; ``kept`` is where the answers are."""
        options = self._options
        limits = []
        if options.budget_requests is not None:
            limits.append(f"llm_budget_requests={options.budget_requests} ({self._run.requests} asked)")
        if options.budget_dollars is not None:
            limits.append(f"llm_budget_dollars={options.budget_dollars:g} (${self._run.dollars:.4f} spent)")
        return BudgetExceeded(
            f"the next request could exceed {' or '.join(limits)}; all answers are kept in {kept}: raise the limit, or "
            "leave it for as much again, and run the same command"
        )
