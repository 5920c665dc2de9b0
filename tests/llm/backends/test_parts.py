"""The small parts of the backends: waits, prices, tokens, options, keys."""

from __future__ import annotations

import importlib.util
import logging
import sys
import types
from datetime import datetime, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest

from recbole_hnlm.llm.backends import OpenAIBackend, build_transformers_backend
from recbole_hnlm.llm.backends.faults import Fault
from recbole_hnlm.llm.backends.retry import Backoff, retry_after
from recbole_hnlm.llm.backends.secret import Secret
from recbole_hnlm.llm.backends.spending import Budget, Prices, prices_of
from recbole_hnlm.llm.backends.tokens import RuleOfThumb, openai_counter
from recbole_hnlm.llm.backends.wire import is_strict, read_answer
from recbole_hnlm.options.chat import BatchOptions, OpenAIOptions, SpendingOptions, Spent, TransformersOptions

MESSAGES = [{"role": "system", "content": "ä" * 35}, {"role": "user", "content": ""}]


class TestAnswers:
    """What a body says of an answer and of its tokens."""

    BODY: ClassVar[dict[str, Any]] = {"choices": [{"message": {"content": "yes " * 100}, "finish_reason": "stop"}]}

    @pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": 0, "completion_tokens": 0}])
    def test_a_server_that_counts_nothing_is_not_free(self, usage: Any) -> None:
        answer = read_answer({**self.BODY, "usage": usage}, Secret("k"), 500, expected=40)
        assert answer.prompt_tokens == 40 and 80 < answer.completion_tokens < 200

    def test_a_body_of_nonsense_is_garbled(self) -> None:
        body = b"[" * 100_000
        with pytest.raises(Fault, match="the body is no") as told:
            read_answer(body, Secret("k"), 500)
        assert told.value.cause == "garbled"


class TestWaits:
    def test_the_upper_end_doubles_up_to_a_minute(self) -> None:
        highest = Backoff(1.0, lambda: 1.0)
        assert [highest.wait(attempt) for attempt in (1, 2, 3, 6, 7, 1000)] == [1, 2, 4, 32, 60, 60]

    def test_the_jitter_is_full(self) -> None:
        backoff = Backoff(1.0)
        waits = [backoff.wait(3) for _ in range(2000)]
        assert min(waits) < 0.1 and 3.9 < max(waits) < 4.0
        assert sum(waits) / len(waits) == pytest.approx(2.0, abs=0.15)

    def test_two_askers_part_ways(self) -> None:
        assert [Backoff(1.0).wait(5) for _ in range(3)] != [Backoff(1.0).wait(5) for _ in range(3)]

    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({"retry-after": "1.5"}, 1.5),
            ({"retry-after-ms": "20", "retry-after": "9"}, 0.02),
            ({"retry-after": format_datetime(datetime(2030, 1, 1, 0, 1, tzinfo=timezone.utc))}, 60.0),
            ({"retry-after": format_datetime(datetime(2029, 1, 1, tzinfo=timezone.utc))}, 0.0),
            ({"retry-after": "soon"}, 0.0),
            ({"retry-after": "-3"}, 0.0),
            ({}, 0.0),
        ],
    )
    def test_what_servers_ask_for(self, headers: dict[str, str], seconds: float) -> None:
        now = datetime(2030, 1, 1, tzinfo=timezone.utc).timestamp()
        assert retry_after(headers, now) == pytest.approx(seconds)


class TestPrices:
    def test_options_come_before_the_table(self) -> None:
        assert prices_of(SpendingOptions(input_price=1.0, output_price=2.0), "gpt-4o", True) == Prices(1.0, 2.0)

    def test_the_table_is_for_openai_alone(self) -> None:
        assert prices_of(SpendingOptions(), "gpt-4o-mini", True) is not None
        assert prices_of(SpendingOptions(), "gpt-4o-mini", False) is None

    def test_a_server_that_counts_more_than_the_estimate_tightens_the_budget(self) -> None:
        budget = Budget(SpendingOptions(budget_dollars=10.0), Prices(1e6, 0.0))
        assert budget.reserve("a", 1, 0)
        budget.settle("a", 1, 3, 0)  # thrice the estimate
        assert budget.spent == 3.0
        assert budget.reserve("b", 2, 0)  # 6 of the 7 left
        assert not budget.reserve("c", 1, 0)

    def test_what_the_run_has_spent_before_counts(self) -> None:
        run, options = Spent(), SpendingOptions(budget_dollars=10.0, budget_requests=3)
        first = Budget(options, Prices(1e6, 0.0), run)
        assert first.reserve("a", 6, 0) and first.reserve("b", 2, 0)
        first.settle("a", 6, 6, 0)
        first.settle("b", 2, 2, 0)
        second = Budget(options, Prices(1e6, 0.0), run)
        assert not second.reserve("c", 3, 0)
        assert second.reserve("c", 2, 0) and not second.reserve("d", 0, 0)
        second.settle("c", 2, 1, 0)
        assert (second.spent, run.dollars, run.requests) == (1.0, 9.0, 3)
        assert "(3 asked)" in str(second.exceeded("here")) and "($9.0000 spent)" in str(second.exceeded("here"))

    def test_what_is_set_aside_is_freed(self) -> None:
        budget = Budget(SpendingOptions(budget_dollars=10.0), Prices(1.0, 1e6))
        assert budget.reserve("a", 0, 9) and not budget.reserve("b", 0, 9)
        budget.settle("a", 0, 0, 1)
        assert budget.reserve("b", 0, 9)


