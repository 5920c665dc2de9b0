"""RecBole's own entry points after ``register()``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from recbole_runs import settings, write_dataset

import recbole_hnlm


@pytest.fixture
def registered(tmp_path: Path):  # type: ignore[no-untyped-def]
    write_dataset(tmp_path)
    recbole_hnlm.register()
    yield tmp_path
    recbole_hnlm.unregister()


def test_recboles_run_recbole_trains_on_our_negatives(registered: Path) -> None:
    from recbole.quick_start import run_recbole

    ours = run_recbole("BPR", "tiny", config_dict=settings(registered, "BPR", neg_sampler="dns", epochs=3))
    again = run_recbole("BPR", "tiny", config_dict=settings(registered, "BPR", neg_sampler="dns", epochs=3))
    plain = run_recbole("BPR", "tiny", config_dict=settings(registered, "BPR", epochs=3))
    assert ours == again
    assert ours["best_valid_score"] != plain["best_valid_score"]


@pytest.mark.parametrize(
    ("values", "message"),
    [({"valid_metric": "NDCG@20", "topk": [10]}, "valid_metric=NDCG@20 is not computed"),
     ({"topk": [5000]}, r"topk=\[5000\] asks for more than the \d+ items"),
     ({"topk": [5000], "valid_metric": "NDCG@5000"}, r"topk=\[5000\] asks for more than the \d+ items")],
)  # fmt: skip
def test_what_cannot_be_evaluated_is_told_before_anything_is_built(
    values: dict[str, object], message: str, registered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recbole.quick_start import run_recbole

    monkeypatch.setattr("recbole_hnlm.building.preparing.make_what_is_absent", None)
    if "valid_metric" not in values:
        values = {**values, "valid_metric": "NDCG@5000"}
    with pytest.raises(ValueError, match=message):
        run_recbole("BPR", "tiny", config_dict={**settings(registered, "BPR", neg_sampler="hnlm"), **values})


def test_a_key_that_nothing_reads_is_told_of(registered: Path, caplog: pytest.LogCaptureFixture) -> None:
    from recbole.quick_start import run_recbole

    run_recbole("BPR", "tiny", config_dict=settings(registered, "BPR", neg_sampler="dns", epochs=1, batchsize_train=3))
    assert "nothing reads ['batchsize_train']" in caplog.text


def test_recboles_own_spelling_means_the_same(registered: Path) -> None:
    from recbole.quick_start import run_recbole

    args = {"distribution": "mixgcf", "sample_num": 1, "candidate_num": 4}
    spelled = run_recbole("LightGCN", "tiny", config_dict=settings(registered, "LightGCN", train_neg_sample_args=args))
    prefixed = {"neg_sampler": "mixgcf", "neg_sampler_candidates": 4, "neg_sampler_num": 1}
    assert spelled == run_recbole("LightGCN", "tiny", config_dict=settings(registered, "LightGCN", **prefixed))


def test_text_negatives_are_built_on_the_way(registered: Path) -> None:
    from recbole.quick_start import run_recbole

    values = {"neg_sampler": "hnlm", "hnlm_alpha": 0.2, "llm_teacher_epochs": 1, "hnlm_min_coverage": 0.1}
    result = run_recbole("LightGCN", "tiny", config_dict=settings(registered, "LightGCN", **values))
    assert (registered / "tiny" / "tiny.hnlm.json").is_file()
    ours = recbole_hnlm.run_recbole_hnlm("LightGCN", "tiny", config_dict=settings(registered, "LightGCN", **values))
    assert result["test_result"] == ours["test_result"]
    plain = run_recbole("LightGCN", "tiny", config_dict=settings(registered, "LightGCN"))
    assert plain["best_valid_score"] != result["best_valid_score"]


def test_grounded_negatives_are_made_on_the_way(registered: Path) -> None:
    from recbole.quick_start import run_recbole

    shared = {"learning_rate": 0.05, "epochs": 4}
    values = settings(registered, "BPR", neg_sampler="semantic", neg_sampler_share=0.5, **shared)
    result = run_recbole("BPR", "tiny", config_dict=values)
    assert (registered / "tiny" / "tiny.neg_text.json").is_file()
    ours = recbole_hnlm.run_recbole_hnlm("BPR", "tiny", config_dict=values)
    assert result["test_result"] == ours["test_result"]
    dns = settings(registered, "BPR", neg_sampler="dns", neg_sampler_candidates=8, **shared)
    assert run_recbole("BPR", "tiny", config_dict=dns)["test_result"] != result["test_result"]


def test_dual_trees_are_built_on_the_way(registered: Path) -> None:
    from recbole.quick_start import run_recbole

    values = {"neg_sampler": "dtl", "neg_sampler_reference_model": "BPR", "neg_sampler_reference_epochs": 2}
    result = run_recbole("BPR", "tiny", config_dict=settings(registered, "BPR", **values))
    assert list(Path("hnlm_cache").glob("dual-trees-tiny-*.npz"))
    ours = recbole_hnlm.run_recbole_hnlm("BPR", "tiny", config_dict=settings(registered, "BPR", **values))
    assert result["test_result"] == ours["test_result"]


def test_hyper_tuning_searches_our_options(registered: Path) -> None:
    pytest.importorskip("hyperopt")
    import yaml
    from recbole.quick_start import objective_function
    from recbole.trainer import HyperTuning

    fixed = registered / "fixed.yaml"
    fixed.write_text(yaml.safe_dump({**settings(registered, "BPR", epochs=1), "model": "BPR", "dataset": "tiny"}))
    tuning = HyperTuning(
        objective_function,
        params_dict={"choice": {"neg_sampler": ["uniform", "dns"]}},
        fixed_config_file_list=[str(fixed)],
        algo="exhaustive",
    )
    tuning.run()
    scores = {name: result["best_valid_score"] for name, result in tuning.params2result.items()}
    assert set(scores) == {"neg_sampler:uniform", "neg_sampler:dns"}
    assert len(set(scores.values())) == 2, "both samplers gave the same score, so the option did not reach the model"


def test_unregister_puts_everything_back(tmp_path: Path) -> None:
    import recbole.config
    import recbole.quick_start.quick_start as quick_start
    import recbole.utils

    before = recbole.config.Config, recbole.utils.get_model, quick_start.data_preparation, quick_start.get_trainer
    recbole_hnlm.register()
    recbole_hnlm.register()
    assert recbole.config.Config is not before[0] and quick_start.Config is recbole.config.Config
    recbole_hnlm.unregister()
    after = recbole.config.Config, recbole.utils.get_model, quick_start.data_preparation, quick_start.get_trainer
    assert before == after


def test_registering_first_or_importing_recbole_first_is_the_same(tmp_path: Path) -> None:
    for lines in ("import recbole, recbole_hnlm", "import recbole_hnlm"):
        script = f"{lines}\nrecbole_hnlm.register()\nfrom recbole.quick_start.quick_start import Config\nassert Config.__name__ == 'HNLMConfig'"
        subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)


@pytest.mark.parametrize("model", ["BPR", "NeuMF"])
def test_a_model_that_is_not_wrapped_finds_no_negatives_and_is_told(registered: Path, model: str) -> None:
    """As in RecBole's own example of a script, with the class imported rather than looked up; labels do not help it."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.model import general_recommender
    from recbole.trainer import Trainer
    from recbole.utils import get_model

    label = {"threshold": {"rating": 3}, "load_col": {"inter": ["user_id", "item_id", "rating"]}}
    values = settings(registered, model, neg_sampler="dns", **(label if model == "NeuMF" else {}))
    config = Config(model, "tiny", config_dict=values)
    train_data, valid_data, _ = data_preparation(config, create_dataset(config))
    plain = getattr(general_recommender, model)(config, train_data._dataset)
    with pytest.raises(KeyError, match=r"no (neg_item_id|label) here: .* train hnlm\(Model\)"):
        Trainer(config, plain).fit(train_data, valid_data, show_progress=False)
    wrapped = get_model(model)(config, train_data._dataset)
    Trainer(config, wrapped).fit(train_data, valid_data, show_progress=False)


