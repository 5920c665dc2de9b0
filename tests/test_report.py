"""A run's name in tables."""

from __future__ import annotations

from typing import Any

import pytest

from recbole_hnlm.report import run_name


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "BPR, RecBole"),
        ({"neg_sampler": "hnlm(dns)"}, "BPR, hnlm(dns)"),
        ({"neg_sampler": "uniform", "ranking_loss": "bsl"}, "BPR, uniform, bsl"),
    ],
)
def test_a_run_is_named_by_model_sampler_and_loss(options: dict[str, Any], expected: str) -> None:
    assert run_name("BPR", {"hnlm": {"options": options}}) == expected
