"""Requests, repairs and failures: each counted, none lost."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator

import pytest

from recbole_hnlm.llm.asking import REPAIR_MARK, ask
from recbole_hnlm.llm.backends.outcome import RunStopped, ServerSilent
from recbole_hnlm.llm.chat import ChatReply, ChatRequest
from recbole_hnlm.llm.figures import figures
from recbole_hnlm.llm.replies import PROFILE_SCHEMA, Answer, read_profile
from recbole_hnlm.llm.stage_counts import StageCounts
from tests.llm.talking import Script, ScriptedBackend, good_reply

N = 40


def _requests(count: int = N) -> Iterator[ChatRequest]:
    for place in range(count):
        messages = ({"role": "user", "content": f"item {place}"},)
        yield ChatRequest(f"i{place}", messages, "generic-1/item_profile", PROFILE_SCHEMA)


def _read(request: ChatRequest, text: str) -> Answer:
    return read_profile(text, 2)


def _run(backend: ScriptedBackend, count: int = N) -> tuple[dict[str, Answer | None], StageCounts]:
    counts = StageCounts("item profiles")
    pairs = list(ask(backend, _requests(count), _read, counts))
    assert len({key for key, _ in pairs}) == len(pairs)
    return dict(pairs), counts


def test_every_request_is_answered_once() -> None:
    answers, counts = _run(ScriptedBackend())
    assert set(answers) == {f"i{place}" for place in range(N)}
    assert all(answer is not None and answer.texts[0].startswith("summarization") for answer in answers.values())
    assert (counts.requests, counts.answered, counts.repaired, counts.failed, counts.texts_cut) == (N, N, 0, 0, N)
    assert counts.prompt_tokens > 0 and counts.completion_tokens > 0


@pytest.mark.parametrize("spoilt", ["no text", "no JSON"])
def test_a_model_of_no_use_is_not_asked_to_the_end(spoilt: str) -> None:
    """At most every prompt of the first fifty twice, and those that were under way."""
    backend = ScriptedBackend(lambda request: None if spoilt == "no text" else "thinking aloud")
    backend.least_usable = 0.1
    with pytest.raises(
        RunStopped,
        match="50 of the first 50 prompts.*not asked for again.*llm_chat_revision.*llm_thinking_tokens.*llm_least_usable=0",
    ):
        _run(backend, 1000)
    assert len(backend.asked) <= 2 * 50 + 7
    answers, counts = _run(ScriptedBackend(lambda request: "thinking aloud"), 100)
    assert counts.failed == 100 and set(answers.values()) == {None}


def test_where_most_brought_no_answer_nobody_is_told_to_ask_all_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another llm_chat_revision would ask, and pay, for what was answered too."""
    backend = ScriptedBackend(lambda request: None)
    backend.least_usable = 0.1
    told = "rejected: no such plan"
    monkeypatch.setattr(backend, "_reply", lambda request: ChatReply(request.key, None, told, lost=True))
    with pytest.raises(RunStopped, match="rejected: no such plan.*run the same command") as caught:
        _run(backend, 1000)
    assert "llm_chat_revision" not in str(caught.value)


def test_a_model_of_some_use_is_asked_to_the_end() -> None:
    backend = ScriptedBackend(lambda request: good_reply(request) if request.key[-1] in "38" else None)
    backend.least_usable = 0.1
    _, counts = _run(backend, 200)
    assert (counts.requests, counts.answered, counts.failed) == (200, 40, 160)


def test_one_repair_with_the_reply_and_its_fault() -> None:
    def script(request: ChatRequest) -> str:
        first = not request.key.endswith(REPAIR_MARK)
        return '{"summarization": "x"}' if first and "item 1" in str(request.messages) else good_reply(request)

    backend = ScriptedBackend(script)
    answers, counts = _run(backend)
    bad = 11  # item 1 and items 10 to 19
    assert (counts.requests, counts.answered, counts.repaired, counts.failed) == (N, N, bad, 0)
    assert None not in answers.values()
    repairs = [request for request in backend.asked if request.key.endswith(REPAIR_MARK)]
    assert len(repairs) == bad
    user, assistant, correction = repairs[0].messages
    assert user["content"].startswith("item 1")
    assert (assistant["role"], assistant["content"]) == ("assistant", '{"summarization": "x"}')
    assert "lacks 'reasoning'" in correction["content"]
    assert repairs[0].schema == PROFILE_SCHEMA


def test_half_an_emoji_in_a_reply_does_not_make_its_repair_unsendable() -> None:
    def script(request: ChatRequest) -> str:
        return good_reply(request) if request.key.endswith(REPAIR_MARK) else '{"name": "Love \ud83d'

    backend = ScriptedBackend(script)
    _, counts = _run(backend)
    repairs = [request for request in backend.asked if request.key.endswith(REPAIR_MARK)]
    assert counts.repaired == N and {str(request.messages[1]["content"]) for request in repairs} == {'{"name": "Love '}
    assert all(json.dumps(request.messages, ensure_ascii=False).encode() for request in repairs)


def test_repairs_go_among_the_requests() -> None:
    """So a model that is bad throughout fills no memory with replies that wait for a repair."""
    backend = ScriptedBackend(lambda _: "no")
    answers, counts = _run(backend)
    assert set(answers.values()) == {None}
    assert (len(backend.asked), counts.requests, counts.failed) == (2 * N, N, N)
    keys = [request.key.endswith(REPAIR_MARK) for request in backend.asked]
    assert not any(keys[:7])  # the first seven under way
    for end in range(14, N, 14):
        assert sum(keys[:end]) >= end // 2 - 7


