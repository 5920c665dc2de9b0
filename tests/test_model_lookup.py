"""Models by name, by path and by class: RecBole's, ours, and those of packages in RecBole-GNN's shape."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from edge_models import EdgeLightGCN, NoisyEdgeLightGCN
from recbole.model.general_recommender import BPR, LightGCN
from recbole_runs import ITEMS, first_loss, made, settings, write_dataset

from recbole_hnlm import run_recbole_hnlm
from recbole_hnlm.config import HNLMConfig
from recbole_hnlm.data_source import check_dataset_files
from recbole_hnlm.graph_models import GRAPH_MODELS
from recbole_hnlm.model_lookup import find_model, model_defaults
from recbole_hnlm.models import refusal

EDGE = {"n_layers": 2, "reg_weight": 1e-5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("name", GRAPH_MODELS)
def test_ours_have_defaults_for_all_they_read(name: str) -> None:
    needed = {"embedding_size", "n_layers", "reg_weight", "lambda", "eps", "temperature"}
    assert set(model_defaults(GRAPH_MODELS[name])) == needed | ({"layer_cl"} if name == "XSimGCL" else set())
    assert find_model(name) is GRAPH_MODELS[name]


def test_the_users_value_lies_above_the_default(folder: Path) -> None:
    config = HNLMConfig("SimGCL", "tiny", config_dict=settings(folder, "SimGCL", eps=0.7))
    assert (config["model"], config["eps"], config["temperature"]) == ("SimGCL", 0.7, 0.2)
    named = HNLMConfig(None, "tiny", config_dict={**settings(folder, "SimGCL"), "model": "XSimGCL"})
    assert named.model_class is GRAPH_MODELS["XSimGCL"] and named["layer_cl"] == 1


def filled(model: Any) -> Any:
    for seed, table in enumerate((model.user_embedding, model.item_embedding)):
        torch.nn.init.normal_(table.weight, generator=torch.Generator().manual_seed(seed))
    return model


@pytest.mark.parametrize("sampler", ["dns", "uniform"])
def test_a_graph_of_edges_trains_as_recboles_lightgcn(folder: Path, sampler: str) -> None:
    """Same weights, same draws: the class of another package gets no other negatives and no other loss."""
    losses = []
    for model_class in (EdgeLightGCN, LightGCN):
        model, loaders, _ = made(folder, model_class, neg_sampler=sampler, require_pow=False, **EDGE)
        losses.append(first_loss(filled(model), loaders))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sampler", ["mixgcf", "dins"])
def test_a_graph_of_edges_shows_one_hop(folder: Path, sampler: str) -> None:
    """Hops are those of sparse products; here rules over hops see the final vectors, as they do in BPR."""
    model, loaders, _ = made(folder, EdgeLightGCN, neg_sampler=sampler, **{**EDGE, "reg_weight": 0.0})
    flat, flat_loaders, _ = made(folder, BPR, neg_sampler=sampler)
    users, items = filled(model)()
    with torch.no_grad():
        flat.user_embedding.weight.copy_(users)
        flat.item_embedding.weight.copy_(items)
    assert float(first_loss(model, loaders)) == pytest.approx(float(first_loss(flat, flat_loaders)), rel=1e-5)


def test_a_loss_that_leaves_the_negatives_to_its_parent_is_supported(folder: Path) -> None:
    assert refusal(NoisyEdgeLightGCN) is None
    model, loaders, _ = made(folder, NoisyEdgeLightGCN, neg_sampler="dns", ranking_loss="base", **EDGE)
    assert torch.isfinite(first_loss(model, loaders))


def test_by_path(folder: Path) -> None:
    values = settings(folder, "LightGCN", neg_sampler="dns", epochs=1, **EDGE)
    by_path = run_recbole_hnlm("edge_models:EdgeLightGCN", "tiny", config_dict=values, saved=False)
    by_class = run_recbole_hnlm(EdgeLightGCN, "tiny", config_dict=values, saved=False)
    assert by_path["test_result"] == by_class["test_result"]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("edge_models:Edge", ValueError, "'edge_models:Edge' cannot be imported: .*Edge.*give package.module:Class"),
        ("no_such_package:Edge", ValueError, "cannot be imported: No module named"),
        (":Edge", ValueError, "cannot be imported"),
        ("edge_models:NOT_A_CLASS", TypeError, "should be a class, got str"),
    ],
)
def test_wrong_paths(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        find_model(name)
    assert find_model("LightGCN") == "LightGCN" and find_model(EdgeLightGCN) is EdgeLightGCN


def test_a_package_brings_its_defaults_and_its_dataset(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As RecBole-GNN: YAML in its properties, and a dataset that holds the graph."""
    home = tmp_path / "graphs_of_others"
    (home / "properties" / "model").mkdir(parents=True)
    (home / "__init__.py").touch()
    (home / "properties" / "model" / "Edges.yaml").write_text("n_layers: 3\nreg_weight: 25e-2\n")
    (home / "utils.py").write_text(
        "from recbole.data.dataset import Dataset\n"
        "class GraphDataset(Dataset):\n    def graph(self):\n        return 'a graph'\n"
        "def create_dataset(config):\n    return GraphDataset(config)\n"
    )
    (home / "models.py").write_text(
        "from edge_models import EdgeLightGCN\n"
        "class Edges(EdgeLightGCN):\n    def __init__(self, config, dataset):\n"
        "        super().__init__(config, dataset)\n        assert dataset.graph() == 'a graph'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    values: dict[str, Any] = settings(folder, "LightGCN", neg_sampler="dns", epochs=1, n_layers=1)
    config = HNLMConfig("graphs_of_others.models:Edges", "tiny", config_dict=values)
    assert (config["model"], config["n_layers"], config["reg_weight"]) == ("Edges", 1, 0.25)
    result = run_recbole_hnlm("graphs_of_others.models:Edges", "tiny", config_dict=values, saved=False)
    assert 0 <= result["test_result"]["recall@5"] <= 1
    for name in [name for name in sys.modules if name.startswith("graphs_of_others")]:
        del sys.modules[name]


@pytest.mark.parametrize("module", ["__main__", "__mp_main__"])
def test_a_class_of_the_script_brings_nothing_and_trains(
    folder: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spawned process runs the script anew under the second name, as a module without a spec."""
    monkeypatch.setitem(sys.modules, module, ModuleType(module))
    own = type("OwnBPR", (BPR,), {"__module__": module})
    assert model_defaults(own) == {}
    _, loaders, _ = made(folder, own, neg_sampler="dns")
    assert loaders[0]._dataset.item_num == ITEMS + 1


@pytest.mark.parametrize(
    ("eval_args", "told"),
    [
        ({"order": "TO"}, r"order: TO needs the field 'timestamp' .*inter: \[user_id, item_id, timestamp\]"),
        ({"mode": "labeled"}, r"mode: labeled needs the field 'label' .*inter: \[user_id, item_id, label\]"),
        ({"mode": {"test": "labeled"}}, r"mode: labeled needs the field 'label'"),
        (
            {"order": "TO", "absent": True},
            r"order: TO needs the field 'timestamp', .*has columns \['user_id', 'item_id'\]",
        ),
        ({"mode": "labeled", "absent": True}, r"mode: labeled needs .*'item_id'\]; make it by threshold: {rating: 3}"),
    ],
)
def test_what_an_evaluation_needs_is_asked_for_before_anything_is_read(
    tmp_path: Path, eval_args: dict[str, Any], told: str
) -> None:
    folder = write_dataset(tmp_path)
    file = folder / "tiny" / "tiny.inter"
    lines = file.read_text().splitlines()
    if absent := eval_args.pop("absent", False):
        file.write_text("\n".join("\t".join(line.split("\t")[:2]) for line in lines))
    else:
        file.write_text("\n".join([f"{lines[0]}\tlabel:float", *(f"{line}\t1" for line in lines[1:])]))
    columns = None if absent else {"inter": ["user_id", "item_id"]}
    with pytest.raises(ValueError, match=told):
        made(folder, "BPR", neg_sampler="uniform", eval_args=eval_args, load_col=columns)
    if "order" in eval_args and not absent:
        made(folder, "BPR", neg_sampler="uniform", eval_args=eval_args, load_col=None)


def test_what_is_only_masked_needs_no_label(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path)
    home = folder / "tiny"
    lines = (home / "tiny.inter").read_text().splitlines()
    for part, kept in (("train", lines[1::2]), ("valid", lines[2::4]), ("test", lines[4::4])):
        rows = [f"{lines[0]}\tlabel:float", *(f"{line}\t1" for line in kept)]
        (home / f"tiny.{part}.inter").write_text("\n".join(rows))
    (home / "tiny.also.inter").write_text("user_id:token\titem_id:token\nu1\ti1\n")
    config = HNLMConfig("BPR", "tiny", config_dict=settings(
        folder, "BPR", neg_sampler="uniform", eval_args={"mode": "labeled"}, metrics=["AUC"], valid_metric="AUC",
        benchmark_filename=["train", "valid", "test"], masked_filename="also",
        load_col={"inter": ["user_id", "item_id", "label"]},
    ))  # fmt: skip
    check_dataset_files(config)


@pytest.mark.parametrize(
    "load_col", [{"inter": ["user_id", "item_id"]}, {"inter": ["user_id", "item_id"], "item": ["title"]}]
)
def test_a_filter_by_a_field_that_is_not_loaded_names_it_and_the_setting(folder: Path, load_col: Any) -> None:
    """RecBole says that the field is not defined in the dataset, whose file has it."""
    values = {"load_col": load_col, "val_interval": {"rating": "[4,inf)"}}
    with pytest.raises(
        ValueError, match=r"by rating, which load_col leaves out; .*inter: \[user_id, item_id, rating\]"
    ):
        made(folder, "BPR", neg_sampler="uniform", **values)


def test_a_filter_that_is_no_mapping_shows_how_it_is_written(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"should map fields to intervals, e.g. \{'rating': '\[4,inf\)'\}"):
        made(folder, "BPR", neg_sampler="uniform", val_interval="{rating: '[4,inf)'}")


def test_a_filter_by_a_field_that_is_loaded_is_recboles(folder: Path) -> None:
    for load_col in (None, {"inter": ["user_id", "item_id", "rating"]}):
        model, *_ = made(folder, "BPR", neg_sampler="uniform", load_col=load_col, val_interval={"rating": "[4,inf)"})
        assert 0 < model.hnlm.interactions.keys.numel() < 600
