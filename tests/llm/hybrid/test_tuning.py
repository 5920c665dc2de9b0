"""Fine-tuning: what it learns, that it needs the soft tokens, and that a killed run goes on where it stood."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hybrid_data import make_pairs

from recbole_hnlm.llm.hybrid import BaseSettings, FineTuneSettings, PairTexts, fine_tune, read_template, tuning
from recbole_hnlm.llm.hybrid.adapter import load_adapter, read_info
from recbole_hnlm.llm.hybrid.pairs import split_pairs
from recbole_hnlm.llm.hybrid.run import tuning_fingerprint


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix == ".safetensors"}


@pytest.mark.slow
def test_tuning_finds_the_labels_and_soft_tokens_are_what_tells(llama: BaseSettings, tmp_path: Path) -> None:
    """The profiles say nothing of the label, so that only the embeddings can tell."""
    settings = FineTuneSettings(
        batch_size=16, epochs=3, extra_negatives=8, held_out=0.2, validation_pairs=120, learning_rate=2e-3,
        projector_learning_rate=3e-3, evaluations=4,
    )  # fmt: skip
    report = fine_tune(make_pairs(200), llama, settings, tmp_path / "adapter")
    assert report.tuned.accuracy > 0.5 > 0.15 > report.untuned.accuracy
    assert max(report.zeroed.accuracy, report.shuffled.accuracy) < 0.15
    assert "adapter-checkpoints" not in os.listdir(tmp_path)
    assert f"{report.tuned.accuracy:.2%}" in report.table()


def test_an_adapter_read_back_is_the_one_that_was_tuned(
    llama: BaseSettings, pairs: PairTexts, quick: FineTuneSettings, tmp_path: Path
) -> None:
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    report = fine_tune(pairs, llama, quick, tmp_path / "adapter")
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == state[1:]
    info = read_info(tmp_path / "adapter")
    assert (info.lora, info.projectors, info.settings["batch_size"]) == (True, {"toy": (8, 16)}, 16)
    assert {path.suffix for path in (tmp_path / "adapter").iterdir()} == {".safetensors", ".json"}
    base, _ = load_adapter(tmp_path / "adapter", llama)
    assert not [name for name, weight in base.model.named_parameters() if weight.requires_grad]
    before = _files(tmp_path / "adapter")
    assert fine_tune(pairs, llama, quick, tmp_path / "adapter") == report  # done already
    assert fine_tune(pairs, llama, replace(quick, seed=1), tmp_path / "adapter") != report
    assert _files(tmp_path / "adapter") != before
    fine_tune(pairs, llama, quick, tmp_path / "again")
    assert _files(tmp_path / "again") == before


def test_a_copy_of_the_base_model_is_the_same_base(
    llama: BaseSettings, quick: FineTuneSettings, pairs: PairTexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(llama.base, tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    asked = [replace(llama, base=base) for base in (llama.base, str(tmp_path / "copy"), "copy")]
    assert len({tuning_fingerprint([pairs], base, quick, read_template()) for base in asked}) == 1
    weights = next((tmp_path / "copy").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    assert tuning_fingerprint([pairs], asked[1], quick, read_template()) != tuning_fingerprint(
        [pairs], llama, quick, read_template()
    )


def test_pairs_of_several_datasets_share_lora_and_have_projectors_of_their_own(
    llama: BaseSettings, quick: FineTuneSettings, tmp_path: Path
) -> None:
    sources = [make_pairs(24, "shop"), make_pairs(40, "mall", width=12, seed=5)]
    report = fine_tune(sources, llama, replace(quick, pairs=200, validation_pairs=30), tmp_path / "adapter")
    assert (report.pairs, report.held_out) == (200, 30)
    assert read_info(tmp_path / "adapter").projectors == {"shop": (8, 16), "mall": (12, 16)}
    with pytest.raises(ValueError, match="each with a name of its own"):
        fine_tune([sources[0], sources[0]], llama, quick, tmp_path / "other")


@pytest.mark.parametrize("family", ("Llama", "Qwen2", "Mistral", "Bert"))
def test_every_family_is_tuned_with_checkpointed_gradients(
    family: str, tiny: dict[str, Path], pairs: PairTexts, quick: FineTuneSettings, tmp_path: Path
) -> None:
    """Gradient checkpointing changes no weight; accumulation halves the steps."""
    base = BaseSettings(base=str(tiny[family]), prompt_tokens=96, label_tokens=16, precision="float32")
    settings = replace(quick, lora_dropout=0.0)
    plain = fine_tune(pairs, base, settings, tmp_path / "plain")
    fine_tune(pairs, base, replace(settings, gradient_checkpointing=True), tmp_path / "saved")
    one, other = load_adapter(tmp_path / "plain", base)[0], load_adapter(tmp_path / "saved", base)[0]
    for (name, weight), same in zip(one.model.named_parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(weight, same, atol=1e-5, rtol=1e-4, msg=name)
    moved = [weight for name, weight in one.model.named_parameters() if "lora_B" in name]
    assert moved and all(float(weight.abs().max()) > 0 for weight in moved)
    halved = fine_tune(pairs, base, replace(settings, accumulation=2), tmp_path / "accumulated")
    assert halved.steps == -(-plain.steps // 2)


@pytest.mark.parametrize("by", ("user", "pair"))
def test_held_out_pairs_are_never_tuned_on(pairs: PairTexts, by: str) -> None:
    tuned, held = split_pairs(pairs, 0.25, by, np.random.default_rng(0))
    assert sorted([*tuned, *held]) == pairs.trainable.tolist()
    assert len(held) == pytest.approx(0.25 * len(pairs.trainable), rel=0.1)
    shared = set(pairs.user_of_pair[tuned]) & set(pairs.user_of_pair[held])
    assert bool(shared) is (by == "pair")


def test_tuning_stops_when_validation_gets_no_better(llama: BaseSettings, pairs: PairTexts, tmp_path: Path) -> None:
    """With a rate that ruins the model the first adapters are the best."""
    settings = FineTuneSettings(
        batch_size=16, epochs=10, held_out=0.2, learning_rate=0.5, projector_learning_rate=0.5, evaluations=20,
        patience=2, warmup=0.5,
    )  # fmt: skip
    report = fine_tune(pairs, llama, settings, tmp_path / "adapter")
    assert report.steps < 60
    assert report.tuned.loss < 8


def test_curves_for_tensorboard(llama: BaseSettings, pairs: PairTexts, quick: FineTuneSettings, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fine_tune(pairs, llama, replace(quick, tensorboard=True), tmp_path / "adapter")
    (events,) = (tmp_path / "adapter-runs").rglob("events.out.*")
    curves = EventAccumulator(str(events)).Reload()
    assert {"train/loss", "eval/loss", "eval/retrieval_accuracy"} <= set(curves.Tags()["scalars"])
    assert len(curves.Scalars("eval/loss")) >= 2


def test_the_rate_warms_up_and_then_falls(
    llama: BaseSettings, pairs: PairTexts, quick: FineTuneSettings, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = replace(quick, tensorboard=True, warmup=0.5, epochs=4)
    fine_tune(pairs, llama, settings, tmp_path / "adapter")
    (events,) = (tmp_path / "adapter-runs").rglob("events.out.*")
    rates = [point.value for point in EventAccumulator(str(events)).Reload().Scalars("train/learning_rate")]
    top = rates.index(max(rates))
    assert len(rates) >= 8 and 0.3 < top / len(rates) < 0.7
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[0] < 0.5 * settings.projector_learning_rate <= 0.55 * max(rates)


CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from test_tuning import tune_slowly
torch.set_num_threads(1)
tune_slowly(sys.argv[2], sys.argv[3])
"""