def test_failures_are_counted_and_none_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    def script(request: ChatRequest) -> str | None:
        place = int(request.key.removesuffix(REPAIR_MARK)[1:])
        return (None, "", "[]", good_reply(request))[place % 4]

    answers, counts = _run(ScriptedBackend(script, lost=["i39"]))
    assert len(answers) == N
    assert sum(answer is None for answer in answers.values()) == 31  # three of four, and the lost one
    assert (counts.requests, counts.answered, counts.failed) == (N, 9, 31)
    with caplog.at_level(logging.INFO):
        counts.log()
    assert "31 of 40 requests failed, e.g. i4: HTTP 500" in caplog.text
    assert figures([("failed", "31")]) in caplog.text


class _Losing(ScriptedBackend):
    """Loses the requests of ``losses`` so many times each before it answers them."""

    def __init__(self, losses: dict[str, int], script: Script = good_reply) -> None:
        super().__init__(script)
        self.losses = dict(losses)

    def _reply(self, request: ChatRequest) -> ChatReply:
        reply = super()._reply(request)
        left = self.losses.get(request.key, 0)
        self.losses[request.key] = left - 1
        return ChatReply(request.key, None, "connection: reset", lost=True, passing=True) if left > 0 else reply


def test_what_a_server_lost_is_asked_once_more_after_all_others() -> None:
    backend = _Losing({"i3": 1, "i20": 1, "i39": 2})
    answers, counts = _run(backend)
    assert [key for key, answer in answers.items() if answer is None] == ["i39"] and len(answers) == N
    assert (counts.requests, counts.answered, counts.failed, counts.lost, counts.waiting) == (N, N - 1, 1, 1, {})
    asked = [request.key for request in backend.asked]
    assert sorted(asked[N:]) == ["i20", "i3", "i39"] and counts.failures == [("i39", "connection: reset")]


def test_a_server_that_is_silent_at_the_end_of_a_stage_leaves_it_with_what_it_has(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Fifty prompts that always take too long are no reason to stop a stage of ten thousand, and never to finish it."""

    class Silent(_Losing):
        patience = N

        def complete(self, requests: Iterable[ChatRequest]) -> Iterator[ChatReply]:
            for place, reply in enumerate(super().complete(requests)):
                yield reply
                if len(self.asked) > self.patience and place == 1:
                    raise ServerSilent("2 requests in a row failed")

    late = [f"i{place}" for place in range(0, N, 4)]
    answers, counts = _run(Silent(dict.fromkeys(late, 2)))
    assert sorted(key for key, answer in answers.items() if answer is None) == sorted(late) and len(answers) == N
    assert (counts.requests, counts.answered, counts.failed, counts.lost) == (N, N - len(late), len(late), len(late))
    assert counts.waiting == {} and "of them stay lost: 2 requests in a row failed" in caplog.text
    silent = Silent({})
    silent.patience = 0
    with pytest.raises(ServerSilent):
        _run(silent)


def test_what_a_server_refused_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = ScriptedBackend()
    answered = backend._reply

    def reply(request: ChatRequest) -> ChatReply:
        found = answered(request)
        return ChatReply(request.key, None, "rejected: flagged", lost=True) if request.key == "i4" else found

    monkeypatch.setattr(backend, "_reply", reply)
    answers, counts = _run(backend)
    assert answers["i4"] is None and (counts.failed, counts.lost, len(backend.asked)) == (1, 1, N)


def test_a_repair_that_a_server_lost_is_asked_once_more_and_not_begun_anew() -> None:
    def script(request: ChatRequest) -> str:
        return good_reply(request) if request.key.endswith(REPAIR_MARK) else "no"

    backend = _Losing({f"i2{REPAIR_MARK}": 1, f"i5{REPAIR_MARK}": 2, "i7": 1}, script)
    answers, counts = _run(backend)
    assert [key for key, answer in answers.items() if answer is None] == ["i5"]
    assert (counts.requests, counts.answered, counts.repaired, counts.lost) == (N, N - 1, N - 1, 1)
    asked = Counter(request.key for request in backend.asked)
    assert asked["i2"] == asked["i5"] == 1 and asked[f"i2{REPAIR_MARK}"] == asked["i7"] == 2
    assert asked[f"i5{REPAIR_MARK}"] == 2 and asked[f"i7{REPAIR_MARK}"] == 1


def test_requests_are_made_as_they_are_taken() -> None:
    made: list[str] = []

    def watched() -> Iterator[ChatRequest]:
        for request in _requests():
            made.append(request.key)
            yield request

    answers = ask(ScriptedBackend(), watched(), _read, StageCounts("s"))
    next(answers)
    assert len(made) == 7  # what this backend has under way


def test_faults_of_the_asker_and_of_the_backend() -> None:
    with pytest.raises(ValueError, match="two requests have the key 'i0'"):
        list(ask(ScriptedBackend(), [*_requests(1), *_requests(1)], _read, StageCounts("s")))

    class Confused(ScriptedBackend):
        def _reply(self, request: ChatRequest) -> ChatReply:
            return ChatReply("other", "text")

    with pytest.raises(ValueError, match="scripted answered 'other', which is not open"):
        list(ask(Confused(), _requests(1), _read, StageCounts("s")))
