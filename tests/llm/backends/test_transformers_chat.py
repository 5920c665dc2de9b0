"""Local chat models: small Llama and Qwen2 models of random weights, generated for real."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_chat import TEMPLATE, endpoint, write_tiny_chat

from recbole_hnlm.llm.backends.outcome import BudgetExceeded
from recbole_hnlm.llm.backends.tokens import in_chat_template
from recbole_hnlm.llm.backends.transformers_chat import TransformersBackend, build_transformers_backend
from recbole_hnlm.llm.chat import ChatRequest
from recbole_hnlm.options.chat import OpenAIOptions, SpendingOptions, TransformersOptions

COUNT = 24


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: write_tiny_chat(tmp_path_factory.mktemp(family), family) for family in ("llama", "qwen2")}


def requests(count: int = COUNT, **more: Any) -> list[ChatRequest]:
    texts = ["why " * (number % 7) + f"item {number}" for number in range(count)]
    return [
        ChatRequest(
            f"k{number}",
            ({"role": "system", "content": "be brief"}, {"role": "user", "content": text}),
            "t",
            **{"max_tokens": 24, **more},
        )
        for number, text in enumerate(texts)
    ]


def build(model: Path, cache: Path, spending: SpendingOptions | None = None, **options: Any) -> TransformersBackend:
    return build_transformers_backend(
        TransformersOptions(str(model), **{"chat_batch_size": 5, **options}), cache, spending
    )


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_batches_say_what_an_endpoint_says_one_by_one(family: str, models: dict[str, Path], tmp_path: Path) -> None:
    """The good path of both backends: the openai one against a server that pads nothing, the local one padded."""
    pytest.importorskip("openai")
    from recbole_hnlm.llm.backends.openai_chat import OpenAIBackend

    local = {reply.key: reply for reply in build(models[family], tmp_path / "a").complete(requests())}
    with endpoint(models[family]) as url:
        served = OpenAIBackend(OpenAIOptions(family, url, concurrency=2), tmp_path / "b")
        remote = {reply.key: reply for reply in served.complete(requests())}
    assert len(local) == len(remote) == COUNT
    assert {key: reply.text for key, reply in local.items()} == {key: reply.text for key, reply in remote.items()}
    texts = {reply.text for reply in local.values() if reply.text}
    assert len(texts) > COUNT // 3  # random weights, yet not one answer to all
    with_text = [key for key, reply in local.items() if reply.text]
    assert all(local[key].prompt_tokens == remote[key].prompt_tokens for key in with_text)
    assert all(local[key].completion_tokens == remote[key].completion_tokens for key in with_text)


def test_nothing_is_generated_twice(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = {reply.key: reply.text for reply in build(models["llama"], tmp_path).complete(requests())}
    again = build(models["llama"], tmp_path)
    monkeypatch.setattr(again._generator, "answers", lambda batch: pytest.fail("generated again"))
    replies = list(again.complete(requests()))
    assert {reply.key: reply.text for reply in replies} == first
    assert all(reply.cached for reply in replies)


def test_a_run_left_early_keeps_what_was_generated(models: dict[str, Path], tmp_path: Path) -> None:
    made = build(models["llama"], tmp_path)
    replies = made.complete(requests(200))
    next(replies)
    replies.close()
    assert len(made.cache) == 5
    assert made.summary.answered + made.summary.failed.total() == 5


def test_an_answer_without_an_end_is_a_counted_failure(models: dict[str, Path], tmp_path: Path) -> None:
    made = build(models["llama"], tmp_path)
    limits = {f"k{number}": 1 + number % 3 for number in range(COUNT)}
    asked = [ChatRequest(request.key, request.messages, "t", max_tokens=limits[request.key]) for request in requests()]
    free = {reply.key: reply for reply in build(models["llama"], tmp_path / "free").complete(requests())}
    for reply in made.complete(asked):
        if free[reply.key].text is not None:
            fits = free[reply.key].completion_tokens <= limits[reply.key]
            assert (
                (reply.text == free[reply.key].text) if fits else (reply.text is None and "length" in str(reply.error))
            )
    assert made.summary.failed["length"] > 0


def test_a_prompt_too_long_is_refused_and_the_others_are_answered(models: dict[str, Path], tmp_path: Path) -> None:
    long = ChatRequest("long", ({"role": "user", "content": "why " * 600},), "t", max_tokens=24)
    made = build(models["llama"], tmp_path)
    replies = {reply.key: reply for reply in made.complete([*requests(4), long])}
    assert replies["long"].text is None and "512" in str(replies["long"].error)
    assert made.summary.failed["rejected"] == 1 and made.summary.answered > 0


def test_sampling_repeats_with_its_seed_and_leaves_the_global_state_alone(
    models: dict[str, Path], tmp_path: Path
) -> None:
    state = torch.get_rng_state()

    def texts(name: str, **options: Any) -> list[tuple[str, str | None]]:
        made = build(models["llama"], tmp_path / name, temperature=1.5, **options)
        return sorted((reply.key, reply.text) for reply in made.complete(requests(10)))

    assert texts("a") == texts("b")
    assert texts("a") != texts("a", seed=1)  # the same cache: the seed is part of the key
    assert torch.equal(torch.get_rng_state(), state)


def test_a_budget_of_requests_holds(models: dict[str, Path], tmp_path: Path) -> None:
    made = build(models["llama"], tmp_path, SpendingOptions(budget_requests=7))
    with pytest.raises(BudgetExceeded):
        list(made.complete(requests()))
    assert made.summary.answered + made.summary.failed.total() == 7


def test_an_estimate_counts_with_the_models_own_tokenizer(models: dict[str, Path], tmp_path: Path) -> None:
    made = build(models["llama"], tmp_path)
    expected = sum(len(made._generator.tokens(request)) for request in requests())
    assert made.estimate(requests()).prompt_tokens == expected
    started = time.perf_counter()
    list(made.complete(requests()))
    wall = time.perf_counter() - started
    seconds = made.estimate(requests(200)).seconds
    assert seconds is not None and 0 < seconds < 200 / COUNT * wall * 2


def test_four_bits(models: dict[str, Path], tmp_path: Path) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    made = build(models["llama"], tmp_path, chat_quantization="nf4")
    layers = [module for module in made._generator._model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    assert layers and all(layer.weight.quant_type == "nf4" for layer in layers)
    assert any(reply.text for reply in made.complete(requests(8)))


def test_a_model_that_does_not_chat_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_chat(tmp_path / "plain", "llama", template=None)
    with pytest.raises(ValueError, match="chat template"):
        build(folder, tmp_path)


def test_a_template_without_a_system_role_is_told_the_same(models: dict[str, Path], tmp_path: Path) -> None:
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    folder = write_tiny_chat(tmp_path / "gemma", "llama", template=refusing + TEMPLATE)
    tokenizer = build(folder, tmp_path)._generator.tokenizer
    told = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who likes tea?"}]
    assert in_chat_template(tokenizer, told) == "<|user|>Be brief.\n\nWho likes tea?<|end|><|assistant|>"
    knowing = build(models["llama"], tmp_path)._generator.tokenizer
    assert in_chat_template(knowing, told).startswith("<|system|>Be brief.<|end|><|user|>Who likes tea?")


def test_a_model_that_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(FileNotFoundError, match="llm_chat_model='nobody/nothing'"):
        build(Path("nobody/nothing"), tmp_path)
