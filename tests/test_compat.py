"""RecBole 1.2.1 itself, unwrapped, on the installed numpy, pandas, scipy and torch."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import recbole_hnlm
from recbole_hnlm import compat

compat.install()

SMALL: dict[str, Any] = {
    "dataset": "ml-100k",
    "load_col": {"inter": ["user_id", "item_id"]},
    "user_inter_num_interval": "[80,inf)",
    "item_inter_num_interval": "[80,inf)",
    "embedding_size": 8,
    "train_batch_size": 64,
    "eval_batch_size": 100_000,
    "epochs": 1,
    "topk": [5],
    "metrics": ["Recall"],
    "valid_metric": "Recall@5",
    "use_gpu": False,
    "gpu_id": "",
    "show_progress": False,
    "state": "ERROR",
}
BY_MODEL: dict[str, dict[str, Any]] = {
    "ADMMSLIM": {"num_iters": 2},
    "ConvNCF": {"embedding_size": 64},
    "DMF": {"user_layers_dim": [4, 4], "item_layers_dim": [4, 4]},
    "NCL": {"num_clusters": 2},
}


def _general_models() -> list[str]:
    """Names of RecBole's general models, read from the folder so that none is forgotten."""
    import recbole.model.general_recommender as package

    names = []
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        own = [cls for _, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == module.__name__]
        names += [cls.__name__ for cls in own if hasattr(cls, "calculate_loss") and hasattr(cls, "input_type")]
    return sorted(names)


def _config(model: str, **settings: Any) -> Any:
    from recbole.config import Config

    return Config(model=model, config_dict={**SMALL, **BY_MODEL.get(model, {}), **settings})


def _prepare(config: Any) -> tuple[Any, Any, Any]:
    """Model, training data and validation data of a configuration."""
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, init_seed

    init_seed(config["seed"], True)
    train_data, valid_data, _ = data_preparation(config, create_dataset(config))
    return get_model(config["model"])(config, train_data._dataset), train_data, valid_data


def _trainer(config: Any, model: Any) -> Any:
    from recbole.utils import get_trainer

    return get_trainer(config["MODEL_TYPE"], config["model"])(config, model)


class TestGeneralModels:
    """Every general model of RecBole takes a training step."""

    def test_list_is_complete(self) -> None:
        assert len(_general_models()) == 33

    @pytest.mark.parametrize("name", _general_models())
    def test_trains_one_step(self, name: str) -> None:
        model, train_data, _ = _prepare(_config(name))
        if hasattr(model, "e_step"):  # NCL clusters, as its trainer makes it do
            model.e_step()
        model.train()
        which_part = (True,) if name == "RecVAE" else ()  # it trains its encoder and its decoder in turn
        loss = model.calculate_loss(next(iter(train_data)), *which_part)
        loss = sum(loss) if isinstance(loss, tuple) else loss
        assert torch.isfinite(loss).all()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if loss.requires_grad and len(trained) > 1:
            loss.sum().backward()
            gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
            assert gradients
            assert all(torch.isfinite(g.coalesce().values() if g.is_sparse else g).all() for g in gradients)

    @pytest.mark.parametrize("negatives", [{}, {"train_neg_sample_args": None}])
    @pytest.mark.parametrize("batch", [64, 100_000])
    def test_pop_counts_training_pairs(self, batch: int, negatives: dict[str, Any], tmp_path: Path) -> None:
        """RecBole's counts every item once a batch, drawn negatives too."""
        config = _config("Pop", train_batch_size=batch, checkpoint_dir=str(tmp_path), **negatives)
        model, train_data, valid_data = _prepare(config)
        _trainer(config, model).fit(train_data, valid_data, saved=False, show_progress=False)
        pairs = train_data._dataset.inter_feat["item_id"]
        assert torch.equal(model.item_cnt.flatten(), torch.bincount(pairs, minlength=model.n_items))
        assert int(model.max_cnt) == int(model.item_cnt.max()) > 1

    def test_adjacency_of_lightgcn(self) -> None:
        model, _, _ = _prepare(_config("LightGCN"))
        n_users, degrees = model.n_users, model.interaction_matrix.getnnz(axis=1)
        user = int(degrees.argmax())
        items = model.interaction_matrix.tocsr()[user].indices
        row = model.norm_adj_matrix.to_dense()[user]
        popularity = model.interaction_matrix.getnnz(axis=0)[items]
        expected = 1 / np.sqrt((degrees[user] + 1e-7) * (popularity + 1e-7))
        assert set(row.nonzero().flatten().tolist()) == {n_users + int(item) for item in items}
        np.testing.assert_allclose(row[n_users + items].numpy(), expected, rtol=1e-4)


