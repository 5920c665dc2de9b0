"""A sampler of the user's own that returns nonsense is told so by name, and one that needs hops has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from recbole_runs import first_loss, made, write_dataset

from recbole_hnlm.samplers import Negatives, NegativeSampler, Selector

LIGHT = {"n_layers": 2, "reg_weight": 1e-4, "require_pow": False}


class Broken(NegativeSampler):
    """Returns what ``result`` makes of the candidates."""

    result: Any = None

    def choose(self, users: torch.Tensor, positives: torch.Tensor, candidates: torch.Tensor, view: Any) -> Any:
        return type(self).result(candidates[:, :1])


class Hops(NegativeSampler):
    """Writes down how many hops it is shown."""

    seen: list[int] = []

    def choose(self, users: torch.Tensor, positives: torch.Tensor, candidates: torch.Tensor, view: Any) -> Negatives:
        self.seen.append(view.n_hops)
        return Negatives(candidates[:, :1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


def weighted(ids: torch.Tensor) -> Negatives:
    return Negatives(ids.repeat(1, 2), weights=torch.full((len(ids), 2), 0.5))


@pytest.mark.parametrize("model", ["BPR", "LightGCN", "NeuMF"])
@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (lambda ids: ids, TypeError, r"Broken should return Negatives\(ids\), got Tensor"),
        (lambda ids: None, TypeError, r"Broken should return Negatives\(ids\), got NoneType"),
        (lambda ids: Negatives(ids[:-1]), ValueError, r"Broken should return ids of shape \(\d+, 1\)"),
        (lambda ids: Negatives(ids.float()), ValueError, "Broken should return whole ids"),
        (lambda ids: Negatives(ids - 200), ValueError, "Broken returns ids from -.*; items have 1 to 80, 0 is padding"),
        (lambda ids: Negatives(ids + 200), ValueError, "Broken returns ids from .*; items have 1 to 80, 0 is padding"),
        (weighted, ValueError, "Broken returns weights, which no loss reads unless its class says weighs = True"),
        (lambda ids: Negatives(ids, torch.ones(len(ids), 8)), ValueError, "Broken returns rows.* synthesizes = True"),
    ],
)  # fmt: skip
def test_nonsense_is_told_by_the_samplers_name(
    folder: Path, model: str, result: Any, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Broken, "result", staticmethod(result))
    wrapped, loaders, _ = made(
        folder, model, **(LIGHT if model == "LightGCN" else {}), neg_sampler=f"{__name__}:Broken"
    )
    with pytest.raises(error, match=message):
        first_loss(wrapped, loaders)


def test_weights_and_rows_of_other_shapes_are_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Broken, "weighs", True)
    monkeypatch.setattr(Broken, "synthesizes", True)
    for result, message in (
        (lambda ids: Negatives(ids.repeat(1, 2), weights=torch.ones(len(ids), 3)), "returns weights of shape"),
        (lambda ids: Negatives(ids, torch.ones(3, 8)), r"Broken should return rows of shape \(\d+, 8\).*got \(3, 8\)"),
        (
            lambda ids: Negatives(ids, torch.ones(len(ids), 7)),
            r"Broken should return rows of shape \((\d+), 8\).*\(\1, 7",
        ),
    ):
        monkeypatch.setattr(Broken, "result", staticmethod(result))
        wrapped, loaders, _ = made(folder, "BPR", neg_sampler=f"{__name__}:Broken")
        with pytest.raises(ValueError, match=message):
            first_loss(wrapped, loaders)


class Selecting(Selector):
    """Is given scores, and no hops."""

    def select(self, pos_scores: torch.Tensor, cand_scores: torch.Tensor) -> torch.Tensor:
        return cand_scores.argmin(dim=1)


def test_a_sampler_of_ones_own_sees_the_hops_and_a_selector_makes_none(folder: Path) -> None:
    wrapped, loaders, _ = made(folder, "LightGCN", **LIGHT, neg_sampler=f"{__name__}:Hops")
    first_loss(wrapped, loaders)
    assert Hops.seen == [3]
    needed = {name: made(folder, "LightGCN", **LIGHT, neg_sampler=name)[0].hnlm.needs_hops
              for name in (f"{__name__}:Hops", f"{__name__}:Selecting", "dns", "mixgcf")}  # fmt: skip
    assert list(needed.values()) == [True, False, False, True]


class Deaf(NegativeSampler):
    """Draws for one negative a pair, however many are asked for."""

    def draw_candidates(self, users: torch.Tensor, negatives: int = 1) -> torch.Tensor:
        return self.drawer.draw(users, self.candidates_per_negative)

    @property
    def candidates_per_negative(self) -> int:
        return 4

    def choose(self, users: torch.Tensor, positives: torch.Tensor, candidates: torch.Tensor, view: Any) -> Negatives:
        return Negatives(candidates[:, :1])


class Termed(Broken):
    """Joins the loss with whatever ``term`` is."""

    result = staticmethod(Negatives)
    term: Any = None

    def extra_loss(self, users: torch.Tensor, positives: torch.Tensor, view: Any) -> Any:
        return type(self).term


class Loose(Selecting):
    """Has options that nothing can be read into."""

    class Options:  # type: ignore[assignment]
        candidates = 3


def test_candidates_for_one_negative_a_pair_are_not_dealt_to_two(folder: Path) -> None:
    for negatives in (1, 2):
        model, loaders, _ = made(folder, "BPR", neg_sampler=f"{__name__}:Deaf", neg_sampler_num=negatives)
        loaders[0].draw_from(model.hnlm)
        if negatives == 1:
            first_loss(model, loaders)
            continue
        with pytest.raises(ValueError, match=r"Deaf.draw_candidates .* 2 x candidates_per_negative .*, 4\)"):
            first_loss(model, loaders)


@pytest.mark.parametrize("term", [torch.ones(3), 1.0])
def test_a_term_that_is_no_scalar_is_told(folder: Path, term: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Termed, "term", term)
    with pytest.raises(ValueError, match="Termed.extra_loss should return a scalar tensor or None, got (shape|float)"):
        first_loss(*made(folder, "BPR", neg_sampler=f"{__name__}:Termed")[:2])


def test_options_that_are_no_dataclass_are_told(folder: Path) -> None:
    with pytest.raises(TypeError, match="Loose.Options should be a dataclass"):
        made(folder, "BPR", neg_sampler=f"{__name__}:Loose")
