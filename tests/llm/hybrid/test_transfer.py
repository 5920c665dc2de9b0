"""An adapter on a dataset it was not tuned on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hybrid_data import make_pairs, save_tiny

from recbole_hnlm.llm.hybrid import BaseSettings, FineTuneSettings, GenerateSettings, fine_tune, generate, transfer
from recbole_hnlm.llm.hybrid.adapter import load_adapter, read_info

TUNED = FineTuneSettings(
    batch_size=16, epochs=3, extra_negatives=8, held_out=0.2, validation_pairs=120, learning_rate=2e-3, projector_learning_rate=3e-3,
    evaluations=3,
)  # fmt: skip
LORA = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def adapter(llama: BaseSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned") / "adapter"
    fine_tune(make_pairs(200), llama, TUNED, folder)
    return folder


@pytest.mark.slow
def test_refitting_tunes_the_projector_alone(llama: BaseSettings, adapter: Path, tmp_path: Path) -> None:
    """Another dataset, of other users and embeddings of another width, on the items the adapter knows."""
    mall = make_pairs(200, "mall", width=12, seed=3)
    report = transfer(mall, adapter, llama, TUNED, tmp_path / "mall")
    assert (tmp_path / "mall" / LORA).read_bytes() == (adapter / LORA).read_bytes()
    assert report.tuned.accuracy > 0.5 > 0.2 > max(report.untuned.accuracy, report.zeroed.accuracy)
    info = read_info(tmp_path / "mall")
    assert dict(info.projectors) == {"mall": (12, TUNED.projector_width)}
    assert transfer(mall, adapter, llama, TUNED, tmp_path / "mall") == report  # done already
    rows = np.load(generate(mall, tmp_path / "mall", llama, GenerateSettings(), tmp_path).path)
    assert len(rows) == len(mall)


def test_the_mean_says_nothing_of_the_embeddings(llama: BaseSettings, adapter: Path, tmp_path: Path) -> None:
    mall = make_pairs(30, "mall", width=12, seed=3)
    report = transfer(mall, adapter, llama, TUNED, tmp_path / "mall", method="mean")
    assert (report.pairs, report.steps) == (0, 0)
    assert report.tuned == report.untuned == report.shuffled
    moved = replace(mall, user_vectors=mall.user_vectors[::-1].copy(), item_vectors=-mall.item_vectors)
    one, other = (
        np.load(generate(pairs, tmp_path / "mall", llama, GenerateSettings(), tmp_path).path) for pairs in (mall, moved)
    )
    np.testing.assert_array_equal(one, other)
    # Each of the two tokens is the mean of those that the adapter was tuned with.
    old = load_adapter(adapter, llama)[0].model.projector("toy")
    new = load_adapter(tmp_path / "mall", llama)[0].model.projector("mall")
    toy = make_pairs(200)
    vectors = torch.from_numpy(np.stack([toy.user_vectors[:48], toy.item_vectors], axis=1))
    with torch.no_grad():
        seen = old(vectors)
        users = old(torch.from_numpy(np.stack([toy.user_vectors] * 2, axis=1)))[:, 0].mean(dim=0)
        token = new(torch.zeros(1, 2, 12))[0]
    used = np.unique(toy.item_of_pair)
    np.testing.assert_allclose(token[0].numpy(), users.numpy(), atol=1e-5)
    np.testing.assert_allclose(token[1].numpy(), seen[used, 1].mean(dim=0).numpy(), atol=1e-5)


def test_what_cannot_be_transferred_is_refused(llama: BaseSettings, adapter: Path, tmp_path: Path) -> None:
    mall = make_pairs(30, "mall")
    with pytest.raises(ValueError, match="was tuned on toy and needs no transfer"):
        transfer(make_pairs(), adapter, llama, TUNED, tmp_path / "out")
    with pytest.raises(ValueError, match="llm_transfer='median' is unknown"):
        transfer(mall, adapter, llama, TUNED, tmp_path / "out", method="median")  # type: ignore[arg-type]
    other = replace(llama, base=str(save_tiny(tmp_path / "other", "Qwen2")))
    with pytest.raises(ValueError, match="use the same base model"):
        transfer(mall, adapter, other, TUNED, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_detour_does_not_hide_which_pairs_were_tuned_on(llama: BaseSettings, adapter: Path, tmp_path: Path) -> None:
    transfer(make_pairs(30, "mall"), adapter, llama, TUNED, tmp_path / "there", method="mean")
    with pytest.raises(ValueError, match="was tuned on other training pairs of toy"):
        transfer(make_pairs(25), tmp_path / "there", llama, TUNED, tmp_path / "back", method="mean")
    assert transfer(make_pairs(200), tmp_path / "there", llama, TUNED, tmp_path / "back", method="mean").tuned.pairs