def tune_slowly(base: str, output: str) -> None:
    """A tuning with a checkpoint every few steps."""
    settings = FineTuneSettings(
        batch_size=16, epochs=5, extra_negatives=8, held_out=0.2, lora_rank=4, projector_width=16, evaluations=10,
        patience=10,
    )  # fmt: skip
    fine_tune(
        make_pairs(60),
        BaseSettings(base=base, prompt_tokens=64, label_tokens=16, precision="float32"),
        settings,
        output,
    )


@pytest.mark.slow
def test_a_killed_tuning_goes_on_and_ends_with_the_same_bytes(llama: BaseSettings, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    tune_slowly(llama.base, str(whole))
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), llama.base, str(cut)]
    victim = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("cut-checkpoints/*/checkpoint-*/trainer_state.json")) and time.monotonic() < deadline:
        assert victim.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert not cut.exists()
    # What a crash within a checkpoint leaves: a newer one without its state.
    (run,) = (tmp_path / "cut-checkpoints").iterdir()
    (run / "checkpoint-999").mkdir()
    started = len(list(run.glob("checkpoint-*")))
    tune_slowly(llama.base, str(cut))
    assert started >= 2
    assert _files(cut) == _files(whole)
    assert not (tmp_path / "cut-checkpoints").exists()


