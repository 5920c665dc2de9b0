"""What a build reads of a dataset's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from recbole_runs import settings, write_dataset

from recbole_hnlm.building.sources import tables_of, texts_of
from recbole_hnlm.config import HNLMConfig
from recbole_hnlm.quick_start import split


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"seq_separator": ";"}, "Ünïcode 日本語 kettle|pot. maker: a;b"),
        ({"seq_separator": "|"}, "Ünïcode;日本語;kettle pot. maker: a;b"),
        ({}, "Ünïcode;日本語;kettle|pot. maker: a;b"),
    ],
)
def test_tokens_of_sequences_are_parted_by_spaces(tmp_path: Path, values: dict[str, Any], expected: str) -> None:
    home = write_dataset(tmp_path)
    rows = "".join(f"i{item}\tÜnïcode;日本語;kettle|pot\ta;b\n" for item in range(80))
    (home / "tiny" / "tiny.item").write_text("item_id:token\ttitle:token_seq\tmaker:token\n" + rows, encoding="utf-8")
    shared = {"neg_sampler": "hnlm", "llm_text_fields": ["title", "maker"]}
    config = HNLMConfig("BPR", "tiny", config_dict=settings(home, "BPR", **shared, **values))
    dataset = split(config)[0]._dataset
    items, _ = tables_of(config, dataset, config.run.llm)
    assert items is not None
    assert {text.removesuffix(".") for text in texts_of(items, dataset, config.run.llm)} == {expected}
