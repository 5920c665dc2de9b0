"""The main job as a user calls it: results, resuming, checkpoints, command line, errors before training."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole_runs import ITEMS, settings, write_dataset

from recbole_hnlm import quick_start, run_recbole_hnlm
from recbole_hnlm.compat.checkpoints import plain_state
from recbole_hnlm.config import HNLMConfig, MainConfig
from recbole_hnlm.export import export_checkpoint
from recbole_hnlm.quick_start import build_model, prepare
from recbole_hnlm.training import watching

TEXT: dict[str, Any] = {"llm_teacher_epochs": 1, "hnlm_min_coverage": 0.1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_dataset(tmp_path)


def test_result_holds_recboles_and_ours(folder: Path) -> None:
    values = settings(folder, "LightGCN", hnlm_alpha=0.1, hnlm_log_false_negatives=True, **TEXT)
    result = run_recbole_hnlm("LightGCN", "tiny", config_dict=values)
    assert {"best_valid_score", "valid_score_bigger", "best_valid_result", "test_result"} < set(result)
    ours = result["hnlm"]
    assert ours["epochs"] == 2 and ours["options"]["hnlm_alpha"] == 0.1 and ours["fit_seconds"] > 0
    assert ours["options"]["neg_sampler_candidates"] == 8  # of so small a catalogue, where nobody says how many
    told = ours["negatives"][0]
    assert {"rank_loss", "alignment_loss", "coverage", "hardness", "negative_popularity", "false_negative_rate"} <= set(
        told
    )
    assert 0 <= told["false_negative_rate"] <= 1 and told["coverage"] == pytest.approx(1.0)


def test_the_test_is_that_of_the_best_epoch(folder: Path) -> None:
    """As a run that ends with that epoch; the last epoch's weights, which an unsaved run is tested with, are others."""
    values = settings(folder, "BPR", neg_sampler="uniform", epochs=12, learning_rate=0.05)
    result = run_recbole_hnlm("BPR", "tiny", config_dict=values)
    best = result["hnlm"]["best_epoch"]
    assert best + 1 < result["hnlm"]["epochs"] == 12
    ended = run_recbole_hnlm("BPR", "tiny", config_dict={**values, "epochs": best + 1}, saved=False)
    last = run_recbole_hnlm("BPR", "tiny", config_dict=values, saved=False)
    assert result["test_result"] == ended["test_result"] != last["test_result"]


@pytest.mark.parametrize(
    ("model", "sampler"), [("Random", "none"), ("MacridVAE", "none"), ("SGL", "none"), ("SGL", "recbole")]
)
def test_models_that_draw_by_themselves_draw_what_recboles_do(folder: Path, model: str, sampler: str) -> None:
    """RecBole passes a batch through every model before it trains, to count operations."""
    from recbole.quick_start import run_recbole

    values = settings(folder, model)
    ours = run_recbole_hnlm(model, "tiny", config_dict={**values, "neg_sampler": sampler})
    assert ours["test_result"] == run_recbole(model, "tiny", config_dict=values)["test_result"]


def test_a_saved_dataset_is_read_where_recbole_reads_it(folder: Path) -> None:
    values = settings(folder, "BPR", neg_sampler="dns", epochs=1, checkpoint_dir=str(folder / "saved"))
    made = run_recbole_hnlm("BPR", "tiny", config_dict={**values, "save_dataset": True})
    (folder / "tiny").rename(folder / "moved")
    assert run_recbole_hnlm("BPR", "tiny", config_dict=values)["test_result"] == made["test_result"]
    (folder / "saved" / "tiny-Dataset.pth").unlink()
    with pytest.raises(FileNotFoundError, match=r"needs tiny\.inter"):
        run_recbole_hnlm("BPR", "tiny", config_dict=values)


