"""The configuration: where values come from, what is refused before data is read, what a pickle of it holds."""

from __future__ import annotations

import copy
import importlib.resources
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from recbole.config import Config
from recbole.model.general_recommender import BPR
from recbole_runs import write_dataset

from recbole_hnlm import config as config_module
from recbole_hnlm.config import HNLMConfig, MainConfig, PlainConfig, packaged_defaults, translate_recbole_spelling
from recbole_hnlm.models import hnlm
from recbole_hnlm.options import HNLMOptions
from recbole_hnlm.options.parsing import option_keys
from recbole_hnlm.quick_start import split
from recbole_hnlm.run_options import RunOptions
from recbole_hnlm.samplers import SAMPLERS, sampler_class
from recbole_hnlm.samplers.dns import DynamicSelector


def _config(model: Any = "BPR", dataset: str = "ml-100k", files: list[str] | None = None, **values: Any) -> HNLMConfig:
    return HNLMConfig(model, dataset, config_file_list=files, config_dict=values)


def _run(config: HNLMConfig) -> RunOptions:
    run: RunOptions | None = config.__dict__["run"]
    assert run is not None
    return run


def _write(path: Path, **values: Any) -> str:
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return str(path)


class TestPackagedDefaults:
    @pytest.mark.parametrize("name", sorted(SAMPLERS))
    def test_every_sampler_has_a_file_that_says_what_its_class_says(self, name: str) -> None:
        options = sampler_class(name).Options
        keys = option_keys(options, "neg_sampler_")
        path = Path(config_module.__file__).parents[1] / "properties" / "sampler" / f"{name}.yaml"
        assert path.is_file()
        defaults = packaged_defaults(f"sampler/{name}.yaml")
        assert tuple(defaults) == keys
        built = options()
        for key, value in defaults.items():
            ours = getattr(built, key.removeprefix("neg_sampler_"))
            assert (value, type(value)) == (ours, type(ours))

    def test_no_file_without_a_sampler(self) -> None:
        folder = Path(config_module.__file__).parents[1] / "properties" / "sampler"
        assert {path.stem for path in folder.glob("*.yaml")} == {*SAMPLERS, "hnlm"}

    def test_text_part_has_known_keys_only(self) -> None:
        known = {*option_keys(HNLMOptions, "hnlm_"), "neg_sampler_candidates"}
        assert packaged_defaults("sampler/hnlm.yaml").keys() <= known

    def test_absent_file(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert packaged_defaults("sampler/nobody.yaml") == {}
        monkeypatch.setitem(SAMPLERS, "nobody", "recbole_hnlm.samplers.dns:DynamicSelector")
        with pytest.raises(FileNotFoundError, match="nobody.yaml"):
            packaged_defaults("sampler/nobody.yaml")

    def test_they_are_those_of_this_checkout(self) -> None:
        """An editable installation of another one would lend its own."""
        found = importlib.resources.files("recbole_hnlm.properties").joinpath("__init__.py")
        assert Path(str(found)).resolve() == Path(__file__).resolve().parents[1] / "properties" / "__init__.py"


class TestPrecedence:
    """Command line over dictionary over file over our YAML over RecBole's."""

    KEY = "neg_sampler_candidates"

    def test_each_layer_covers_the_one_below(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["train.py", f"--{self.KEY}=5"])
        files = [_write(tmp_path / "a.yaml", neg_sampler="dns", **{self.KEY: 7})]
        assert _run(_config(files=files, **{self.KEY: 6})).sampler_options.candidates == 5
        monkeypatch.setattr(sys, "argv", ["train.py"])
        assert _run(_config(files=files, **{self.KEY: 6})).sampler_options.candidates == 6
        assert _run(_config(files=files)).sampler_options.candidates == 7
        files = [_write(tmp_path / "b.yaml", neg_sampler="dns")]
        ours = packaged_defaults("sampler/dns.yaml")[self.KEY]
        assert _run(_config(files=files)).sampler_options.candidates == ours
        assert _config(files=files)[self.KEY] == ours

    def test_later_files_cover_earlier_ones(self, tmp_path: Path) -> None:
        files = [_write(tmp_path / f"{n}.yaml", neg_sampler="dns", **{self.KEY: n}) for n in (3, 4)]
        assert _run(_config(files=files)).sampler_options.candidates == 4

    def test_our_files_cover_recboles(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """RecBole's overall.yaml sets learning_rate; ours may, and the user's own comes first again."""
        before = _config()["learning_rate"]
        real = packaged_defaults

        def with_rate(name: str) -> dict[str, Any]:
            return {**real(name), **({"learning_rate": 0.77} if name == "sampler/dns.yaml" else {})}

        monkeypatch.setattr(config_module, "packaged_defaults", with_rate)
        assert before != 0.77
        assert _config(neg_sampler="dns")["learning_rate"] == 0.77
        files = [_write(tmp_path / "c.yaml", learning_rate=0.5)]
        assert _config(files=files, neg_sampler="dns")["learning_rate"] == 0.5

    def test_the_file_of_the_base_sampler_is_read(self) -> None:
        values = {"neg_sampler": "hnlm", "hnlm_base_sampler": "ahns"}
        assert _config(**values)["neg_sampler_slope"] == packaged_defaults("sampler/ahns.yaml")["neg_sampler_slope"]

    def test_hnlm_has_its_own_number_of_candidates(self) -> None:
        own = packaged_defaults("sampler/hnlm.yaml")[self.KEY]
        assert own != packaged_defaults("sampler/dns.yaml")[self.KEY]
        for rule in ("dns", "dtl", "semantic", "dns_mn"):
            assert _run(_config(neg_sampler="hnlm", hnlm_base_sampler=rule)).sampler_options.candidates == own
        assert _run(_config(neg_sampler="hnlm", **{self.KEY: 21})).sampler_options.candidates == 21

    def test_hnlm_leaves_a_rule_of_the_users_own_its_number_of_candidates(self) -> None:
        outside = "tests.test_options:OutsideSelector"
        assert _run(_config(neg_sampler="hnlm", hnlm_base_sampler=outside)).sampler_options.candidates == 2

    def test_without_the_key_the_configuration_is_recboles(self) -> None:
        ours, theirs = _config(embedding_size=8), Config("BPR", "ml-100k", config_dict={"embedding_size": 8})
        assert ours.__dict__["run"] is None
        assert ours.final_config_dict == theirs.final_config_dict

    def test_recboles_own_keys_pass(self, tmp_path: Path) -> None:
        files = [_write(tmp_path / "d.yaml", learning_rate=0.01, train_batch_size=64, n_layers=2, topk=[5])]
        config = _config("LightGCN", files=files, neg_sampler="dns", gpu_id="", worker=0, eval_batch_size=128)
        assert config["n_layers"] == 2

    def test_the_plain_config_leaves_out_all_that_is_ours_and_keeps_the_rest(self) -> None:
        ours = {"neg_sampler": "uniform", "ranking_loss": "bsl", "adam": "fused", "fast_propagation": True}
        config = PlainConfig("BPR", "ml-100k", config_dict={**ours, "torch_threads": 1, "embedding_size": 8})
        assert config.__dict__["run"] is None and config["embedding_size"] == 8 and config["torch_threads"] == 1

    def test_main_config_samples_by_text_unless_told_otherwise(self) -> None:
        assert _run(MainConfig("BPR", "ml-100k")).sampler == "hnlm(dns)"
        assert _run(MainConfig("BPR", "ml-100k", config_dict={"neg_sampler": "dns"})).sampler == "dns"
        assert MainConfig("BPR", "ml-100k", config_dict={"neg_sampler": "none"}).__dict__["run"] is None


class TestRecBoleSpelling:
    def test_reads_as_the_prefixed_keys_do(self) -> None:
        args = {"distribution": "dns", "sample_num": 2, "candidate_num": 16}
        theirs = _config(train_neg_sample_args=args)
        ours = _config(neg_sampler="dns", neg_sampler_num=2, neg_sampler_candidates=16)
        assert _run(theirs) == _run(ours)
        assert theirs.final_config_dict == ours.final_config_dict
        assert (_run(theirs).negatives, _run(theirs).sampler_options.candidates) == (2, 16)

    def test_from_a_file_and_from_the_command_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        files = [_write(tmp_path / "a.yaml", train_neg_sample_args={"distribution": "ahns", "candidate_num": 3})]
        assert (_run(_config(files=files)).sampler, _run(_config(files=files)).sampler_options.candidates) == (
            "ahns",
            3,
        )
        monkeypatch.setattr(sys, "argv", ["train.py", "--train_neg_sample_args={'distribution': 'dns'}"])
        assert _run(_config()).sampler == "dns"

    def test_recboles_own_negatives_cannot_be_none(self) -> None:
        with pytest.raises(ValueError, match="hnlm_base_sampler=recbole trains on the negatives .* asks for none"):
            _config(neg_sampler="hnlm", hnlm_base_sampler="recbole", hnlm_alpha=0.0, train_neg_sample_args=None)
        with pytest.raises(ValueError, match="neg_sampler=recbole trains on the negatives .* asks for none"):
            _config(neg_sampler="recbole", train_neg_sample_args=None)

    def test_the_loader_hands_out_pairs(self) -> None:
        config = _config(train_neg_sample_args={"distribution": "dns"})
        assert config["train_neg_sample_args"]["distribution"] == "none"

    @pytest.mark.parametrize("distribution", ["uniform", "popularity"])
    def test_recboles_own_distributions_stay_recboles(self, distribution: str) -> None:
        config = _config(train_neg_sample_args={"distribution": distribution, "sample_num": 1})
        assert config.__dict__["run"] is None
        assert config["train_neg_sample_args"]["distribution"] == distribution

    def test_recboles_sampler_under_text(self) -> None:
        args = {"distribution": "popularity", "sample_num": 1, "alpha": 0.5}
        config = _config(neg_sampler="hnlm", hnlm_base_sampler="recbole", train_neg_sample_args=args)
        assert _run(config).sampler_type is None
        assert config["train_neg_sample_args"]["alpha"] == 0.5

    @pytest.mark.parametrize(("given", "power"), [({"alpha": 1.0}, 1.0), ({"alpha": 0.0}, 0.0), ({}, 0.75)])
    def test_popularity_has_recboles_exponent(self, given: dict[str, float], power: float) -> None:
        whole = {"distribution": "popularity", "sample_num": 1, "dynamic": False, "candidate_num": 0, **given}
        options = _run(_config(neg_sampler="popularity", train_neg_sample_args=whole)).sampler_options
        assert options.power == power
        whole = {"distribution": "uniform", "sample_num": 1, "dynamic": False, "candidate_num": 0, "alpha": 1.0}
        options = _run(_config(neg_sampler="popularity", train_neg_sample_args=whole)).sampler_options
        assert options.power == 0.75

    def test_contradiction(self) -> None:
        with pytest.raises(
            ValueError, match=r"neg_sampler='ahns' and train_neg_sample_args distribution='dns' disagree"
        ):
            _config(neg_sampler="ahns", train_neg_sample_args={"distribution": "dns"})

    def test_saying_it_twice_is_no_contradiction(self) -> None:
        assert _run(_config(neg_sampler="dns", train_neg_sample_args={"distribution": "dns"})).sampler == "dns"

    def test_a_sampler_named_later_in_our_words_wins(self, tmp_path: Path) -> None:
        args = {"distribution": "dns", "candidate_num": 3}
        files = [_write(tmp_path / "a.yaml", train_neg_sample_args=args)]
        for sampler, drawn in (("none", None), ("uniform", "uniform"), ("mixgcf", "mixgcf")):
            config = _config(files=files, neg_sampler=sampler)
            later = _config(files=[*files, _write(tmp_path / "later.yaml", neg_sampler=sampler)])
            for one in (config, later):
                assert (one.run and one.run.sampler, one.set_aside) == (drawn, ["train_neg_sample_args"])
        assert _config(files=files, neg_sampler="none")["train_neg_sample_args"]["distribution"] == "uniform"
        files = [_write(tmp_path / "b.yaml", train_neg_sample_args={"distribution": "popularity", "alpha": 0.5})]
        assert _run(_config(files=files, neg_sampler="dns")).sampler == "dns"
        for own in ("none", "recbole"):  # RecBole draws as it was told to
            assert _config(files=files, neg_sampler=own)["train_neg_sample_args"]["alpha"] == 0.5

    def test_a_sampler_named_later_in_recboles_words_wins(self, tmp_path: Path) -> None:
        files = [_write(tmp_path / "a.yaml", neg_sampler="mixgcf")]
        config = _config(files=files, train_neg_sample_args={"distribution": "dns", "candidate_num": 3})
        assert (_run(config).sampler, _run(config).sampler_options.candidates) == ("dns", 3)
        files.append(_write(tmp_path / "later.yaml", train_neg_sample_args={"distribution": "ahns"}))
        assert _run(_config(files=files)).sampler == "ahns" and _run(_config(files=files[::-1])).sampler == "mixgcf"
        assert config.set_aside == []

    def test_a_misspelled_inner_key_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"train_neg_sample_args has \['candidates_num'\], which nothing reads"):
            _config(train_neg_sample_args={"distribution": "dns", "candidates_num": 3})

    def test_unknown_distribution(self) -> None:
        with pytest.raises(ValueError, match=r"unknown neg_sampler 'dnss'.*did you mean 'dns'\?"):
            _config(train_neg_sample_args={"distribution": "dnss"})

    def test_translation_leaves_everything_else(self) -> None:
        values = {"train_neg_sample_args": {"distribution": "dns", "sample_num": 3}, "seed": 4}
        translate_recbole_spelling(values)
        assert values == {"neg_sampler": "dns", "neg_sampler_num": 3, "seed": 4}

    def test_recboles_sample_num_keeps_its_meaning_under_our_sampler(self) -> None:
        args = {"distribution": "uniform", "sample_num": 4}
        assert _run(_config(neg_sampler="dns", train_neg_sample_args=args)).negatives == 4

    @pytest.mark.parametrize(
        "values",
        [
            {"train_neg_sample_args": {"distribution": "dns", "sample_num": 2}, "neg_sampler_num": 5},
            {"train_neg_sample_args": {"distribution": "dns", "candidate_num": 2}, "neg_sampler_candidates": 5},
            {"train_neg_sample_args": {"distribution": "popularity"}, "neg_sampler": "dns"},
            {"train_neg_sample_args": {"distribution": "dns", "alpha": 0.5}},
            {"train_neg_sample_args": {"distribution": "dns", "dynamic": True}},
            {
                "train_neg_sample_args": {"distribution": "popularity", "alpha": 0.5},
                "neg_sampler": "popularity",
                "neg_sampler_power": 0.6,
            },
        ],
    )
    def test_other_contradictions(self, values: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="train_neg_sample_args"):
            _config(**values)


class TestUnchangedArguments:
    @pytest.mark.parametrize(
        "values",
        [
            {"neg_sampler": "dns", "neg_sampler_candidates": "16", "topk": "[5, 10]"},
            {"train_neg_sample_args": {"distribution": "dns", "candidate_num": 4}},
            {"neg_sampler": "hnlm", "eval_args": {"mode": "full"}},
        ],
    )
    def test_the_dictionary_is_not_written_to(self, values: dict[str, Any]) -> None:
        before = copy.deepcopy(values)
        HNLMConfig("BPR", "ml-100k", config_dict=values)
        assert values == before

    def test_nor_what_lies_in_it(self) -> None:
        values = {"train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}}
        HNLMConfig("BPR", "ml-100k", config_dict=values)
        assert values == {"train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}}


class TestUnreadKeys:
    def test_what_nobody_knows_is_named(self) -> None:
        config = _config("BPR", neg_sampler="dns", neg_sampler_candidates=4, lr=0.1, n_layers=3, adam="fused", topk=[5],
                         torch_threads=1, tail_ratio=0.1, load_col={"inter": ["user_id", "item_id"]})  # fmt: skip
        assert config.unread == ["lr", "n_layers"]
        assert _config("LightGCN", n_layers=3, reg_weight=0.1).unread == []

    def test_a_model_from_elsewhere_may_read_any_key(self) -> None:
        class Mine(BPR):
            pass

        assert _config(Mine, own_key=1).unread == []

    def test_the_run_tells(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        data = write_dataset(tmp_path)
        split(_config(dataset="tiny", data_path=str(data), lr=0.1, state="WARNING"))
        assert "with BPR nothing reads ['lr']; remove it" in caplog.text


class TestASamplerGivenOverAnother:
    """A config for one sampler, and ``--neg_sampler=`` another: what was written for the first does not stand in its way."""

    WRITTEN: ClassVar = {"neg_sampler": "hnlm", "hnlm_alpha": 0.1, "llm_text_width": 64, "neg_sampler_candidates": 16}

    @pytest.mark.parametrize(
        ("sampler", "left"),
        [
            ("dns", ["hnlm_alpha", "llm_text_width"]),
            ("uniform", ["hnlm_alpha", "llm_text_width", "neg_sampler_candidates"]),
            ("none", ["hnlm_alpha", "llm_text_width", "neg_sampler_candidates"]),
            ("hnlm", []),
        ],
    )
    def test_its_options_are_set_aside_and_shared_ones_stay(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str, left: list[str]
    ) -> None:
        files = [_write(tmp_path / "a.yaml", **self.WRITTEN)]
        by_dictionary = _config(files=files, neg_sampler=sampler)
        monkeypatch.setattr(sys, "argv", ["train.py", f"--neg_sampler={sampler}"])
        by_command = _config(**self.WRITTEN)
        monkeypatch.setattr(sys, "argv", ["train.py"])
        by_file = _config(files=[*files, _write(tmp_path / "b.yaml", neg_sampler=sampler)])
        for config in (by_dictionary, by_command, by_file):
            assert sorted(config.set_aside) == left
        if sampler in ("dns", "hnlm"):
            assert _run(by_command).sampler_options.candidates == 16

    def test_options_beside_the_sampler_or_above_it_are_refused(self, tmp_path: Path) -> None:
        files = [_write(tmp_path / "a.yaml", neg_sampler="uniform")]
        for values in ({"hnlm_alpha": 0.1}, {"neg_sampler": "dns", "hnlm_alpha": 0.1}):
            with pytest.raises(ValueError, match="hnlm_alpha has no effect here"):
                _config(files=files, **values)

    def test_a_base_sampler_over_another_sets_its_options_aside(self, tmp_path: Path) -> None:
        written = {"neg_sampler": "hnlm", "hnlm_alpha": 0.1, "hnlm_base_sampler": "mixgcf", "neg_sampler_mix": 0.3}
        config = _config(files=[_write(tmp_path / "a.yaml", **written)], hnlm_base_sampler="dns")
        assert (_run(config).sampler, _run(config).hnlm.alpha) == ("hnlm(dns)", 0.1)
        assert config.set_aside == ["neg_sampler_mix"]

    def test_the_same_sampler_again_sets_nothing_aside(self, tmp_path: Path) -> None:
        files = [_write(tmp_path / "a.yaml", neg_sampler="dns", hnlm_alpha=0.1)]
        with pytest.raises(ValueError, match="hnlm_alpha has no effect here"):
            _config(files=files, neg_sampler="dns")

    def test_given_again_beside_the_sampler_it_is_refused(self, tmp_path: Path) -> None:
        files = [_write(tmp_path / "a.yaml", **self.WRITTEN)]
        with pytest.raises(ValueError, match="hnlm_alpha has no effect here"):
            _config(files=files, neg_sampler="dns", hnlm_alpha=0.1)

    def test_a_misspelled_option_is_refused_all_the_same(self, tmp_path: Path) -> None:
        files = [_write(tmp_path / "a.yaml", neg_sampler="hnlm", hnlm_alhpa=0.1)]
        with pytest.raises(ValueError, match="did you mean 'hnlm_alpha'"):
            _config(files=files, neg_sampler="dns")

    def test_the_run_tells(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        files = [_write(tmp_path / "a.yaml", neg_sampler="hnlm", hnlm_alpha=0.1)]
        data = write_dataset(tmp_path)
        split(_config(dataset="tiny", files=files, data_path=str(data), neg_sampler="dns", state="WARNING"))
        assert "neg_sampler=dns was given over the one that ['hnlm_alpha'] was written for" in caplog.text


class TestRefusedBeforeDataIsRead:
    """The dataset does not exist, so a message about the options comes before any look at it."""

    @pytest.mark.parametrize(
        "model", ["EASE", "ItemKNN", "MultiVAE", "Pop", "SLIMElastic", "ADMMSLIM", "RecVAE", "MacridVAE"]
    )
    @pytest.mark.parametrize("values", [{"neg_sampler": "dns"}, {"neg_sampler": "hnlm"}])
    def test_models_that_train_without_negatives(self, model: str, values: dict[str, Any]) -> None:
        with pytest.raises(
            ValueError, match=rf"^{model} .*; run it with neg_sampler: none instead of '{values['neg_sampler']}'"
        ):
            _config(model, "no-such-dataset", **values)

    @pytest.mark.parametrize(
        ("model", "kind"), [("GRU4Rec", "SEQUENTIAL"), ("DeepFM", "CONTEXT"), ("CKE", "KNOWLEDGE")]
    )
    def test_other_kinds_of_models(self, model: str, kind: str) -> None:
        with pytest.raises(ValueError, match=rf"^{model} is a {kind} model; only RecBole's general models"):
            _config(model, "no-such-dataset", neg_sampler="dns")

    @pytest.mark.parametrize("model", ["EASE", "ItemKNN", "MultiVAE", "Pop"])
    @pytest.mark.parametrize("values", [{}, {"neg_sampler": "none"}])
    def test_they_run_as_before_without_a_sampler(self, model: str, values: dict[str, Any]) -> None:
        assert _config(model, "no-such-dataset", **values).__dict__["run"] is None

    @pytest.mark.parametrize("model", ["BPR", "LightGCN", "NeuMF", "DMF", "NCL", "SGL", "NGCF", "FISM"])
    def test_models_that_train_on_negatives(self, model: str) -> None:
        assert _run(_config(model, "no-such-dataset", neg_sampler="dns")).sampler == "dns"

    def test_a_class_in_the_place_of_a_name(self) -> None:
        from recbole.model.general_recommender import BPR, EASE

        assert _run(_config(BPR, neg_sampler="dns")).sampler == "dns"
        with pytest.raises(ValueError, match="^EASE "):
            _config(EASE, neg_sampler="dns")

    def test_a_wrapped_class_in_the_place_of_a_name(self) -> None:
        from recbole.model.general_recommender import BPR

        assert _run(_config(hnlm(BPR), neg_sampler="dns")).sampler == "dns"

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"neg_sampler": "hnlm", "hnlm_alhpa": 0.1}, r"unknown option 'hnlm_alhpa'; did you mean 'hnlm_alpha'\?"),
            ({"neg_sampler": "hnlm", "hnml_alpha": 0.1}, r"unknown option 'hnml_alpha'; did you mean 'hnlm_alpha'\?"),
            ({"neg_samplr": "dns"}, r"unknown option 'neg_samplr'; did you mean 'neg_sampler'\?"),
            ({"neg_sampler": "dns", "neg_sampler_top_m": 2}, r"neg_sampler_top_m has no effect here"),
            ({"neg_sampler": "dns_mn", "neg_sampler_candidates": 2}, r"neg_sampler_top_m=5 exceeds the 2 candidates"),
            ({"neg_sampler": "hnlm", "hnlm_alpha": 2}, r"hnlm_alpha=2.0 is outside \[0, 1\]"),
        ],
    )
    def test_options(self, values: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            _config("BPR", "no-such-dataset", **values)

    def test_a_slip_on_the_command_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["train.py", "--neg_sampler_candiates=4"])
        with pytest.raises(ValueError, match="did you mean 'neg_sampler_candidates'"):
            _config("BPR", "no-such-dataset", neg_sampler="dns")

    def test_a_slip_in_a_file(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="did you mean 'hnlm_preset'"):
            _config(
                "BPR", "no-such-dataset", files=[_write(tmp_path / "e.yaml", neg_sampler="hnlm", hnlm_prest="paper")]
            )


READ_BACK = """
import pickle, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "recbole_hnlm":
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Blocked())
with open(sys.argv[1], "rb") as file:
    config = pickle.load(file)
assert "recbole_hnlm" not in sys.modules
print(type(config).__module__, type(config).__qualname__, config.model_class.__module__)
print(config["neg_sampler_candidates"], config["model"], config["embedding_size"], "run" in vars(config))
"""


class TestPickle:
    """RecBole puts its Config into every checkpoint."""

    @staticmethod
    def _read_elsewhere(config: Config, path: Path) -> subprocess.CompletedProcess[str]:
        path.write_bytes(pickle.dumps(config))
        return subprocess.run(
            [sys.executable, "-c", READ_BACK, str(path)], capture_output=True, text=True, timeout=120, cwd=path.parent
        )

    def test_plain_recbole_reads_it_without_this_package(self, tmp_path: Path) -> None:
        from recbole.model.general_recommender import BPR

        config = _config(neg_sampler="dns", neg_sampler_candidates=9, embedding_size=24)
        config.model_class = hnlm(BPR)  # as where the user hands over a wrapped class
        process = self._read_elsewhere(config, tmp_path / "config.pickle")
        assert process.returncode == 0, process.stderr
        assert process.stdout.splitlines() == [
            "recbole.config.configurator Config recbole.model.general_recommender.bpr",
            "9 BPR 24 False",
        ]

    def test_with_a_sampler_given_by_its_class(self, tmp_path: Path) -> None:
        back = pickle.loads(pickle.dumps(_config(neg_sampler=DynamicSelector)))
        assert back["neg_sampler"] == "recbole_hnlm.samplers.dns:DynamicSelector"
        assert back.variable_config_dict["neg_sampler"] == back["neg_sampler"]

    def test_nothing_is_lost_but_the_parsed_options(self) -> None:
        config = _config(neg_sampler="hnlm", neg_sampler_candidates=9)
        back = pickle.loads(pickle.dumps(config))
        assert type(back) is Config
        assert back.final_config_dict == config.final_config_dict
        assert back.external_config_dict == config.external_config_dict
        assert b"recbole_hnlm" not in pickle.dumps(config)
