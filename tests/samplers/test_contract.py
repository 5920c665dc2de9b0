"""The contract, for every sampler of the registry and for one from outside the package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from recbole_hnlm.samplers import SAMPLERS, CandidateSampler, NegativeSampler, sampler_class
from recbole_hnlm.samplers.dns import DynamicSelector
from tests.samplers.contract import SamplerContract

OUTSIDE = '''
from dataclasses import dataclass

from recbole_hnlm.samplers import CandidateOptions, Negatives, Selector


@dataclass(frozen=True)
class EasyOptions(CandidateOptions):
    politeness: int = 1


class EasySelector(Selector):
    """The candidate with the lowest score."""

    Options = EasyOptions

    def select(self, pos_scores, cand_scores):
        return cand_scores.argmin(dim=1)


not_a_sampler = 3
'''


@pytest.fixture
def outside_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module with a sampler that the package has never heard of."""
    name = "somebody_elses_samplers"
    (tmp_path / f"{name}.py").write_text(OUTSIDE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


class TestRegisteredSamplers(SamplerContract):
    @pytest.fixture(params=sorted(SAMPLERS))
    def sampler(self, request: pytest.FixtureRequest) -> type[NegativeSampler]:
        return sampler_class(request.param)


class TestSamplerFromOutside(SamplerContract):
    @pytest.fixture
    def sampler(self, outside_module: str) -> type[NegativeSampler]:
        return sampler_class(f"{outside_module}:EasySelector")


class TestSamplerClass:
    def test_by_name(self) -> None:
        assert sampler_class("dns") is DynamicSelector

    def test_by_path_within(self) -> None:
        assert sampler_class("recbole_hnlm.samplers.dns:DynamicSelector") is DynamicSelector

    def test_by_path_outside(self, outside_module: str) -> None:
        found = sampler_class(f"{outside_module}:EasySelector")
        assert (found.__module__, found.__name__) == (outside_module, "EasySelector")

    def test_by_class(self) -> None:
        class Mine(DynamicSelector):
            pass

        assert sampler_class(Mine) is Mine

    @pytest.mark.parametrize(
        ("wrong", "nearest"),
        [("dsn", "dns"), ("unifrom", "uniform"), ("mixgfc", "mixgcf"), ("popularty", "popularity")],
    )
    def test_unknown_name_tells_the_nearest(self, wrong: str, nearest: str) -> None:
        with pytest.raises(ValueError, match=rf"unknown neg_sampler '{wrong}'.*did you mean '{nearest}'\?") as caught:
            sampler_class(wrong)
        assert all(name in str(caught.value) for name in SAMPLERS)

    def test_unknown_name_like_no_other(self) -> None:
        with pytest.raises(ValueError, match="choose one of") as caught:
            sampler_class("qqqqqqqq")
        assert "did you mean" not in str(caught.value)

    @pytest.mark.parametrize("path", ["no_such_module_here:Sampler", "recbole_hnlm.samplers.dns:NoSuchSampler"])
    def test_path_that_leads_nowhere(self, path: str) -> None:
        with pytest.raises(ValueError, match=r"neg_sampler '.*' cannot be imported: .*on PYTHONPATH"):
            sampler_class(path)

    def test_path_to_something_else(self, outside_module: str) -> None:
        with pytest.raises(TypeError, match="should be a NegativeSampler class, its name or module:Class, got 3"):
            sampler_class(f"{outside_module}:not_a_sampler")

    @pytest.mark.parametrize("wrong", [int, 3, None])
    def test_class_of_something_else(self, wrong: type[NegativeSampler]) -> None:
        with pytest.raises(TypeError, match="should be a NegativeSampler class"):
            sampler_class(wrong)

    def test_templates_cannot_be_built(self) -> None:
        with pytest.raises(TypeError, match="abstract"):
            CandidateSampler(None, None, None)  # type: ignore[abstract,arg-type]