class TestTokens:
    def test_the_rule_of_thumb_counts_bytes(self) -> None:
        assert RuleOfThumb().count(MESSAGES) == 4 + 20 + 4

    def test_tiktoken_counts_where_it_is_at_hand(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its tables come from the network, so its own byte-level encoding stands in for them."""
        tiktoken = pytest.importorskip("tiktoken")
        ranks = {bytes([byte]): byte for byte in range(256)}
        encoding = tiktoken.Encoding("bytes", pat_str=r"(?s).", mergeable_ranks=ranks, special_tokens={"<|x|>": 256})
        monkeypatch.setattr(tiktoken, "encoding_for_model", lambda model: encoding)
        counter = openai_counter("gpt-4o")
        assert counter.source == "tiktoken bytes"
        assert counter.count([*MESSAGES, {"role": "user", "content": "<|x|>"}]) == 4 + 70 + 4 + 4 + 5

    @pytest.mark.parametrize("how", ["raises", "hangs"])
    def test_without_its_tables_the_rule_has_to_do(
        self, how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        import threading

        def load(model: str) -> Any:
            if how == "hangs":
                threading.Event().wait(3)
            raise OSError("no network")

        caplog.set_level(logging.INFO)
        monkeypatch.setitem(sys.modules, "tiktoken", types.SimpleNamespace(encoding_for_model=load))
        assert isinstance(openai_counter("gpt-4o", seconds=0.2), RuleOfThumb)
        assert "3.5 bytes" in caplog.text


class TestOptions:
    @pytest.mark.parametrize(
        ("make", "match"),
        [
            (lambda: OpenAIOptions(""), "llm_chat_model"),
            (lambda: OpenAIOptions("m", "localhost:8000"), "llm_base_url"),
            (lambda: OpenAIOptions("m", "http://me:secret@host/v1"), "llm_api_key_env"),
            (lambda: OpenAIOptions("m", "ftp://secret@host/v1"), "llm_api_key_env"),
            (lambda: OpenAIOptions("m", api_key_env="sk-123"), "not a key"),
            (lambda: OpenAIOptions("m", temperature=-1), "llm_temperature"),
            (lambda: OpenAIOptions("m", concurrency=0), "llm_concurrency"),
            (lambda: OpenAIOptions("m", timeout=float("inf")), "llm_timeout"),
            (lambda: OpenAIOptions("m", attempts=0), "llm_attempts"),
            (lambda: SpendingOptions(budget_dollars=-1), "llm_budget_dollars"),
            (lambda: SpendingOptions(input_price=1.0), "llm_output_price"),
            (lambda: SpendingOptions(seconds_per_request=0), "llm_seconds_per_request"),
            (lambda: BatchOptions(batch_requests=50_001), "llm_batch_requests"),
            (lambda: BatchOptions(batch_megabytes=0), "llm_batch_megabytes"),
            (lambda: BatchOptions(batch_poll=0), "llm_batch_poll"),
            (lambda: TransformersOptions("m", chat_batch_size=0), "llm_chat_batch_size"),
        ],
    )
    def test_what_cannot_work_is_refused(self, make: Any, match: str) -> None:
        with pytest.raises(ValueError, match=match) as caught:
            make()
        assert "secret" not in str(caught.value) and "sk-123" not in str(caught.value)


def test_without_the_client_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install openai"):
        OpenAIBackend(OpenAIOptions("m", "http://localhost:1/v1"), tmp_path)
    with pytest.raises(ImportError, match="bitsandbytes"):
        build_transformers_backend(TransformersOptions("m", chat_quantization="nf4"), tmp_path)


class TestSecret:
    def test_it_does_not_show_itself(self) -> None:
        secret = Secret("sk-0123456789")
        assert "0123" not in f"{secret} {secret!r} {[secret]}"
        assert secret.hide("wrong: sk-0123456789!") == "wrong: [key]!"
        assert Secret("none").hide("none of these") == "none of these"


@pytest.mark.parametrize(
    ("change", "strict"),
    [({}, True), ({"additionalProperties": True}, False), ({"required": ["a"]}, False)],
)
def test_strict_schemas(change: dict[str, Any], strict: bool) -> None:
    inner = {
        "type": "object",
        "properties": {"c": {"type": "string"}},
        "required": ["c"],
        "additionalProperties": False,
    }
    schema = {
        **{"type": "object", "properties": {"a": {"type": "array", "items": inner}, "b": {"type": "string"}}},
        **{"required": ["a", "b"], "additionalProperties": False},
    }
    assert is_strict({**schema, **change}) is strict
    assert not is_strict({**schema, "properties": {"a": {**inner, "required": []}, "b": {}}})
