"""Tiny models, saved once per session; adapters tuned once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from hybrid_data import make_pairs, save_tiny  # noqa: E402

from recbole_hnlm.llm.hybrid import BaseSettings, FineTuneSettings, PairTexts  # noqa: E402


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Family -> folder of a tiny model."""
    folder = tmp_path_factory.mktemp("tiny")
    return {family: save_tiny(folder / family, family) for family in ("Llama", "Qwen2", "Mistral", "Bert")}


@pytest.fixture(scope="session")
def llama(tiny: dict[str, Path]) -> BaseSettings:
    return BaseSettings(base=str(tiny["Llama"]), prompt_tokens=64, label_tokens=16, precision="float32")


@pytest.fixture
def pairs() -> PairTexts:
    return make_pairs()


@pytest.fixture
def quick() -> FineTuneSettings:
    """A tuning of a few steps."""
    return FineTuneSettings(
        batch_size=16, epochs=2, extra_negatives=8, held_out=0.2, lora_rank=4, projector_width=16, evaluations=2,
        learning_rate=2e-4, projector_learning_rate=1e-3,
    )  # fmt: skip