def test_labels_of_a_pointwise_model_may_have_another_name(folder: Path) -> None:
    told = [
        run_recbole_hnlm("NeuMF", "tiny", config_dict=settings(folder, "NeuMF", neg_sampler="dns", epochs=1, **named))
        for named in ({}, {"LABEL_FIELD": "lab"})
    ]
    assert told[0]["test_result"] == told[1]["test_result"]
    losses = [one["hnlm"]["negatives"][0]["rank_loss"] for one in told]
    assert losses[0] == losses[1] > 0


def test_scalars_reach_tensorboard(folder: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_recbole_hnlm("BPR", "tiny", config_dict=settings(folder, "BPR", neg_sampler="dns"))
    tags: set[str] = set()
    for events in Path("log_tensorboard").rglob("events*"):
        tags |= set(EventAccumulator(str(events.parent)).Reload().Tags()["scalars"])
    assert {"HNLM/rank_loss", "HNLM/hardness", "HNLM/negative_popularity"} <= tags


def test_logging_false_negatives_changes_nothing(folder: Path) -> None:
    base = settings(folder, "BPR", hnlm_alignment_weight=0.01, **TEXT)
    quiet = run_recbole_hnlm("BPR", "tiny", config_dict=base)
    told = run_recbole_hnlm("BPR", "tiny", config_dict={**base, "hnlm_log_false_negatives": True})
    assert quiet["test_result"] == told["test_result"]


def test_a_model_without_negatives_runs_plain_and_refuses_samplers(folder: Path) -> None:
    result = run_recbole_hnlm("EASE", "tiny", config_dict=settings(folder, "EASE", neg_sampler="none"))
    assert result["test_result"]["recall@5"] > 0
    with pytest.raises(ValueError, match="EASE has no gradient steps.*run it with neg_sampler: none"):
        run_recbole_hnlm("EASE", "nowhere", config_dict=settings(folder, "EASE", neg_sampler="dns"))


def test_processes_on_several_hosts_draw_apart(folder: Path) -> None:
    """The second host's first process has the local rank of the first's."""
    config = HNLMConfig("BPR", "tiny", config_dict=settings(folder, "BPR", neg_sampler="dns"))
    loader = prepare(config)[0]
    seen = []
    for rank in (0, 2):
        config.final_config_dict["group_rank"] = rank
        build_model(config, loader)
        seen.append(torch.initial_seed() - config["seed"])
    assert seen == [0, 2]


def test_checkpoint_loads_in_plain_recbole_and_resumes(folder: Path) -> None:
    values = settings(folder, "LightGCN", neg_sampler="dns", neg_sampler_candidates=4, epochs=4, fast_propagation=False)
    result = run_recbole_hnlm("LightGCN", "tiny", config_dict=values)
    checkpoint = Path(result["hnlm"]["checkpoint"])
    script = f"""
import sys, torch
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "recbole_hnlm":
            raise ImportError("blocked")
sys.meta_path.insert(0, Blocked())
stored = torch.load({str(checkpoint)!r}, weights_only=False)
assert type(stored["config"]).__module__ == "recbole.config.configurator", type(stored["config"])
assert stored["config"]["neg_sampler"] == "dns"
"""
    shims = "import numpy as np\nfor n in ('float_', 'unicode_', 'complex_'): setattr(np, n, object)\n"
    subprocess.run([sys.executable, "-c", shims + script], check=True)
    config = HNLMConfig("LightGCN", "tiny", config_dict=settings(folder, "LightGCN"))
    plain = build_model(config, prepare(config)[0])
    plain.load_state_dict(plain_state(torch.load(checkpoint, weights_only=False)["state_dict"]))


@pytest.mark.parametrize("values", [{"neg_sampler": "dns"}, TEXT], ids=["dns", "text"])
def test_recboles_own_loading_ranks_as_the_run_did(folder: Path, values: dict[str, Any]) -> None:
    """Without ``register()`` it makes the bare model, of the rows that the run has trained."""
    from recbole.quick_start import load_data_and_model
    from recbole.utils import get_trainer

    result = run_recbole_hnlm("LightGCN", "tiny", config_dict=settings(folder, "LightGCN", **values))
    config, model, _, _, _, test_data = load_data_and_model(result["hnlm"]["checkpoint"])
    assert getattr(model, "hnlm", None) is None
    trainer = get_trainer(config["MODEL_TYPE"], "LightGCN")(config, model)
    again = trainer.evaluate(test_data, load_best_model=False, show_progress=False)
    assert dict(again) == pytest.approx(dict(result["test_result"]), abs=1e-6)


def test_resumed_training_goes_on_as_if_it_had_not_stopped(folder: Path) -> None:
    from recbole.utils import get_trainer

    def trainer_for(epochs: int) -> tuple[Any, Any]:
        config = HNLMConfig(
            "BPR", "tiny", config_dict=settings(folder, "BPR", neg_sampler="dns", epochs=epochs, shuffle=False)
        )
        loaders = prepare(config)
        return get_trainer(config["MODEL_TYPE"], "BPR")(config, build_model(config, loaders[0])), loaders

    straight, loaders = trainer_for(4)
    straight.fit(loaders[0], saved=False)
    first, loaders = trainer_for(2)
    first.fit(loaders[0])
    second, loaders = trainer_for(4)
    second.resume_checkpoint(first.saved_model_file)
    second.fit(loaders[0], saved=False)
    for name, weight in straight.model.named_parameters():
        assert torch.equal(weight, dict(second.model.named_parameters())[name]), name


def test_a_resumed_curve_goes_on_in_its_epochs(folder: Path) -> None:
    from recbole.utils import get_trainer

    trainers = []
    for epochs in (2, 4):
        config = HNLMConfig("BPR", "tiny", config_dict=settings(folder, "BPR", neg_sampler="dns", epochs=epochs))
        loaders = prepare(config)
        trainer = watching.watching(get_trainer(config["MODEL_TYPE"], "BPR"))(config, build_model(config, loaders[0]))
        if trainers:
            trainer.resume_checkpoint(trainers[0].saved_model_file)
        trainer.fit(*loaders[:2], show_progress=False)
        trainers.append(trainer)
    first, second = trainers
    assert [epoch for epoch, *_ in first.curve] == [0, 1] and second.start_epoch > 0
    assert [epoch for epoch, *_ in second.curve] == list(range(second.start_epoch, 4))


def test_export_holds_no_pickle(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    result = run_recbole_hnlm("BPR", "tiny", config_dict=settings(folder, "BPR", **TEXT))
    weights, config = export_checkpoint(Path(result["hnlm"]["checkpoint"]), tmp_path / "out")
    assert set(load_file(weights)) == {"user_embedding.weight", "item_embedding.weight"}
    assert json.loads(config.read_text())["dataset"] == "tiny"
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        export_checkpoint(tmp_path / "absent.pth", tmp_path / "out")


def test_dataset_without_item_file_stands_on_the_teacher(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, text=False)
    run_recbole_hnlm("BPR", "tiny", config_dict=settings(folder, "BPR", hnlm_alpha=0.1, **TEXT))
    manifest = json.loads((folder / "tiny" / "tiny.hnlm.json").read_text())
    assert manifest["provenance"]["encoder"] == "teacher"


def test_artefacts_of_another_split_are_refused_and_rebuilt_on_request(folder: Path) -> None:
    base = settings(folder, "BPR", **TEXT)
    run_recbole_hnlm("BPR", "tiny", config_dict=base)
    with pytest.raises(ValueError, match="hnlm_rebuild"):
        run_recbole_hnlm("BPR", "tiny", config_dict={**base, "seed": 1})
    run_recbole_hnlm("BPR", "tiny", config_dict={**base, "seed": 1, "hnlm_rebuild": True})


def test_a_user_who_has_everything_is_an_error_before_training(folder: Path) -> None:
    path = folder / "tiny" / "tiny.inter"
    rows = [f"greedy\ti{item}\t5\t{item}" for item in range(ITEMS)]
    path.write_text(path.read_text() + "\n".join(rows) + "\n")
    values = settings(folder, "BPR", neg_sampler="dns", eval_args={"split": {"RS": [1, 0, 0]}})
    with pytest.raises(ValueError, match="user_inter_num_interval"):
        run_recbole_hnlm("BPR", "tiny", config_dict=values)


def test_missing_files_and_unknown_datasets_say_where_to_put_them(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.inter in .*put the atomic files there"):
        run_recbole_hnlm("BPR", "nothing", config_dict=settings(folder, "BPR"))
    (folder / "tiny" / "tiny.inter").unlink()
    with pytest.raises(FileNotFoundError, match=r"tiny\.inter"):
        run_recbole_hnlm("BPR", "tiny", config_dict=settings(folder, "BPR"))


class _Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Silent."""


def test_a_dataset_that_recbole_knows_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole.data.dataset import Dataset

    served = write_dataset(tmp_path / "served", name="ml-1m")
    with zipfile.ZipFile(tmp_path / "ml-1m.zip", "w") as archive:
        for file in (served / "ml-1m").iterdir():
            archive.write(file, file.name)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/ml-1m.zip"
    monkeypatch.setattr(Dataset, "_get_download_url", lambda self, file, allow_none=False: url)
    values = settings(tmp_path / "data", "BPR", neg_sampler="uniform", epochs=1)
    try:
        result = run_recbole_hnlm("BPR", "ml-1m", config_dict=values)
    finally:
        server.shutdown()
    assert result["hnlm"]["epochs"] == 1 and (tmp_path / "data" / "ml-1m" / "ml-1m.inter").is_file()
    monkeypatch.setattr(Dataset, "_get_download_url", lambda self, file, allow_none=False: "http://127.0.0.1:9/x.zip")
    with pytest.raises(FileNotFoundError, match=r"could not download .* into .*ml-1m"):
        run_recbole_hnlm("BPR", "ml-1m", config_dict={**values, "data_path": str(tmp_path / "offline")})


def test_command_line_end_to_end(folder: Path, tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    config = tmp_path / "mine.yaml"
    config.write_text("epochs: 1\nmetrics: [Recall]\ntopk: [5]\nvalid_metric: Recall@5\n")
    flags = [
        "--dataset=tiny",
        f"--data_path={folder}",
        f"--config_files={config}",
        "--llm_teacher_epochs=1",
        "--use_gpu=False",
    ]
    env = {**os.environ, "PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": ""}

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *words, *flags], capture_output=True, text=True, env=env, check=False)

    done = call(
        str(root / "run_recbole_hnlm.py"),
        "--model=LightGCN",
        "--show_progress=False",
        "--compare_base",
        "--hnlm_alpha=0.1",
    )
    assert done.returncode == 0, done.stderr
    assert "| LightGCN, RecBole" in done.stdout + done.stderr and "| LightGCN, hnlm(dns)" in done.stdout + done.stderr
    values = {"data_path": str(folder), "neg_sampler": "none", "use_gpu": False, "show_progress": False}
    plain = run_recbole_hnlm("LightGCN", "tiny", config_file_list=[str(config)], config_dict=values)["test_result"]
    (row,) = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("| LightGCN, RecBole")]
    assert row.split("|")[2].strip() == f"{float(plain['recall@5']):.4f}"
    seen = call("-m", "recbole_hnlm.cli", "inspect")
    assert seen.returncode == 0 and "coverage" in seen.stdout, seen.stderr
    exported = call("-m", "recbole_hnlm.cli", "export")
    assert exported.returncode == 0, exported.stderr
    wrong = call(str(root / "run_recbole_hnlm.py"), "--model=LightGCN", "--hnlm_alhpa=0.2")
    assert wrong.returncode == 2 and "did you mean 'hnlm_alpha'" in wrong.stderr and "Traceback" not in wrong.stderr


def test_main_config_defaults_to_text_negatives(folder: Path) -> None:
    config = MainConfig("BPR", "tiny", config_dict=settings(folder, "BPR"))
    assert config.run is not None and config.run.hnlm is not None and config.run.sampler == "hnlm(dns)"


def test_peak_memory_is_this_programs_and_not_the_parents() -> None:
    """A parent that holds much must not show in a child's peak."""
    program = (
        "import subprocess, sys\n"
        "held = bytearray(600 << 20)\n"
        "held[::4096] = b'x' * len(held[::4096])\n"
        "child = 'from recbole_hnlm.training.watching import peak_memory_mib; print(peak_memory_mib())'\n"
        "print(subprocess.run([sys.executable, '-c', child], capture_output=True, text=True, check=True).stdout)\n"
    )
    alone = "from recbole_hnlm.training.watching import peak_memory_mib; print(peak_memory_mib())"
    peaks = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for code in (program, alone)
    ]
    assert peaks[0] < peaks[1] + 100, peaks


def test_peak_memory_of_a_gpu_is_that_of_its_tensors(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def most(device: torch.device) -> int:
        asked.append(("most", str(device)))
        return 3 << 20

    monkeypatch.setattr(torch.cuda, "max_memory_allocated", most)
    monkeypatch.setattr(torch.cuda, "init", lambda: asked.append(("init", "")))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: asked.append(("anew", str(device))))
    ours = run_recbole_hnlm("BPR", "tiny", config_dict=settings(folder, "BPR", neg_sampler="none", epochs=1))["hnlm"]
    assert ours["peak_gpu_memory_mib"] is None and not asked
    gpu = torch.device("cuda:1")  # as where RecBole has chosen one
    for name in ("forget_gpu_peak", "peak_gpu_memory_mib"):
        original = getattr(watching, name)
        monkeypatch.setattr(quick_start, name, lambda device, original=original: original(gpu))
    ours = run_recbole_hnlm("BPR", "tiny", config_dict=settings(folder, "BPR", neg_sampler="none", epochs=1))["hnlm"]
    assert ours["peak_gpu_memory_mib"] == 3.0 and ours["peak_memory_mib"] > 50
    assert asked == [("init", ""), ("anew", "cuda:1"), ("most", "cuda:1")]


def test_metrics_of_counts_are_computed(folder: Path) -> None:
    """RecBole's collector moves a Counter to the CPU, which has no such method."""
    told = ["Recall", "AveragePopularity", "GiniIndex", "ItemCoverage", "TailPercentage", "ShannonEntropy"]
    for sampler in ("none", "dns"):
        values = settings(
            folder, "BPR", neg_sampler=sampler, metrics=told, valid_metric="AveragePopularity@5", epochs=1
        )
        result = run_recbole_hnlm("BPR", "tiny", config_dict=values, saved=False)
        assert {f"{name.lower()}@5" for name in told} == set(result["test_result"])
        assert 0 < result["test_result"]["itemcoverage@5"] <= 1 and not result["valid_score_bigger"]


def test_text_of_another_encoding_and_in_quotes_is_read(tmp_path: Path) -> None:
    home = write_dataset(tmp_path)
    path = home / "tiny" / "tiny.item"
    lines = path.read_text().splitlines()
    lines[8] = '"i7"\t"Übung ""sieben"""\tmaker1'
    path.write_bytes("\n".join([*lines, ""]).encode("latin-1"))
    values = settings(home, "BPR", **TEXT, neg_sampler="hnlm", encoding="latin-1", hnlm_artefact_dir=str(home / "made"))
    run_recbole_hnlm("BPR", "tiny", config_dict=values, saved=False)
    (profiles,) = (home / "made").rglob("tiny.item_profile")
    assert 'Übung "sieben"' in profiles.read_text(encoding="utf-8")
