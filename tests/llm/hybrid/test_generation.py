"""Vectors of all pairs: the order of the pairs, whole or nothing, and the same bytes however a run went."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hybrid_data import make_pairs, save_tiny

from recbole_hnlm.llm.hybrid import (
    BaseSettings,
    FineTuneSettings,
    GenerateSettings,
    PairTexts,
    encode_items,
    fine_tune,
    generate,
    read_template,
)
from recbole_hnlm.llm.hybrid.adapter import load_adapter
from recbole_hnlm.llm.hybrid.contrast import contrastive_batch, contrastive_loss
from recbole_hnlm.llm.hybrid.encoder import SoftTokenProjector, encode
from recbole_hnlm.llm.hybrid.loading import load_base
from recbole_hnlm.llm.hybrid.prompts import PromptBuilder
from recbole_hnlm.training.processes import free_port

SMALL = GenerateSettings(batch_tokens=256, part_pairs=25)


@pytest.fixture(scope="module")
def adapter(llama: BaseSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama tuned for a few steps on the toy pairs."""
    folder = tmp_path_factory.mktemp("tuned") / "adapter"
    settings = FineTuneSettings(batch_size=16, epochs=2, held_out=0.2, lora_rank=4, projector_width=16, evaluations=1)
    fine_tune(make_pairs(), llama, settings, folder)
    return folder


def test_vectors_are_those_of_training_in_the_order_of_the_pairs(
    llama: BaseSettings, pairs: PairTexts, adapter: Path, tmp_path: Path
) -> None:
    report = generate(pairs, adapter, llama, SMALL, tmp_path)
    rows = np.load(report.path, mmap_mode="r")
    assert (rows.dtype, rows.shape) == (np.float16, (len(pairs), 64))
    loaded, info = load_adapter(adapter, llama)
    builder = PromptBuilder(pairs, info.template, loaded.tokens, info.lengths)
    places = np.array([3, 140, 77, 0, 51])
    with torch.no_grad():
        expected = loaded.model(contrastive_batch(builder, places, np.arange(4)).prompts).numpy()
    np.testing.assert_allclose(rows[places], expected, atol=5e-4)  # half precision
    assert report.made == report.pairs == len(pairs)
    assert report.tokens == int(builder.lengths(np.arange(len(pairs))).sum())
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".npy"]
    again = generate(pairs, adapter, llama, SMALL, tmp_path)
    assert (again.path, again.made) == (report.path, 0)


def test_what_is_damaged_is_made_anew_and_whatever_matters_names_another_file(
    llama: BaseSettings, pairs: PairTexts, adapter: Path, tmp_path: Path
) -> None:
    first = generate(pairs, adapter, llama, SMALL, tmp_path)
    expected = first.path.read_bytes()
    first.path.write_bytes(expected[:100])
    again = generate(pairs, adapter, llama, SMALL, tmp_path)
    assert again.made == len(pairs)
    assert again.path.read_bytes() == expected
    texts = ["buys pens", *pairs.user_profiles[1:]]
    for other in (replace(pairs, user_profiles=texts), replace(pairs, item_vectors=2 * pairs.item_vectors)):
        assert generate(other, adapter, llama, SMALL, tmp_path).path != first.path


def test_items_lie_in_the_space_of_the_pairs(llama: BaseSettings, pairs: PairTexts, adapter: Path) -> None:
    texts = replace(pairs, item_profiles=["", *pairs.item_profiles[1:]])
    vectors = encode_items(texts, adapter, llama, SMALL)
    assert vectors.shape == (len(texts.item_profiles), 64)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [0.0] + [1.0] * 47, atol=1e-5)


def test_an_adapter_of_another_base_dataset_or_width_is_refused(
    llama: BaseSettings, pairs: PairTexts, adapter: Path, tmp_path: Path
) -> None:
    other = replace(llama, base=str(save_tiny(tmp_path / "other", "Llama", seed=1)))
    with pytest.raises(ValueError, match="was tuned on .*; use the same base model"):
        generate(pairs, adapter, other, SMALL, tmp_path)
    with pytest.raises(ValueError, match=r"soft tokens for \['toy'\], not for mall; transfer it to mall first"):
        generate(replace(pairs, name="mall"), adapter, llama, SMALL, tmp_path)
    with pytest.raises(ValueError, match="embeddings of width 8 of toy, these are 12 wide"):
        generate(make_pairs(width=12), adapter, llama, SMALL, tmp_path)
    with pytest.raises(FileNotFoundError, match="give the folder of a fine-tuned adapter as llm_adapter"):
        generate(pairs, tmp_path, llama, SMALL, tmp_path)


