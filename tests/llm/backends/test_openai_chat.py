"""The openai backend against a real server on loopback that fails on demand."""

from __future__ import annotations

import logging
import re
import socket
import sqlite3
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai")

from scripted_server import ScriptedServer

from recbole_hnlm.llm.backends.openai_chat import OpenAIBackend
from recbole_hnlm.llm.backends.outcome import BudgetExceeded, RunStopped
from recbole_hnlm.llm.backends.reply_cache import FILE_NAME
from recbole_hnlm.llm.chat import ChatReply, ChatRequest
from recbole_hnlm.options.chat import OpenAIOptions, SpendingOptions

KEY = "sk-very-secret-0123456789"
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


def backend(
    server: ScriptedServer, cache: Path, spending: SpendingOptions | None = None, **options: Any
) -> OpenAIBackend:
    settings = {"concurrency": 4, "timeout": 20.0, "first_wait": 0.01, **options}
    return OpenAIBackend(OpenAIOptions("m", server.url, **settings), cache, spending)


def prompt(text: str, key: str | None = None, **more: Any) -> ChatRequest:
    return ChatRequest(key or text, ({"role": "user", "content": text},), "t-1", **more)


def ask(made: OpenAIBackend, *texts: str) -> dict[str, ChatReply]:
    return {reply.key: reply for reply in made.complete(prompt(text) for text in texts)}


def kept_bodies(folder: Path) -> list[str]:
    """What is kept, unpacked."""
    with sqlite3.connect(folder / FILE_NAME) as connection:
        return [zlib.decompress(body).decode() for (body,) in connection.execute("SELECT body FROM replies")]