INTERACTIONS = """user_id:token\titem_id:token\trating:float\tchannel:token
u1\ti1\t1\tweb
u1\ti2\t\tapp
u2\ti1\t4\t
u2\ti3\t4\tweb
u3\ti4\t\t
"""
# i2 has every cell but its id empty, i4 is missing altogether.
ITEMS = """item_id:token\tprice:float\tbrand:token\tgenre:token_seq\tvector:float_seq
i1\t2\ta\tx y\t1 2
i2\t\t\t\t
i3\t5\tb\ty z x\t3
"""


class TestMissingValues:
    """The values that RecBole has with pandas 2, written out."""

    @pytest.fixture
    def dataset(self, tmp_path: Path) -> Any:
        return self._dataset(tmp_path)

    def _dataset(self, folder: Path, **settings: Any) -> Any:
        from recbole.config import Config
        from recbole.data import create_dataset

        (folder / "tiny").mkdir()
        (folder / "tiny" / "tiny.inter").write_text(INTERACTIONS)
        (folder / "tiny" / "tiny.item").write_text(ITEMS)
        files = {"inter": INTERACTIONS, "item": ITEMS}
        columns = {
            name: [head.split(":")[0] for head in text.split("\n")[0].split("\t")] for name, text in files.items()
        }
        own = {"dataset": "tiny", "data_path": str(folder), "load_col": columns, "filter_inter_by_user_or_item": False}
        free = {"user_inter_num_interval": None, "item_inter_num_interval": None}
        return create_dataset(Config(model="BPR", config_dict={**SMALL, **own, **free, **settings}))

    def test_float_is_the_mean(self, dataset: Any) -> None:
        assert dataset.inter_feat["rating"].tolist() == [1, 3, 4, 4, 3]
        # Rows are [PAD], i1, i2, i3, i4.
        assert dataset.item_feat["price"].tolist() == [3.5, 2, 3.5, 5, 3.5]

    def test_token_is_padding(self, dataset: Any) -> None:
        assert dataset.inter_feat["channel"].tolist() == [1, 2, 0, 1, 0]
        assert dataset.item_feat["brand"].tolist() == [0, 1, 0, 2, 0]
        assert list(dataset.field2id_token["brand"]) == ["[PAD]", "a", "b"]

    def test_sequence_is_empty(self, dataset: Any) -> None:
        assert [list(cell) for cell in dataset.item_feat["genre"]] == [[], [1, 2], [], [2, 3, 1], []]
        assert [list(cell) for cell in dataset.item_feat["vector"]] == [[], [1, 2], [], [3], []]
        assert dataset.field2seqlen["genre"] == 3
        assert list(dataset.field2id_token["genre"]) == ["[PAD]", "x", "y", "z"]

    def test_nothing_missing_in_tensors(self, dataset: Any) -> None:
        built = dataset.build()[0]
        for feat in (built.inter_feat, built.item_feat):
            assert all(torch.isfinite(column.float()).all() for column in feat.interaction.values())
        assert built.item_feat["genre"].tolist() == [[0, 0, 0], [1, 2, 0], [0, 0, 0], [2, 3, 1], [0, 0, 0]]

    def test_sequences_are_normalised_each(self, tmp_path: Path) -> None:
        dataset = self._dataset(tmp_path, normalize_field=["vector"])
        assert [list(cell) for cell in dataset.item_feat["vector"]] == [[], [0, 0.5], [], [1], []]

    def test_is_silent(self, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
        self._dataset(tmp_path)
        assert not [str(w.message) for w in recwarn if "chained" in str(w.message).lower()]


class TestWholeRuns:
    """RecBole's own entry points, from the data to the last metric."""

    def test_checkpoint_resumes(self, tmp_path: Path) -> None:
        config = _config("BPR", train_batch_size=100_000, checkpoint_dir=str(tmp_path))
        model, train_data, valid_data = _prepare(config)
        first = _trainer(config, model)
        first.fit(train_data, valid_data, show_progress=False)
        result = first.evaluate(valid_data, load_best_model=True, show_progress=False)
        fresh, _, _ = _prepare(config)
        second = _trainer(config, fresh)
        second.resume_checkpoint(first.saved_model_file)
        assert second.start_epoch == 1
        assert torch.equal(fresh.user_embedding.weight, model.user_embedding.weight)
        assert second.evaluate(valid_data, load_best_model=False, show_progress=False) == result

    def test_run_recbole_and_load_again(self, tmp_path: Path) -> None:
        from recbole.quick_start import load_data_and_model, run_recbole

        settings = {**SMALL, "train_batch_size": 100_000, "checkpoint_dir": str(tmp_path / "saved")}
        result = run_recbole(model="LightGCN", config_dict=settings)
        assert 0 <= result["test_result"]["recall@5"] <= 1
        (checkpoint,) = (tmp_path / "saved").glob("*.pth")
        config, model, _, _, _, test_data = load_data_and_model(str(checkpoint))
        again = _trainer(config, model).evaluate(test_data, load_best_model=False, show_progress=False)
        assert again == result["test_result"]

    def test_pretrained_neumf(self, tmp_path: Path) -> None:
        paths = {}
        for part, other in (("mf", "mlp"), ("mlp", "mf")):
            config = _config("NeuMF", **{f"{part}_train": True, f"{other}_train": False})
            model, _, _ = _prepare(config)
            trainer = _trainer(config, model)
            trainer._save_checkpoint(0, verbose=False)
            paths[f"{part}_pretrain_path"] = str(tmp_path / f"{part}.pth")
            Path(trainer.saved_model_file).rename(paths[f"{part}_pretrain_path"])
        model, _, _ = _prepare(_config("NeuMF", use_pretrain=True, **paths))
        pretrained = torch.load(paths["mf_pretrain_path"], weights_only=False)["state_dict"]
        assert torch.equal(model.user_mf_embedding.weight, pretrained["user_mf_embedding.weight"])

    @pytest.mark.parametrize(
        ("algorithm", "space"),
        [
            ("exhaustive", {"choice": {"embedding_size": [2, 4]}}),
            ("random", {"uniform": {"learning_rate": [0.001, 0.1]}}),
        ],
    )
    def test_hyper_tuning(self, algorithm: str, space: dict[str, Any], tmp_path: Path) -> None:
        import yaml
        from recbole.quick_start import objective_function
        from recbole.trainer import HyperTuning

        fixed = {key: value for key, value in SMALL.items() if key != "embedding_size"}
        (tmp_path / "fixed.yaml").write_text(yaml.safe_dump({**fixed, "model": "BPR", "train_batch_size": 100_000}))
        tuning = HyperTuning(
            objective_function=objective_function,
            params_dict=space,
            fixed_config_file_list=[str(tmp_path / "fixed.yaml")],
            algo=algorithm,
            max_evals=2,
        )
        tuning.run()
        assert len(tuning.params2result) == 2
        assert tuning.best_score == max(tuning.score_list)


class TestOnlyWhereBroken:
    """No shim does anything where RecBole's own code works."""

    def test_numpy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, scalar_type in (("float_", np.float64), ("complex_", np.complex128), ("unicode_", np.str_)):
            monkeypatch.setattr(np, name, scalar_type, raising=False)
        module = SimpleNamespace(Config=SimpleNamespace(compatibility_settings="own"))
        assert not compat.numerics.numpy_aliases(module)  # type: ignore[arg-type]
        assert module.Config.compatibility_settings == "own"

    def test_scipy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from scipy.sparse import dok_matrix

        monkeypatch.setattr(dok_matrix, "_update", "own", raising=False)
        assert not compat.numerics.dok_matrix_update(ModuleType("module"))
        assert vars(dok_matrix)["_update"] == "own"

    def test_counts(self) -> None:
        class Counted:
            def calculate_loss(self, interaction: Any) -> None:
                self.item_cnt.index_add_(0, interaction["item"], torch.ones(2, 1, dtype=torch.long))  # type: ignore

        assert not compat.counts.popularity_of_pairs(SimpleNamespace(Pop=Counted))  # type: ignore[arg-type]

    def test_torch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        load = torch.load
        monkeypatch.setattr(torch, "load", lambda *args: load(*args, weights_only=False))
        module = ModuleType("module")
        assert not compat.checkpoints.checkpoint_loading(module)
        assert not compat.checkpoints.saved_model_loading(module)
        assert not hasattr(module, "torch")

    def test_pandas(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fillna(self: pd.Series, value: Any, **_: Any) -> None:
            frame = next(f for f in reversed(frames) if self.name in f)
            frame[self.name] = self.where(self.notna(), value)

        frames: list[pd.DataFrame] = []
        build = pd.DataFrame.__init__

        def remember(self: pd.DataFrame, *args: Any, **kwargs: Any) -> None:
            build(self, *args, **kwargs)
            frames.append(self)

        monkeypatch.setattr(pd.DataFrame, "__init__", remember)
        monkeypatch.setattr(pd.Series, "fillna", fillna)
        monkeypatch.setattr(pd.Series, "agg", lambda self, function: self.map(function))
        module = ModuleType("module")
        for shim in (compat.tables.missing_sequences, compat.tables.missing_values, compat.tables.sequence_lengths):
            assert not shim(module)
        assert "len" not in vars(module)

    def test_ray_and_pkg_resources(self, monkeypatch: pytest.MonkeyPatch) -> None:
        own = {name: ModuleType(name) for name in ("ray", "ray.tune", "pkg_resources")}
        for name, module in own.items():
            monkeypatch.setitem(sys.modules, name, module)
        for stand_in in (compat.optional.ray_stand_in, compat.optional.pkg_resources_stand_in):
            with stand_in() as used:
                assert not used
                assert all(sys.modules[name] is module for name, module in own.items())


class TestStandIns:
    """A stand-in is there while it is needed, and nobody else meets it."""

    def test_ray(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("ray", "ray.tune"):
            monkeypatch.setitem(sys.modules, name, None)  # importing it fails
        with compat.optional.ray_stand_in() as used:
            from ray import tune

            assert used
            assert tune.report(recall=0.5) is None
        assert not [name for name in ("ray", "ray.tune") if sys.modules.get(name)]

    def test_search_path_survives_a_broken_ray(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "__init__.py").write_text(
            "import sys\nsys.path.insert(0, '/vendored')\nimport no_such_module"
        )
        for name in [name for name in sys.modules if name.split(".")[0] == "ray"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.syspath_prepend(tmp_path)
        with compat.optional.ray_stand_in() as used:
            assert used
        assert "/own" not in sys.path
        assert "ray" not in sys.modules


class TestReach:
    """Where the shims act, and when."""

    def test_torch_load_itself_is_untouched(self, tmp_path: Path) -> None:
        import recbole.trainer.trainer as trainer

        compat.apply()
        torch.save({"value": Path("x")}, tmp_path / "object.pt")
        refused = compat.checkpoints._torch_load_refuses_objects()
        assert trainer.torch.load(tmp_path / "object.pt")["value"] == Path("x")
        assert trainer.torch.nn is torch.nn
        if refused:
            with pytest.raises(Exception, match="Weights only"):
                torch.load(tmp_path / "object.pt")

    def test_apply_is_idempotent(self) -> None:
        first = compat.apply()
        from recbole.data.dataset import Dataset

        fill_nan, hooks = Dataset._fill_nan, len(sys.meta_path)
        assert compat.apply() == first == compat.active()
        assert Dataset._fill_nan is fill_nan
        assert len(sys.meta_path) == hooks

    def test_reload_is_repaired_again(self) -> None:
        import recbole.config.configurator as configurator

        before = dict(vars(configurator))
        try:
            importlib.reload(configurator)
            configurator.Config(model="BPR", config_dict=SMALL)
        finally:  # other tests hold the classes of the first import
            vars(configurator).update(before)

    def test_a_wrong_model_name_leaves_gradients_alone(self) -> None:
        script = """
import torch, recbole_hnlm
from recbole.utils import get_model
try:
    get_model("LihgtGCN")
except (ValueError, ImportError):  # it looks through decision trees too, which need lightgbm
    import sys
    print("recbole.model.sequential_recommender.sine" in sys.modules, torch.is_anomaly_enabled())
"""
        root = str(Path(recbole_hnlm.__file__).parents[1])
        run = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r})\n{script}"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.stdout.split() == ["True", "False"], run.stderr[-3000:]

    @pytest.mark.parametrize("first", ["recbole_hnlm", "recbole.data, recbole.config, recbole.trainer"])
    def test_in_either_order(self, first: str, tmp_path: Path) -> None:
        script = f"""
import sys, {first}
light = "numpy" not in sys.modules and "torch" not in sys.modules
import recbole_hnlm
from recbole.quick_start import run_recbole
result = run_recbole(model="LightGCN", config_dict={ {**SMALL, "train_batch_size": 100_000}!r})
print(light, sorted(result["test_result"]), "ray" in sys.modules and not hasattr(sys.modules["ray"], "__version__"))
"""
        root = str(Path(recbole_hnlm.__file__).parents[1])
        run = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r})\n{script}"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr[-3000:]
        assert run.stdout.split("\n")[-2] == f"{first == 'recbole_hnlm'} ['recall@5'] False"


class TestPublicNames:
    """``import recbole_hnlm`` stays light and complete."""

    def test_unknown_name(self) -> None:
        with pytest.raises(AttributeError, match="no attribute 'hnml'"):
            recbole_hnlm.hnml  # noqa: B018

    def test_every_name_is_listed(self) -> None:
        assert set(recbole_hnlm.__all__) <= set(dir(recbole_hnlm))