@pytest.mark.parametrize("name", ("soft_tokens.safetensors", "adapter_model.safetensors", "hybrid.json"))
def test_a_truncated_adapter_is_refused(
    name: str, llama: BaseSettings, pairs: PairTexts, adapter: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in adapter.iterdir():
        data = path.read_bytes()
        (copy / path.name).write_bytes(data[: len(data) // 2] if path.name == name else data)
    with pytest.raises(ValueError, match="tune (it|the adapter) anew"):
        generate(pairs, copy, llama, SMALL, tmp_path)
    (copy / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        generate(pairs, copy, llama, SMALL, tmp_path)


def _gradient(base: BaseSettings, pairs: PairTexts, validated: bool) -> float:
    """Norm of a projector's gradient after one step, with an evaluation before it or without."""
    loaded = load_base(base)
    projector = SoftTokenProjector(pairs.width, 4, loaded.model.width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.nn.init.normal_(projector.hidden.weight)
        torch.nn.init.normal_(projector.out.weight)
    torch.nn.init.zeros_(projector.hidden.bias)
    torch.nn.init.zeros_(projector.out.bias)
    loaded.model.add_projector(pairs.name, projector)
    builder = PromptBuilder(pairs, read_template(), loaded.tokens, loaded.lengths)
    batch = contrastive_batch(builder, np.arange(8), np.arange(4))
    if validated:
        encode(loaded.model, batch.prompts)
    loaded.model.train()
    contrastive_loss(loaded.model, batch, 0.05).backward()
    assert projector.out.weight.grad is not None
    return float(projector.out.weight.grad.norm())


@pytest.mark.parametrize("family", ("Llama", "Qwen2"))
def test_nf4_lora_and_generation_on_the_cpu(
    family: str, tiny: dict[str, Path], pairs: PairTexts, quick: FineTuneSettings, tmp_path: Path
) -> None:
    """Four bits change the vectors a little; tuning and generation go through all the same.

    The weights that are trained get the gradients of a model that never validated (bitsandbytes packs weights for the
    CPU on the first evaluation, and packed ones have no backward pass).
    """
    pytest.importorskip("bitsandbytes")
    base = BaseSettings(
        base=str(tiny[family]), prompt_tokens=96, label_tokens=16, precision="float32", quantization="nf4"
    )
    report = fine_tune(pairs, base, quick, tmp_path / "adapter")
    assert report.tuned.loss < report.untuned.loss
    loaded, info = load_adapter(tmp_path / "adapter", base)
    kinds = {type(module).__name__ for module in loaded.model.modules()}
    assert "Linear4bit" in kinds
    assert _gradient(base, pairs, validated=True) == pytest.approx(_gradient(base, pairs, validated=False), rel=1e-5)
    found = np.load(generate(pairs, tmp_path / "adapter", base, SMALL, tmp_path).path)
    whole = np.load(generate(pairs, tmp_path / "adapter", replace(base, quantization="none"), SMALL, tmp_path).path)
    cosines = (found.astype(np.float32) * whole).sum(axis=1)
    assert 0.9 < cosines.min() < cosines.max() < 1.001
    assert np.abs(found - whole).max() > 1e-3


def test_half_precision(llama: BaseSettings, pairs: PairTexts, adapter: Path, tmp_path: Path) -> None:
    exact = np.load(generate(pairs, adapter, llama, SMALL, tmp_path).path).astype(np.float32)
    half = np.load(generate(pairs, adapter, replace(llama, precision="bfloat16"), SMALL, tmp_path).path)
    assert (exact * half).sum(axis=1).min() > 0.99
    assert np.abs(exact - half).max() > 1e-4


CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
import test_generation
import torch
torch.set_num_threads(1)
made = getattr(test_generation, sys.argv[2])(*sys.argv[3:])
sys.stdout.write(f"\\nmade vectors of {made};\\n")  # in one piece, since two processes write
"""


def make_many(base: str, adapter: str, output: str) -> int:
    """Vectors of a few thousand pairs in many parts, in the group that the environment describes."""
    from recbole_hnlm.llm.sharding import group

    many = replace(make_pairs(400), user_vectors=np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32))
    with group():
        settings = BaseSettings(base=base, prompt_tokens=64, label_tokens=16, precision="float32")
        return generate(many, adapter, settings, GenerateSettings(batch_tokens=512, part_pairs=100), output).made


def _script(folder: Path) -> list[str]:
    """Words that run a function of this file in another process; its name and arguments follow."""
    script = folder / "child.py"
    script.write_text(CHILD)
    return [str(script), str(Path(__file__).parent)]


def _by_torchrun(folder: Path, function: str, *words: str) -> list[int]:
    """Run a function of this file in two processes; what it returned in each."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command = [*torchrun, *_script(folder), function, *words]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return [int(number) for number in re.findall(r"made vectors of (\d+);", done.stdout)]


def _on_two_hosts(folder: Path, function: str, *words: str) -> list[int]:
    """As :func:`_by_torchrun`, with an agent of torchrun for each process, as two machines would have."""
    place = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={free_port()}"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *place]
    agents = [
        subprocess.Popen(
            [*torchrun, f"--node-rank={rank}", *_script(folder), function, *words],
            env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [agent.communicate(timeout=150) for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    return [int(number) for out, _ in said for number in re.findall(r"made vectors of (\d+);", out)]


def _vectors(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.npy")}


def _environment() -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return {**clean, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.slow
def test_killed_and_resumed_the_bytes_are_the_same(llama: BaseSettings, adapter: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    make_many(llama.base, str(adapter), str(whole))
    expected = _vectors(whole)
    assert len(expected) == 1
    alone = [sys.executable, *_script(tmp_path), "make_many", llama.base, str(adapter), str(cut)]
    victim = subprocess.Popen(alone, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(cut.glob("parts-*/*.npy"))) < 5 and time.monotonic() < deadline:
        assert victim.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert not _vectors(cut)
    kept = sorted(cut.glob("parts-*/part-*.npy"))
    assert 5 <= len(kept) < 24
    kept[0].write_bytes(kept[0].read_bytes()[:-7])
    make_many(llama.base, str(adapter), str(cut))
    assert _vectors(cut) == expected


@pytest.mark.slow
def test_two_hosts_make_the_vectors_of_one(llama: BaseSettings, adapter: Path, tmp_path: Path) -> None:
    expected = make_many(llama.base, str(adapter), str(tmp_path / "whole"))
    done = _on_two_hosts(tmp_path, "make_many", llama.base, str(adapter), str(tmp_path / "both"))
    assert len(done) == 2 and sum(done) == expected and min(done) > 0
    assert _vectors(tmp_path / "both") == _vectors(tmp_path / "whole")


def tune_and_make(base: str, output: str) -> int:
    """A tuning and vectors of some pairs, in the group that the environment describes."""
    from recbole_hnlm.llm.sharding import group

    settings = FineTuneSettings(batch_size=16, epochs=2, held_out=0.2, lora_rank=4, projector_width=16, evaluations=1)
    folder, llama = Path(output), BaseSettings(base=base, prompt_tokens=64, label_tokens=16, precision="float32")
    with group():
        report = fine_tune(make_pairs(), llama, settings, folder / "adapter")
        assert report.steps > 0
        return generate(make_pairs(), folder / "adapter", llama, SMALL, folder).made


@pytest.mark.slow
def test_in_a_group_one_process_tunes_and_all_generate(llama: BaseSettings, tmp_path: Path) -> None:
    tune_and_make(llama.base, str(tmp_path / "whole"))
    done = _by_torchrun(tmp_path, "tune_and_make", llama.base, str(tmp_path / "both"))
    assert sum(done) == len(make_pairs())
    assert min(done) > 0
    assert _vectors(tmp_path / "both") == _vectors(tmp_path / "whole")
    for name in ("adapter_model.safetensors", "adapter_config.json", "soft_tokens.safetensors"):
        one, other = ((tmp_path / folder / "adapter" / name).read_bytes() for folder in ("whole", "both"))
        assert one == other, name


@pytest.mark.slow
def test_two_processes_make_the_bytes_of_one(llama: BaseSettings, adapter: Path, tmp_path: Path) -> None:
    whole, both = tmp_path / "whole", tmp_path / "both"
    make_many(llama.base, str(adapter), str(whole))
    made = _by_torchrun(tmp_path, "make_many", llama.base, str(adapter), str(both))
    assert _vectors(both) == _vectors(whole)
    assert sum(made) == 2400
    assert min(made) > 0.8 * max(made)
