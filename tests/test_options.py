"""Options parsed from a flat configuration: what is accepted, and every message of what is not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import pytest

from recbole_hnlm.options import HNLMOptions, LLMOptions
from recbole_hnlm.options.general import CommonSamplerOptions, GeneralOptions
from recbole_hnlm.options.parsing import option_keys, parse_options, reject_misspelled, reject_unknown
from recbole_hnlm.run_options import RunOptions, base_sampler_of, describe_options, parse_run
from recbole_hnlm.samplers import SAMPLERS, Negatives, Selector, sampler_class
from recbole_hnlm.samplers.dns import DynamicSelector

RECBOLE_KEYS = ("learning_rate", "train_batch_size", "seed", "embedding_size", "neg_sampling", "train_neg_sample_args")


def _run(**values: Any) -> RunOptions | None:
    """Parse what a user wrote, nothing else in the configuration."""
    return parse_run(values, values, RECBOLE_KEYS)


def _active(**values: Any) -> RunOptions:
    run = _run(**values)
    assert run is not None
    return run


class OutsideSelector(Selector):
    """A sampler that no registry knows, with one option of its own."""

    @dataclasses.dataclass(frozen=True)
    class Options:
        candidates: int = 2
        flavour: str = "plain"

    def select(self, pos_scores: Any, cand_scores: Any) -> Any:
        return cand_scores.argmin(dim=1)


class TestAccepted:
    @pytest.mark.parametrize("values", [{}, {"neg_sampler": None}, {"neg_sampler": "none"}, {"learning_rate": 0.1}])
    def test_switched_off(self, values: dict[str, Any]) -> None:
        assert _run(**values) is None

    @pytest.mark.parametrize("name", sorted(SAMPLERS))
    def test_defaults_of_every_sampler(self, name: str) -> None:
        run = _active(neg_sampler=name)
        assert run.sampler == name
        assert run.sampler_type is sampler_class(name)
        assert run.sampler_options == run.sampler_type.Options()
        assert (run.negatives, run.hnlm) == (1, None)

    def test_values_arrive(self) -> None:
        run = _active(neg_sampler="ahns", neg_sampler_candidates=9, neg_sampler_slope=2, neg_sampler_num=3)
        assert (run.sampler_options.candidates, run.sampler_options.slope, run.negatives) == (9, 2.0, 3)
        assert isinstance(run.sampler_options.slope, float)

    def test_seed(self) -> None:
        assert _active(neg_sampler="dns", seed=7).seed == 7
        assert _active(neg_sampler="dns", seed=7, neg_sampler_seed=0).seed == 0
        assert _active(neg_sampler="dns").seed == 0

    def test_text_over_a_base_sampler(self) -> None:
        run = _active(neg_sampler="hnlm", hnlm_base_sampler="mixgcf", neg_sampler_mix=0.5, hnlm_alpha=1)
        assert run.sampler == "hnlm(mixgcf)"
        assert run.sampler_options.mix == 0.5
        assert run.hnlm is not None
        assert run.hnlm.alpha == 1.0

    def test_text_over_recboles_own_sampler(self) -> None:
        run = _active(neg_sampler="hnlm", hnlm_base_sampler="recbole")
        assert (run.sampler, run.sampler_type, run.sampler_options) == ("hnlm(recbole)", None, None)

    @pytest.mark.parametrize("sampler", [OutsideSelector, f"{DynamicSelector.__module__}:{DynamicSelector.__name__}"])
    def test_class_and_path(self, sampler: Any) -> None:
        run = _active(neg_sampler=sampler, neg_sampler_candidates=4)
        assert run.sampler_options.candidates == 4
        assert run.sampler_type is sampler_class(sampler)

    def test_options_of_an_outside_class(self) -> None:
        run = _active(neg_sampler=OutsideSelector, neg_sampler_flavour="bitter")
        assert (run.sampler, run.sampler_options.flavour) == ("OutsideSelector", "bitter")

    @pytest.mark.parametrize("value", [None, "None", 0.5, 1])
    def test_optional(self, value: Any) -> None:
        parsed = parse_options(HNLMOptions, "hnlm_", {"hnlm_alignment_weight": value}).alignment_weight
        assert parsed == (None if value in (None, "None") else float(value))

    @pytest.mark.parametrize(
        ("value", "expected"), [("title", ("title",)), (["title", "brand"], ("title", "brand")), (None, None)]
    )
    def test_lists_of_names(self, value: Any, expected: Any) -> None:
        assert parse_options(LLMOptions, "llm_", {"llm_text_fields": value}).text_fields == expected

    def test_keys_of_others_are_none_of_our_business(self) -> None:
        reject_unknown(["learning_rate", "neighbours"], ["neg_sampler"], {})
        reject_misspelled(["learning_rate", "my_own_key"], RECBOLE_KEYS, ["neg_sampler"])

    def test_a_key_of_recbole_like_one_of_ours(self) -> None:
        reject_misspelled(["neg_sampling"], RECBOLE_KEYS, ["neg_samplin"])

    def test_option_keys(self) -> None:
        assert option_keys(CommonSamplerOptions, "neg_sampler_") == ("neg_sampler_num", "neg_sampler_seed")


class TestMessages:
    """Every refusal says what was expected, what came and what to do."""

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"hnlm_alhpa": 0.2}, r"unknown option 'hnlm_alhpa'; did you mean 'hnlm_alpha'\?"),
            ({"hnlm_temprature": 0.2}, r"unknown option 'hnlm_temprature'; did you mean 'hnlm_temperature'\?"),
            ({"neg_sampler_candiates": 4}, r"unknown option 'neg_sampler_candiates'; did you mean 'neg_sampler_candid"),
            ({"llm_encodr": "x"}, r"unknown option 'llm_encodr'; did you mean 'llm_encoder'\?"),
            ({"hnml_alpha": 0.2}, r"unknown option 'hnml_alpha'; did you mean 'hnlm_alpha'\?"),
            ({"neg_samplr_candidates": 4}, r"unknown option 'neg_samplr_candidates'; did you mean 'neg_sampler_candi"),
            ({"fast_propogation": False}, r"unknown option 'fast_propogation'; did you mean 'fast_propagation'\?"),
            ({"torch_thread": 1}, r"unknown option 'torch_thread'; did you mean 'torch_threads'\?"),
            ({"hnlm_zzzzzzzzzzzzzz": 1}, r"^unknown option 'hnlm_zzzzzzzzzzzzzz'"),
        ],
    )
    def test_unknown_keys(self, values: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            _run(neg_sampler="hnlm", **values)

    @pytest.mark.parametrize("sampler", [None, "none"])
    def test_misspelled_switch(self, sampler: str | None) -> None:
        """The worst slip: the run would be RecBole's own, in silence."""
        values = {} if sampler is None else {"neg_sampler": sampler}
        with pytest.raises(ValueError, match=r"unknown option 'neg_samplr'; did you mean 'neg_sampler'\?"):
            _run(neg_samplr="dns", **values)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (
                {"neg_sampler": "dns", "neg_sampler_top_m": 3},
                r"neg_sampler_top_m has no effect here: it belongs to neg_sampler=dns_mn, this run uses dns; remove it",
            ),
            (
                {"neg_sampler": "uniform", "neg_sampler_candidates": 3},
                r"neg_sampler_candidates has no effect here: it belongs to neg_sampler=\w+, this run uses uniform",
            ),
            (
                {"neg_sampler": "dns", "hnlm_alpha": 0.2},
                r"hnlm_alpha has no effect here: it belongs to neg_sampler=hnlm, this run uses dns; remove it",
            ),
            (
                {"neg_sampler": "hnlm", "hnlm_base_sampler": "dns", "neg_sampler_mix": 0.5},
                r"neg_sampler_mix has no effect here: it belongs to neg_sampler=mixgcf, this run uses dns; remove it",
            ),
            (
                {"neg_sampler": "none", "neg_sampler_num": 2},
                r"neg_sampler_num has no effect here: neg_sampler=none draws nothing with it; remove it",
            ),
            ({"neg_sampler_candidates": 8}, r"neg_sampler_candidates has no effect here"),
            ({"hnlm_alpha": 0.2}, r"hnlm_alpha has no effect here: it belongs to neg_sampler=hnlm"),
            ({"neg_sampler": "recbole", "neg_sampler_num": 2}, r"neg_sampler_num has no effect here: neg_sampler=rec"),
        ],
    )
    def test_keys_without_effect(self, values: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            _run(**values)

    def test_only_what_the_user_wrote_can_be_useless(self) -> None:
        """A default of another sampler in the merged configuration is nobody's fault."""
        values = {"neg_sampler": "dns", "neg_sampler_top_m": 3, "hnlm_alpha": 0.2}
        assert parse_run(values, ["neg_sampler"], RECBOLE_KEYS) is not None

    def test_paths_are_strings(self) -> None:
        assert _run(neg_sampler="hnlm", hnlm_artefact_dir=Path("made") / "here").hnlm.artefact_dir == "made/here"

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (
                {"neg_sampler_candidates": "many"},
                r"neg_sampler_candidates='many' should be int, got str; check the YAML",
            ),
            ({"neg_sampler_candidates": True}, r"neg_sampler_candidates=True should be int, got bool"),
            ({"neg_sampler_candidates": 8.5}, r"neg_sampler_candidates=8.5 should be int, got float"),
            ({"neg_sampler_num": None}, r"neg_sampler_num=None should be int, got NoneType"),
            ({"neg_sampler_num": "2"}, r"neg_sampler_num='2' should be int, got str"),
            ({"neg_sampler_seed": 1.5}, r"neg_sampler_seed=1.5 should be int, got float"),
            ({"hnlm_alpha": "half"}, r"hnlm_alpha='half' should be float, got str"),
            ({"hnlm_alpha": True}, r"hnlm_alpha=True should be float, got bool"),
            ({"hnlm_scale_free": 1}, r"hnlm_scale_free=1 should be bool, got int"),
            ({"hnlm_detach": "yes"}, r"hnlm_detach='yes' should be bool, got str"),
            ({"llm_text_fields": 3}, r"llm_text_fields=3 should be a list of names, e.g. llm_text_fields=\['title'\]"),
            ({"llm_text_fields": ["title", 3]}, r"llm_text_fields=.* should be a list of names"),
            ({"torch_threads": "one"}, r"torch_threads='one' should be int, got str"),
            ({"fast_propagation": 0}, r"fast_propagation=0 should be bool, got int"),
        ],
    )
    def test_types(self, values: dict[str, Any], message: str) -> None:
        with pytest.raises(TypeError, match=message):
            _run(neg_sampler="hnlm", **values)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"hnlm_alpha": 1.5}, r"hnlm_alpha=1.5 is outside \[0, 1\]"),
            ({"hnlm_alpha": -0.1}, r"hnlm_alpha=-0.1 is outside \[0, 1\]"),
            ({"hnlm_alpha": float("nan")}, "hnlm_alpha=nan should be a finite number"),
            ({"hnlm_alignment_weight": -1.0}, r"hnlm_alignment_weight=-1.0 is negative; 0 switches the term off"),
            ({"hnlm_hard_alignment_weight": -2}, r"hnlm_hard_alignment_weight=-2.0 is negative"),
            ({"hnlm_temperature": 0}, r"hnlm_temperature=0.0 must be above 0"),
            ({"hnlm_aligned_pairs": -1}, r"hnlm_aligned_pairs=-1 is negative; 0 means all pairs"),
            ({"hnlm_projector_width": 0}, r"hnlm_projector_width=0 must be above 0"),
            ({"hnlm_init_scale": 0}, r"hnlm_init_scale=0.0 must be above 0"),
            ({"hnlm_init_hops": -1}, r"hnlm_init_hops=-1 is negative; 0 takes each item's own text alone"),
            ({"hnlm_min_coverage": 1.01}, r"hnlm_min_coverage=1.01 is outside \[0, 1\]"),
            (
                {"hnlm_preset": "anchord"},
                r"hnlm_preset='anchord' is not one of \['anchored', 'frozen', 'paper'\]; did you",
            ),
            ({"hnlm_init": "none"}, r"hnlm_init='none' is not one of \['.*'random'"),
            ({"hnlm_control": "shuffled"}, r"hnlm_control='shuffled' is not one of \['none', 'permuted', 'gaussian', "),
            ({"llm_user_history_order": 3}, r"llm_user_history_order=3 is not one of \['recent', 'random'\]"),
            ({"llm_profile_words": 0}, r"llm_profile_words=0 must be above 0"),
            ({"llm_encoder_batch_size": 0}, r"llm_encoder_batch_size=0 must be above 0"),
            ({"llm_teacher_epochs": 0}, r"llm_teacher_epochs=0 must be above 0"),
            ({"llm_teacher_candidates": 0}, r"llm_teacher_candidates=0 must be above 0"),
            ({"llm_teacher_draws": 0}, r"llm_teacher_draws=0 must be above 0"),
            ({"llm_user_history": -1}, r"llm_user_history=-1 is negative"),
            ({"llm_negatives_per_pair": 0}, r"llm_negatives_per_pair=0 must be above 0"),
            (
                {"llm_negatives_per_pair": 9, "llm_teacher_draws": 3},
                r"llm_negatives_per_pair=9 exceeds llm_teacher_draws=3; raise the draws or keep fewer negatives",
            ),
            ({"neg_sampler_num": 0}, r"neg_sampler_num=0 must be at least 1"),
            ({"neg_sampler_candidates": 0}, r"neg_sampler_candidates=0 must be at least 1"),
            ({"torch_threads": 0}, r"torch_threads=0 must be at least 1"),
        ],
    )
    def test_ranges_and_choices(self, values: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            _run(neg_sampler="hnlm", **values)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (
                {"neg_sampler": "dns_mn", "neg_sampler_candidates": 3, "neg_sampler_top_m": 9},
                r"neg_sampler_top_m=9 exceeds the 3 candidates per pair; lower neg_sampler_top_m or raise neg_sampler_ca",
            ),
            (
                {"neg_sampler": "dsn"},
                r"unknown neg_sampler 'dsn', choose one of \[.*\] or module:Class; did you mean 'd",
            ),
            ({"neg_sampler": "no.module:X"}, r"neg_sampler 'no.module:X' cannot be imported"),
            (
                {"neg_sampler": "hnlm", "hnlm_base_sampler": "hnlm"},
                r"hnlm_base_sampler='hnlm' draws no catalogue items",
            ),
            (
                {"neg_sampler": "hnlm", "hnlm_base_sampler": "none"},
                r"hnlm_base_sampler='none' draws no catalogue items",
            ),
            ({"neg_sampler": "hnlm", "hnlm_base_sampler": "mixgfc"}, r"unknown neg_sampler 'mixgfc'.*'mixgcf'"),
            (
                {"neg_sampler": "softmax", "neg_sampler_num": 2},
                r"neg_sampler_num=2 with SoftmaxWeigher.*_candidates inst",
            ),
            (
                {"neg_sampler": "hnlm", "hnlm_base_sampler": "softmax", "hnlm_alpha": 0.1},
                r"SoftmaxWeigher weighs many negatives, text mixes with one; use dns or hnlm_alpha: 0",
            ),
        ],
    )
    def test_samplers_and_combinations(self, values: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            _run(**values)

    @pytest.mark.parametrize("wrong", [int, 5, Negatives])
    def test_something_that_is_no_sampler(self, wrong: Any) -> None:
        with pytest.raises(TypeError, match="should be a NegativeSampler class"):
            _run(neg_sampler=wrong)

    def test_base_sampler_by_class(self) -> None:
        """``hnlm_base_sampler`` is a name or a path; ``neg_sampler`` takes a class too."""
        with pytest.raises(TypeError, match="hnlm_base_sampler=.* should be str"):
            _run(neg_sampler="hnlm", hnlm_base_sampler=OutsideSelector)

    def test_messages_are_short(self) -> None:
        with pytest.raises(ValueError, match="unknown neg_sampler") as caught:
            _run(neg_sampler="dsn")
        assert len(str(caught.value)) < 240


class TestDerived:
    @pytest.mark.parametrize(
        ("wanted", "matched", "detached"),
        [
            ({}, True, True),
            ({"preset": "frozen"}, False, False),
            ({"preset": "paper"}, False, False),
            ({"match_norm": False, "detach": False}, False, False),
            ({"preset": "paper", "match_norm": True, "detach": True}, True, True),
        ],
    )
    def test_presets(self, wanted: dict[str, Any], matched: bool, detached: bool) -> None:
        options = HNLMOptions(**wanted)
        assert (options.norm_matched, options.detached) == (matched, detached)

    @pytest.mark.parametrize("preset", ["anchored", "frozen", "paper"])
    def test_alignment_weight(self, preset: Any) -> None:
        """Every preset aligns by default; what the user says comes first, and 0 is something said."""
        assert 0 < HNLMOptions(preset=preset).effective_alignment_weight < 1
        for weight in (0.0, 0.7):
            assert HNLMOptions(preset=preset, alignment_weight=weight).effective_alignment_weight == weight

    @pytest.mark.parametrize(
        ("wanted", "text", "pairs"),
        [
            ({}, False, False),
            ({"init": "text"}, True, False),
            ({"alignment_weight": 0.1}, True, False),
            ({"alpha": 0.1}, True, True),
            ({"hard_alignment_weight": 0.1}, True, True),
            ({"preset": "paper", "alignment_weight": 0.1}, True, True),
            ({"preset": "frozen", "alignment_weight": None}, True, True),
            ({"preset": "paper"}, False, False),
        ],
    )
    def test_what_is_read(self, wanted: dict[str, Any], text: bool, pairs: bool) -> None:
        nothing = {"alpha": 0.0, "alignment_weight": 0.0, "hard_alignment_weight": 0.0, "init": "random"}
        options = HNLMOptions(**{**nothing, **wanted})
        assert (options.reads_text, options.reads_pair_vectors) == (text, pairs)

    def test_options_are_frozen(self) -> None:
        for options in (HNLMOptions(), LLMOptions(), CommonSamplerOptions(), GeneralOptions()):
            field = dataclasses.fields(options)[0].name
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(options, field, None)

    @pytest.mark.parametrize(
        ("values", "expected"),
        [({}, None), ({"neg_sampler": "ahns"}, "ahns"), ({"neg_sampler": "hnlm"}, HNLMOptions.base_sampler)],
    )
    def test_base_sampler_of(self, values: dict[str, Any], expected: str | None) -> None:
        assert base_sampler_of(values) == expected

    def test_described(self) -> None:
        run = _active(neg_sampler="hnlm", hnlm_base_sampler="ahns", neg_sampler_slope=0.3, hnlm_alpha=0.4)
        described = describe_options(run)
        assert described["neg_sampler"] == "hnlm(ahns)"
        assert (described["neg_sampler_slope"], described["hnlm_alpha"]) == (0.3, 0.4)
        assert "hnlm_alpha" not in describe_options(_active(neg_sampler="dns"))


class _DrawsItself(OutsideSelector):
    def sample(self, *args: Any, **kwargs: Any) -> Negatives:
        raise AssertionError


class TestGuard:
    MARGIN: ClassVar = {"neg_sampler_guard_relative_margin": 0.1}

    def test_values_arrive(self) -> None:
        run = _active(neg_sampler="uniform", neg_sampler_guard="score", neg_sampler_guard_spares=7, **self.MARGIN)
        assert (run.guard.active, run.guard.guard_spares, run.guard.guard_relative_margin) == (True, 7, 0.1)
        assert describe_options(run)["neg_sampler_guard"] == "score"
        assert "neg_sampler_guard" not in describe_options(_active(neg_sampler="uniform"))
        assert not _active(neg_sampler="hnlm", hnlm_base_sampler="recbole").guard.active

    @pytest.mark.parametrize(("guard", "reads"), [("text", True), ("score", False), ("none", False)])
    def test_text_that_only_the_guard_reads(self, guard: str, reads: bool) -> None:
        off = {"hnlm_alpha": 0, "hnlm_alignment_weight": 0, "hnlm_init": "random"}
        knobs = {} if guard == "none" else self.MARGIN
        values = {"neg_sampler": "hnlm", "neg_sampler_guard": guard, **off, **knobs}
        assert _active(**values).reads_text is reads
        if reads:
            assert _active(**values, hnlm_control="permuted").reads_text
            return
        with pytest.raises(ValueError, match="hnlm_control has no effect here"):
            _run(**values, hnlm_control="permuted")

    def test_a_sampler_with_scores_may_be_judged_by_them(self) -> None:
        run = _active(neg_sampler="dns", neg_sampler_guard="tree", neg_sampler_guard_max_score=0.5)
        assert run.guard.guard_max_score == 0.5

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({}, "neg_sampler_guard_relative_margin has no effect here: neg_sampler_guard=none refuses no candidate"),
            ({"neg_sampler_guard": "scores"}, "neg_sampler_guard='scores' is not one of .*did you mean 'score'"),
            ({"neg_sampler_gaurd": "score"}, "unknown option 'neg_sampler_gaurd'; did you mean 'neg_sampler_guard'"),
            (
                {"neg_sampler_guard": "text"},
                "neg_sampler_guard=text reads text vectors, which come with neg_sampler: hnlm",
            ),
            ({"neg_sampler": "recbole"}, "neg_sampler_guard_relative_margin has no effect here: neg_sampler=recbole"),
            ({"neg_sampler": _DrawsItself, "neg_sampler_guard": "score"}, "_DrawsItself draws and chooses in one"),
        ],
    )
    def test_refused(self, values: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            _run(**{"neg_sampler": "dns", **self.MARGIN, **values})