def test_names_taken_before_registration_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    from recbole.config import Config

    script = types.ModuleType("a_script")
    script.Config = Config  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_script", script)
    with pytest.warns(UserWarning, match=r"a_script\.Config.* know no neg_sampler; import them after register"):
        recbole_hnlm.register()
    recbole_hnlm.unregister()
    assert script.Config is Config  # type: ignore[attr-defined]


def test_a_model_by_its_path_trains_and_its_checkpoint_loads(registered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole.quick_start import load_data_and_model, run_recbole

    values = settings(registered, "own", neg_sampler="dns", checkpoint_dir=str(registered / "saved"))
    result = run_recbole("own_models:Biased", "tiny", config_dict=values)
    assert result["best_valid_score"] > 0
    monkeypatch.syspath_prepend(registered)
    text = "from recbole.model.general_recommender import BPR\nclass Biased(BPR):\n    pass\n"
    (registered / "another_of_that_name.py").write_text(text)
    assert (
        run_recbole("another_of_that_name:Biased", "tiny", config_dict=settings(registered, "own", neg_sampler="dns"))
        != result
    )
    checkpoint = next((registered / "saved").glob("Biased-*.pth"))
    _, model, *_ = load_data_and_model(str(checkpoint))
    assert model.hnlm is not None and model.hnlm_base.__name__ == "Biased"
    recbole_hnlm.unregister()
    _, plain, _, _, _, test_data = load_data_and_model(str(checkpoint))
    assert type(plain).__name__ == "Biased" and not hasattr(plain, "hnlm")
    assert all(
        map(torch.equal, plain.parameters(), (p for k, p in model.named_parameters() if not k.startswith("hnlm")))
    )
    assert next(iter(test_data)) is not None