def files_hold(folder: Path, text: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


class TestAnswers:
    def test_an_answer_in_parts_is_one_answer(self, server: ScriptedServer, tmp_path: Path) -> None:
        assert ask(backend(server, tmp_path), "[[parts]] a")["[[parts]] a"].text == "in parts"

    def test_a_request_that_moderation_refuses_is_that_requests_matter(
        self, server: ScriptedServer, tmp_path: Path
    ) -> None:
        replies = ask(backend(server, tmp_path), "[[flagged,flagged]] a", "b")
        assert replies["b"].text == "answer to b" and "flagged" in str(replies["[[flagged,flagged]] a"].error)

    def test_the_first_fault_of_a_kind_is_told_at_once(
        self, server: ScriptedServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        ask(backend(server, tmp_path), "[[500,500]] a", "[[500]] b", "[[garbled]] c")
        told = [record.message for record in caplog.records if "attempts" in record.message]
        assert sorted(line.split(" (")[0] for line in told) == ["garbled", "server error"]

    def test_failures_in_a_row_are_counted_over_stages_and_told_with_a_remedy(
        self, server: ScriptedServer, tmp_path: Path
    ) -> None:
        made = backend(server, tmp_path, failures_in_a_row=4, concurrency=1)
        assert len(ask(made, *(f"[[422,422]] {number}" for number in range(3)))) == 3
        with pytest.raises(RunStopped, match=r"4 requests in a row failed .* llm_token_field, llm_temperature"):
            ask(made, "[[422,422]] of the next stage")

    def test_every_request_has_one_reply(self, server: ScriptedServer, tmp_path: Path) -> None:
        server.delay = 0.05
        replies = ask(backend(server, tmp_path), *(f"p{number}" for number in range(20)))
        assert {key: reply.text for key, reply in replies.items()} == {f"p{n}": f"answer to p{n}" for n in range(20)}
        assert all((reply.prompt_tokens, reply.completion_tokens) == (10, 5) for reply in replies.values())
        assert 2 <= server.most_running <= 4

    def test_no_line_is_logged_for_every_request(
        self, server: ScriptedServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("openai", "httpx", "httpx2"):
            monkeypatch.setattr(logging.getLogger(name), "level", logging.NOTSET)
            logging.getLogger(name).manager._clear_cache()  # type: ignore[attr-defined]
        caplog.set_level(logging.INFO)
        ask(backend(server, tmp_path), *(f"p{number}" for number in range(20)))
        assert "HTTP Request" not in caplog.text and len(caplog.records) < 20
        logging.getLogger("httpx").setLevel(logging.INFO)
        ask(backend(server, tmp_path), "one more")
        assert logging.getLogger("httpx").level == logging.INFO, "the user's own level stays"

    def test_nothing_is_asked_twice(self, server: ScriptedServer, tmp_path: Path) -> None:
        first = ask(backend(server, tmp_path), "a", "b")
        again = ask(backend(server, tmp_path), "a", "b", "c")
        assert server.asked == {"a": 1, "b": 1, "c": 1}
        assert [again[key].text for key in "ab"] == [first[key].text for key in "ab"]
        assert [again[key].cached for key in "abc"] == [True, True, False]
        assert again["a"].prompt_tokens == 0

    def test_equal_requests_are_asked_once(self, server: ScriptedServer, tmp_path: Path) -> None:
        replies = list(backend(server, tmp_path).complete(prompt("same", key=f"k{n}") for n in range(50)))
        assert sorted(reply.key for reply in replies) == sorted(f"k{n}" for n in range(50))
        assert server.asked == {"same": 1}
        assert sum(not reply.cached for reply in replies) == 1

    @pytest.mark.parametrize("change", [{"max_tokens": 7}, {"schema": SCHEMA}])
    def test_another_question_is_asked(self, server: ScriptedServer, tmp_path: Path, change: dict[str, Any]) -> None:
        made = backend(server, tmp_path)
        list(made.complete([prompt("a")]))
        list(made.complete([prompt("a", **change)]))
        list(backend(server, tmp_path, temperature=0.5).complete([prompt("a")]))
        list(backend(server, tmp_path, chat_revision="2").complete([prompt("a")]))
        assert server.asked == {"a": 4}

    def test_requests_are_taken_as_there_is_room(self, server: ScriptedServer, tmp_path: Path) -> None:
        taken = 0

        def source() -> Iterator[ChatRequest]:
            nonlocal taken
            for number in range(1000):
                taken += 1
                yield prompt(f"p{number}")

        replies = backend(server, tmp_path).complete(source())
        next(replies)
        assert taken <= 5  # four on their way and at most one more
        replies.close()
        assert server.answered == server.asked and taken - 1 <= server.answered.total() <= taken

    def test_leaving_early_keeps_what_was_on_its_way(self, server: ScriptedServer, tmp_path: Path) -> None:
        server.delay = 0.05
        replies = backend(server, tmp_path).complete(prompt(f"p{number}") for number in range(100))
        next(replies)
        replies.close()
        asked = sorted(server.asked)
        server.asked.clear()
        assert all(reply.cached for reply in ask(backend(server, tmp_path), *asked).values())
        assert not server.asked


class TestFaults:
    @pytest.mark.parametrize(
        ("steps", "cause"),
        [
            ("429", "rate limit"),
            ("500", "server error"),
            ("503,502", "server error"),
            ("cut", "connection"),
            ("stall", "timeout"),
            ("garbled", "garbled"),
            ("shapeless", "garbled"),
            ("empty", "empty"),
        ],
    )
    def test_a_passing_fault_is_got_over(self, server: ScriptedServer, tmp_path: Path, steps: str, cause: str) -> None:
        made = backend(server, tmp_path, timeout=1.0)
        text = f"[[{steps}]] question"
        assert ask(made, text)[text].text == f"answer to {text}"
        count = len(steps.split(","))
        assert made.summary.retried == {cause: count}
        assert server.asked[text] == count + 1

    @pytest.mark.parametrize(
        ("step", "cause", "times"),
        [("500", "server error", 3), ("400", "rejected", 1), ("length", "length", 1), ("empty", "empty", 2)],
    )
    def test_a_lasting_fault_is_a_counted_failure(
        self, server: ScriptedServer, tmp_path: Path, step: str, cause: str, times: int
    ) -> None:
        made = backend(server, tmp_path, attempts=3)
        text = f"[[{','.join([step] * 9)}]] question"
        reply = ask(made, text, "other")[text]
        assert reply.text is None and reply.error is not None and reply.error.startswith(cause)
        assert (reply.lost, reply.passing) == (cause != "length", cause == "server error")
        assert server.asked[text] == times
        assert made.summary.failed == {cause: 1} and made.summary.answered == 1
        assert cause in made.summary.table()

    def test_an_answer_cut_off_is_not_paid_for_again(self, server: ScriptedServer, tmp_path: Path) -> None:
        text = "[[length,length]] question"
        ask(backend(server, tmp_path), text)
        made = backend(server, tmp_path)
        reply = ask(made, text)[text]
        assert reply.text is None and reply.cached and server.asked[text] == 1
        assert made.summary.failed == {"length": 1}

    def test_room_to_think_asks_again_for_what_was_cut_off_alone(self, server: ScriptedServer, tmp_path: Path) -> None:
        cut, whole = "[[length]] question", "other"
        ask(backend(server, tmp_path), cut, whole)
        made = backend(server, tmp_path, thinking_tokens=4000)
        estimate = made.estimate([prompt(cut), prompt(whole)])
        assert (estimate.cached, estimate.completion_tokens) == (1, 4512)
        replies = ask(made, cut, whole)
        assert replies[cut].text == f"answer to {cut}" and replies[whole].cached
        assert (server.asked[cut], server.asked[whole]) == (2, 1)
        assert ask(backend(server, tmp_path, thinking_tokens=4000), cut)[cut].cached

    def test_more_room_asks_again_for_what_had_too_little_and_for_nothing_else(
        self, server: ScriptedServer, tmp_path: Path
    ) -> None:
        cut, whole = "[[length,length]] question", "other"
        for room, asked in ((2000, 1), (2000, 1), (4000, 2), (4000, 2), (8000, 3), (2000, 3)):
            replies = ask(backend(server, tmp_path, thinking_tokens=room), cut, whole)
            assert (server.asked[cut], server.asked[whole]) == (asked, 1)
            assert (replies[cut].text is None) is (asked < 3)
        assert "cut off after 2512 tokens" in (
            ask(backend(server, tmp_path, thinking_tokens=2000), "[[length]] x")["[[length]] x"].error or ""
        )

    @pytest.mark.parametrize("step", ["truncated", "shape"])
    def test_a_text_of_the_wrong_form_is_handed_out_as_it_is(
        self, server: ScriptedServer, tmp_path: Path, step: str
    ) -> None:
        """Whoever asked knows what it should be, and how to ask for a repair."""
        text = f"[[{step}]] question"
        reply = ask(backend(server, tmp_path), text)[text]
        assert reply.text in ('{"summarization": "a', '["not", "an object"]')

    def test_retry_after_holds_everybody_back(self, server: ScriptedServer, tmp_path: Path) -> None:
        text = "[[429:0.6]] question"
        made = backend(server, tmp_path, concurrency=2)
        ask(made, text, *(f"p{number}" for number in range(40)))
        told, back = server.moments[text]
        assert back - told >= 0.6
        after = [moments[0] for moments in server.moments.values() if moments[0] > told + 0.15]
        assert after and min(after) - told >= 0.55

    def test_a_wait_beyond_bounds_ends_the_run(self, server: ScriptedServer, tmp_path: Path) -> None:
        with pytest.raises(RunStopped, match="asks to wait 86400 s"):
            ask(backend(server, tmp_path), "[[429:86400]] question")

    @pytest.mark.parametrize(
        ("step", "match"),
        [
            ("401", "key"),
            ("402", "no credit left"),
            ("404", "llm_chat_model"),
            ("quota", "no credit left"),
            ("arrears", "no credit left"),
        ],
    )
    def test_what_no_attempt_mends_ends_the_run(
        self, server: ScriptedServer, tmp_path: Path, step: str, match: str
    ) -> None:
        with pytest.raises(RunStopped, match=match) as caught:
            ask(backend(server, tmp_path, concurrency=1), "fine", f"[[{step}]] question", "never")
        assert KEY not in str(caught.value) and caught.value.__cause__ is None
        assert server.asked["never"] == 0
        assert ask(backend(server, tmp_path), "fine")["fine"].cached

    def test_a_dead_server_ends_the_run(self, tmp_path: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        options = OpenAIOptions("m", address, attempts=2, first_wait=0.01, failures_in_a_row=3, concurrency=2)
        made = OpenAIBackend(options, tmp_path)
        with pytest.raises(RunStopped, match="3 requests in a row failed .connection"):
            list(made.complete(prompt(f"p{number}") for number in range(1000)))
        assert made.summary.requests < 10

    def test_a_server_that_rejects_whatever_comes_ends_the_run(self, server: ScriptedServer, tmp_path: Path) -> None:
        made = backend(server, tmp_path, failures_in_a_row=3, concurrency=1)
        assert ask(made, "[[400]] a", "[[400]] b", "c", "[[400]] d", "[[400]] e")["c"].text
        with pytest.raises(RunStopped, match="3 requests in a row failed .rejected: .*scripted 400"):
            ask(made, *(f"[[400]] {number}" for number in range(100)))
        assert server.asked.total() < 12

    def test_an_error_that_comes_as_an_answer_is_told_in_its_words(
        self, server: ScriptedServer, tmp_path: Path
    ) -> None:
        reply = ask(backend(server, tmp_path, attempts=2), "[[worded,worded]] question")["[[worded,worded]] question"]
        assert reply.text is None and reply.error == "server error: out of credits"

    def test_a_full_disk_ends_the_run(self, server: ScriptedServer, tmp_path: Path) -> None:
        made = backend(server, tmp_path)
        ask(made, "a")
        pages = made.cache._connection.execute("PRAGMA page_count").fetchone()[0]
        made.cache._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(RunStopped, match="full.*check the disk"):
            list(made.complete(prompt(f"p{number}") for number in range(10_000)))
        assert server.answered.total() < 1000
        handed_out = [text for text in server.answered if ask(backend(server, tmp_path), text)[text].cached]
        assert len(handed_out) == made.summary.answered + 1


class TestSchemas:
    def test_a_schema_is_sent_where_it_is_taken(self, server: ScriptedServer, tmp_path: Path) -> None:
        list(backend(server, tmp_path).complete(prompt(f"p{n}", schema=SCHEMA) for n in range(6)))
        assert server.schemas == 6 and server.asked.total() == 6

    def test_a_refusal_is_found_out_once(self, tmp_path: Path) -> None:
        with ScriptedServer(takes_schemas=False) as server:
            made = backend(server, tmp_path)
            replies = list(made.complete(prompt(f"p{n}", schema=SCHEMA) for n in range(20)))
            list(made.complete(prompt(f"q{n}", schema=SCHEMA) for n in range(20)))
            assert all(reply.text for reply in replies)
            assert server.asked.total() == 41

    def test_a_request_refused_both_ways_teaches_nothing(self, server: ScriptedServer, tmp_path: Path) -> None:
        made = backend(server, tmp_path, concurrency=1)
        replies = list(made.complete(prompt(text, schema=SCHEMA) for text in ("[[400,400]] bad", "good")))
        assert [reply.text is None for reply in replies] == [True, False]
        assert server.schemas == 2 and server.asked["good"] == 1


class TestSecrecy:
    def test_the_key_is_sent_and_shown_nowhere(
        self, server: ScriptedServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        replies = ask(backend(server, tmp_path, attempts=2), "a", "[[echo]] b", "[[400]] c", "[[500,500]] d")
        assert server.keys == {f"Bearer {KEY}"}
        assert replies["[[echo]] b"].text == "you sent Bearer [key]"
        assert all(KEY not in repr(reply) for reply in replies.values())
        assert KEY not in caplog.text
        assert files_hold(tmp_path, KEY) == []
        assert not any(KEY in body for body in kept_bodies(tmp_path))
        assert any("[key]" in body for body in kept_bodies(tmp_path))

    def test_a_key_of_another_name(
        self, server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MY_KEY", "another-key")
        ask(backend(server, tmp_path, api_key_env="MY_KEY"), "a")
        assert server.keys == {"Bearer another-key"}

    def test_openai_wants_a_key_and_others_do_not(
        self, server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("OPENAI_API_KEY")
        with pytest.raises(ValueError, match="OPENAI_API_KEY holds no key"):
            OpenAIBackend(OpenAIOptions("gpt-4o-mini"), tmp_path)
        assert ask(backend(server, tmp_path), "a")["a"].text


class TestSpending:
    PRICES = {"input_price": 1e5, "output_price": 1e5}  # of 10 and 5 tokens: 1 and 0.5 dollars

    def test_dollars_stop_the_run_before_they_are_exceeded(self, server: ScriptedServer, tmp_path: Path) -> None:
        spending = SpendingOptions(**self.PRICES, budget_dollars=10.0)
        made = backend(server, tmp_path, spending)
        replies = []
        with pytest.raises(BudgetExceeded, match="llm_budget_dollars=10.*run the same command"):
            replies.extend(made.complete(prompt(f"p{number}", max_tokens=20) for number in range(100)))
            pytest.fail("the budget did not stop the run")
        assert made.summary.cost is not None and 5.0 < made.summary.cost <= 10.0
        assert made.summary.cost == pytest.approx(1.5 * server.answered.total())

    def test_requests_stop_the_run_and_the_next_run_goes_on(self, server: ScriptedServer, tmp_path: Path) -> None:
        texts = [f"p{number}" for number in range(10)]
        spending = SpendingOptions(budget_requests=6)
        with pytest.raises(BudgetExceeded, match="6 asked"):
            ask(backend(server, tmp_path, spending), *texts)
        assert server.asked.total() == 6
        assert len(ask(backend(server, tmp_path, spending), *texts)) == 10
        assert server.asked == dict.fromkeys(texts, 1)

    @pytest.mark.parametrize("fault", ["cut", "stall", "garbled"])
    def test_answers_that_did_not_come_whole_count_at_their_dearest(
        self, server: ScriptedServer, tmp_path: Path, fault: str
    ) -> None:
        """Each may have been paid for: three dollars of 10 tokens read and 20 allowed, before one that is told of."""
        spending = SpendingOptions(**self.PRICES, budget_dollars=10.0)
        made = backend(server, tmp_path, spending, timeout=0.5, concurrency=1)
        text = f"[[{fault},{fault}]] {'x' * 10}"
        dearest = made.count(prompt(text)) / 10 + 2
        (reply,) = made.complete([prompt(text, max_tokens=20)])
        assert reply.text is not None and server.asked[text] == 3
        assert made.summary.unread == 2 and re.search("perhaps paid, unread +2\n", made.summary.table())
        assert made.summary.cost == pytest.approx(1.5 + 2 * dearest)
        assert "cost, at most" in made.summary.table()

    def test_no_attempt_is_repeated_that_the_budget_has_no_room_for(
        self, server: ScriptedServer, tmp_path: Path
    ) -> None:
        spending = SpendingOptions(**self.PRICES, budget_dollars=10.0)
        made = backend(server, tmp_path, spending, attempts=8)
        texts = [f"[[{','.join(['cut'] * 8)}]] {number}" for number in range(20)]
        with pytest.raises(BudgetExceeded, match="llm_budget_dollars=10"):
            list(made.complete(prompt(text, max_tokens=5) for text in texts))
        assert made.summary.cost is not None and made.summary.cost <= 10.0
        least = made.count(prompt(texts[0])) / 10 + 0.5
        assert 1 < server.asked.total() <= 10.0 / least
        server.asked.clear()
        limited = backend(server, tmp_path / "other", SpendingOptions(budget_requests=6), attempts=2)
        with pytest.raises(BudgetExceeded, match="6 asked"):
            list(limited.complete(map(prompt, texts)))
        assert list(server.asked.values()) == [2] * 6  # repeats are no requests of their own

    def test_a_request_that_never_left_costs_nothing(self, tmp_path: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            address = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
            settings = OpenAIOptions("m", address, first_wait=0.01, attempts=2, timeout=5.0)
            made = OpenAIBackend(settings, tmp_path, SpendingOptions(**self.PRICES))
            (reply,) = made.complete([prompt("a")])
        assert reply.text is None and (made.summary.unread, made.summary.cost) == (0, 0.0)

    @pytest.mark.parametrize("told", ["words", "below 0", "texts", "none", "endless"])
    def test_a_server_that_counts_nonsense_is_taken_at_the_estimate(
        self, server: ScriptedServer, tmp_path: Path, told: str
    ) -> None:
        made = backend(server, tmp_path, SpendingOptions(**self.PRICES))
        text = f"[[counts:{told}]] a"
        assert ask(made, text)[text].text == "counted" and server.asked[text] == 1
        assert made.summary.prompt_tokens == made.count(prompt(text)) and made.summary.completion_tokens == 2

    def test_an_estimate_asks_nothing(self, server: ScriptedServer, tmp_path: Path) -> None:
        spending = SpendingOptions(input_price=1.0, output_price=2.0, seconds_per_request=2.0)
        made = backend(server, tmp_path, spending)
        ask(made, "a")
        server.asked.clear()
        found = made.estimate(prompt(text, max_tokens=100) for text in ["x" * 35, "y" * 35, "x" * 35])
        assert (found.requests, found.cached, found.prompt_tokens, found.completion_tokens) == (3, 1, 28, 200)
        assert found.cost == pytest.approx((28 + 2 * 200) / 1e6) and found.seconds == pytest.approx(2.0)
        assert made.estimate([prompt("a")]).cached == 1
        assert not server.asked

    def test_time_is_known_after_the_first_run(self, server: ScriptedServer, tmp_path: Path) -> None:
        server.delay = 0.1
        made = backend(server, tmp_path)
        guess = made.estimate(prompt(text, max_tokens=600) for text in "ab")
        assert (guess.seconds, guess.assumed) == (pytest.approx(1200 / (60 * 2)), True)  # two at a time
        ask(made, "a", "b")
        known = backend(server, tmp_path).estimate(prompt(f"p{n}") for n in range(40))
        assert known.seconds is not None and 1.0 <= known.seconds < 4.0  # ten rounds of 0.1 s and more
        assert not known.assumed

    def test_a_budget_needs_prices(self, server: ScriptedServer, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="llm_input_price"):
            backend(server, tmp_path, SpendingOptions(budget_dollars=1.0))


def test_the_run_ends_with_a_table(server: ScriptedServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "recbole_hnlm")
    started = time.perf_counter()
    made = backend(server, tmp_path, SpendingOptions(input_price=1.0, output_price=2.0))
    ask(made, "a", "[[500]] b", "[[length]] c")
    assert "server error 1" in caplog.text and "length 1" in caplog.text and "30 / 15" in caplog.text
    assert "$0.0001" in caplog.text
    assert 0 < made.summary.seconds <= time.perf_counter() - started
