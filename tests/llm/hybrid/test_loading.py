"""How a base model is made ready: its dropout, its attention, its precision, and the group it must not see."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hybrid_data import make_pairs

from recbole_hnlm.llm.hybrid import run, tuning
from recbole_hnlm.llm.hybrid.loading import add_lora, load_base, on_this_machine, prepare_training
from recbole_hnlm.options.hybrid import BaseSettings, FineTuneSettings

BASE = BaseSettings(base="", prompt_tokens=64, label_tokens=16, precision="float32")


def dropouts(model: torch.nn.Module) -> set[float]:
    return {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}


def test_lora_brings_the_only_dropout(tiny: dict[str, Path]) -> None:
    folder = tiny["Bert"]
    assert json.loads((folder / "config.json").read_text())["hidden_dropout_prob"] > 0
    loaded = load_base(replace(BASE, base=str(folder)))
    assert dropouts(loaded.model.base) == {0.0}
    add_lora(loaded.model, FineTuneSettings(lora_dropout=0.25))
    assert dropouts(loaded.model.base) == {0.0, 0.25}


@pytest.mark.parametrize(("precision", "attention"), [("bfloat16", "eager"), ("float32", "sdpa")])
def test_attention_that_is_slow_backward_is_exchanged(tiny: dict[str, Path], precision: Any, attention: str) -> None:
    loaded = load_base(replace(BASE, base=str(tiny["Llama"]), precision=precision))
    assert loaded.model.base.config._attn_implementation == "sdpa"
    prepare_training(loaded.model, precision)
    assert loaded.model.base.config._attn_implementation == attention


@pytest.mark.parametrize(
    ("device", "has", "asked", "taken"),
    [
        ("cpu", "_is_amx_tile_supported", "auto", "bfloat16"),
        ("cpu", "_is_avx512_bf16_supported", "auto", "bfloat16"),
        ("cpu", "", "auto", "float32"),
        ("cuda:1", "", "auto", "bfloat16"),
        ("cpu", "", "bfloat16", "bfloat16"),
        ("cpu", "_is_amx_tile_supported", "float32", "float32"),
    ],
)
def test_auto_is_what_the_machine_is_good_at(
    monkeypatch: pytest.MonkeyPatch, device: str, has: str, asked: Any, taken: str
) -> None:
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(f"torch.cpu.{name}", lambda known=name: known == has, raising=False)
    monkeypatch.setattr("recbole_hnlm.llm.hybrid.loading.local_device", lambda given: given)
    assert on_this_machine(replace(BASE, device=device, precision=asked)).precision == taken


def test_a_tuning_does_not_see_the_group_around_it(
    monkeypatch: pytest.MonkeyPatch, llama: BaseSettings, quick: FineTuneSettings, tmp_path: Path
) -> None:
    """transformers' Trainer would wait for the processes of a training group, of which one builds."""
    group = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}
    seen: list[set[str]] = []

    def spy(*args: Any) -> Any:
        seen.append(set(group) & set(os.environ))
        raise InterruptedError

    for key, value in group.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(tuning, "run_tuning", spy)
    monkeypatch.setattr(run, "is_sharded", lambda: False)
    with pytest.raises(InterruptedError):
        tuning.fine_tune([make_pairs()], llama, quick, tmp_path / "adapter")
    assert seen == [set()]
    assert {key: os.environ[key] for key in group} == group


def test_models_without_a_choice_of_attention_are_left_alone() -> None:
    bare = SimpleNamespace(base=torch.nn.Linear(2, 2), device=torch.device("cpu"))
    prepare_training(bare, "bfloat16")  # type: ignore[arg-type]