@pytest.mark.parametrize("seed", [0, 4])
def test_a_tuning_killed_after_its_last_step_takes_no_other(
    seed: int, llama: BaseSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = FineTuneSettings(
        batch_size=16, epochs=6, held_out=0.2, learning_rate=3e-2, projector_learning_rate=3e-2, evaluations=20,
        patience=1, warmup=0.0, extra_negatives=4, lora_rank=4, projector_width=16, seed=seed,
    )  # fmt: skip
    pairs = make_pairs(40, seed=seed)
    whole = fine_tune(pairs, llama, settings, tmp_path / "whole")

    def killed(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(tuning, "write_adapter", killed)
        fine_tune(pairs, llama, settings, tmp_path / "cut")
    assert fine_tune(pairs, llama, settings, tmp_path / "cut").steps == whole.steps
    for name in ("soft_tokens.safetensors", "adapter_model.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_patience_lasts_over_a_resumed_tuning(
    llama: BaseSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rates that are far too high make the loss jump, and the tuning is cut off while it has not improved for a while."""
    from recbole_hnlm.llm.hybrid.trainer import ContrastiveTrainer

    settings = FineTuneSettings(
        batch_size=16, epochs=10, held_out=0.2, learning_rate=0.5, projector_learning_rate=0.5, evaluations=20,
        patience=3, warmup=0.5, extra_negatives=4, lora_rank=4, projector_width=16,
    )  # fmt: skip
    evaluate, losses, last = ContrastiveTrainer.evaluate, [], [0]

    def watched(self: ContrastiveTrainer, *args: Any, **kwargs: Any) -> Any:
        if len(losses) == last[0]:
            raise KeyboardInterrupt
        found = evaluate(self, *args, **kwargs)
        losses.append(found["eval_loss"])
        return found

    monkeypatch.setattr(ContrastiveTrainer, "evaluate", watched)
    last[0] = -1
    whole = fine_tune(make_pairs(60), llama, settings, tmp_path / "whole").steps
    undisturbed = losses.copy()
    assert len(undisturbed) < 20 and min(undisturbed) == undisturbed[-4], "nothing to forget; take other settings"
    losses.clear()
    last[0] = len(undisturbed) - 1
    with pytest.raises(KeyboardInterrupt):
        fine_tune(make_pairs(60), llama, settings, tmp_path / "cut")
    last[0] = -1
    assert fine_tune(make_pairs(60), llama, settings, tmp_path / "cut").steps == whole
    assert losses == undisturbed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch_size": 0}, "llm_tune_batch_size=0 must be above 0"),
        ({"held_out": 1.0}, "llm_tune_held_out=1.0 must be above 0 and below 1"),
        ({"held_out_by": "item"}, "llm_tune_held_out_by='item'"),
        ({"batch_size": 1, "extra_negatives": 0}, "leaves no negatives"),
        ({"temperature": -1.0}, "llm_tune_temperature=-1.0"),
        ({"lora_rank": -1}, "0 turns it off"),
        ({"warmup": 1.0}, "llm_tune_warmup=1.0 must be within 0 to 1"),
    ],
)
def test_settings_are_checked(change: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(FineTuneSettings(), **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"user_of_pair": np.array([0])}, "expected one of each for every training pair"),
        ({"hard_item_of_pair": np.full(144, 99)}, "items 99 to 99 in pairs, expected -1 to 47"),
        ({"item_vectors": np.ones((48, 3), dtype=np.float32)}, "take both from one teacher"),
        ({"user_vectors": np.full((24, 8), np.nan, dtype=np.float32)}, "user_vectors has NaN"),
        ({"user_profiles": ["one"]}, "1 user profiles"),
        ({"name": "a.b"}, "give one without a dot"),
    ],
)
def test_pairs_that_do_not_line_up_are_refused(pairs: PairTexts, change: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(pairs, **change)  # type: ignore[arg-type]


def test_half_precision_and_too_few_pairs_are_refused_before_a_model_is_loaded(
    pairs: PairTexts, quick: FineTuneSettings, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="llm_precision=float16 cannot be fine-tuned"):
        fine_tune(pairs, BaseSettings(base="nowhere", precision="float16"), quick, tmp_path / "adapter")
    none = replace(pairs, hard_item_of_pair=np.full(len(pairs), -1))
    with pytest.raises(ValueError, match="0 pairs of 0 users have a hard negative"):
        split_pairs(none, 0.1, "user", np.random.default_rng(0))


def test_labels_that_are_all_the_same_are_refused(
    llama: BaseSettings, pairs: PairTexts, quick: FineTuneSettings, tmp_path: Path
) -> None:
    same = replace(pairs, hard_item_of_pair=np.full(len(pairs), 7))
    with pytest.raises(ValueError, match="toy: all pairs have the same hard negative"):
        fine_tune(same, llama, quick, tmp_path / "adapter")
