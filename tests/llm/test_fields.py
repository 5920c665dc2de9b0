"""Which fields are text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from recbole_hnlm.llm import AtomicTable, fields, read_atomic, select_text_fields
from recbole_hnlm.llm.fields import is_text_like, order_fields

N = 200


def test_ml_100k(ml_100k: Path) -> None:
    items = read_atomic(ml_100k.with_suffix(".item"))
    assert select_text_fields(items) == ("movie_title", "class", "release_year")
    users = read_atomic(ml_100k.with_suffix(".user"))
    assert select_text_fields(users) == ("age", "gender", "occupation")


@pytest.mark.parametrize(
    ("field", "values", "expected"),
    [
        ("business_id", [f"xQ{place}-aZ" for place in range(N)], False),
        ("sku", [f"B00{place:04d}X" for place in range(N)], False),
        ("zip_code", [str(10_000 + place) for place in range(N)], False),
        ("zip_code", [str(10_000 + place % 9) for place in range(N)], False),
        ("postal_code", [f"V6B {place % 9}A1" for place in range(N)], False),
        ("image", [f"https://a.b/{place % 9}" for place in range(N)], False),
        ("poster", [f"pictures/{place}.jpg" for place in range(N)], False),
        ("views", [str(place * 7) for place in range(N)], False),
        ("category_id", [str(place % 9) for place in range(N)], False),
        ("constant", ["same"] * N, False),
        ("average_rating", [f"{3 + place % 20 / 10:.1f}" for place in range(N)], False),
        ("review_count", [str(place % 30) for place in range(N)], False),
        ("mpaa_rating", ["G", "PG", "R"] * N, True),
        ("stars", [f"Ann Other{place % 9}, Tom Hanks" for place in range(N)], True),
        ("year", [str(1900 + place % 100) for place in range(N)], True),
        ("year", ["1999.0", "2004.0", "2010.0", "2011.0"], True),
        ("gender", ["M", "F"] * N, True),
        ("age", [str(18 + place % 40) for place in range(N)], True),
        ("brand", [f"Brand{'abcdefghij'[place % 10]}" for place in range(N)], True),
        ("brand", ["Canon", "Bic", "Avery"], True),
        ("headline", [f"Wide binder of {place} sheets" for place in range(N)], True),
        ("product_id", [f"Wide binder number {place}" for place in range(N)], True),
    ],
)
def test_token_fields_by_content(field: str, values: list[str], expected: bool) -> None:
    assert is_text_like(field, values) is expected


def test_sequences_always_numbers_never(table: Callable[..., AtomicTable]) -> None:
    items = table(
        {
            "item_id:token": ["one word", "two words"],
            "description:token_seq": ["x1", ""],
            "price:float": ["1", "2"],
            "vector:float_seq": ["1 2", "3 4"],
            "empty:token_seq": ["", ""],
            "title:token_seq": ["a", "b"],
        }
    )
    assert select_text_fields(items) == ("title", "description")


def test_explicit_fields_keep_their_order_and_type(table: Callable[..., AtomicTable]) -> None:
    items = table({"item_id:token": ["1"], "title:token_seq": ["a"], "price:float": ["2"]})
    assert select_text_fields(items, ["price", "title"]) == ("price", "title")
    assert select_text_fields(items, []) == ()
    with pytest.raises(ValueError, match="did you mean 'title'") as error:
        select_text_fields(items, ["titel"])
    assert "'titel'" in str(error.value)


def test_order_is_titles_first_descriptions_last() -> None:
    given = ["description", "year", "city", "genres", "brand_name", "item_name"]
    assert order_fields(given) == ("item_name", "brand_name", "genres", "city", "year", "description")


def test_reviews_of_a_whole_catalogue_stay_out_unless_they_are_named(
    table: Callable[..., AtomicTable], caplog: pytest.LogCaptureFixture
) -> None:
    fields._tell.cache_clear()
    items = table(
        {
            "item_id:token": ["1", "2"],
            "title:token_seq": ["a kettle", "a spoon"],
            "reviews:token_seq": ["I boil water in it", "it bends"],
            "review_count:token_seq": ["four of them", "none"],
        }
    )
    with caplog.at_level("WARNING"):
        assert select_text_fields(items) == select_text_fields(items) == ("title", "review_count")
        (left_out,) = [record.getMessage() for record in caplog.records]
        assert left_out.startswith("reviews left out of profiles: it may hold what users wrote of held-out pairs")
        assert select_text_fields(items, ["title", "reviews"]) == ("title", "reviews")
    assert "reviews, taken as told, may hold" in caplog.records[-1].getMessage()
