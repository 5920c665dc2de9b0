"""Reviews of training pairs, and of no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_hnlm.llm.fields import is_review_field
from recbole_hnlm.llm.reviews import find_review_field, latest_reviews, read_reviews

KEYS = ("user_id", "item_id")
HEADER = "user_id:token\titem_id:token\treview:token_seq\trating:float\n"


def _write(path: Path, *rows: str, header: str = HEADER) -> Path:
    path.write_text(header + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("field", "kind", "expected"),
    [
        ("review", "token_seq", True),
        ("review_text", "token", True),
        ("reviewText", "token_seq", True),
        ("user_review", "token_seq", True),
        ("tip", "token_seq", True),
        ("userReviews", "token_seq", True),
        ("customer_feedback", "token_seq", True),
        ("reviewCount", "token", False),
        ("review_count", "token", False),
        ("review_id", "token", False),
        ("review", "float", False),
        ("multiple", "token", False),
        ("preview", "token_seq", False),
    ],
)
def test_review_fields_by_name(field: str, kind: str, expected: bool) -> None:
    assert is_review_field(field, kind) is expected


def test_sequences_go_first() -> None:
    assert find_review_field({"tip": "token", "review": "token_seq"}) == "review"
    assert find_review_field({"user_id": "token", "rating": "float"}) is None


def test_training_pairs_alone(tmp_path: Path) -> None:
    path = _write(
        tmp_path / "d.inter",
        *(
            "u\ta\tfine \t5",
            "u\tb\theld out\t1",
            "v\ta\tearly\t4",
            "v\ta\theld out too\t1",
            "w\ta\tone\t3",
            "w\ta\ttwo\t3",
        ),
    )
    pairs = (["w", "u", "v", "w", "u"], ["a", "a", "a", "a", "zz"])
    assert read_reviews(path, pairs, KEYS) == ["two", "fine", "", "two", ""]


def test_no_review_field(tmp_path: Path) -> None:
    path = _write(tmp_path / "d.inter", header="user_id:token\titem_id:token\n")
    assert read_reviews(path, ([], []), KEYS) is None
    with pytest.raises(ValueError, match="d.inter has no field 'note'; it has"):
        read_reviews(path, ([], []), KEYS, field="note")


def test_a_torn_row_is_an_error(tmp_path: Path) -> None:
    path = _write(tmp_path / "d.inter", "u\ta\tfine\t5", "u\tb\tto")
    with pytest.raises(ValueError, match=r"d.inter is no atomic file \(line 3 has 3 columns, expected 4\)"):
        read_reviews(path, (["u"], ["a"]), KEYS)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_cells_in_quotes_and_other_encodings(tmp_path: Path, encoding: str) -> None:
    rows = ['"u1",a,"schön, ""gut""\n\nund billig",5', 'u2,"a",short,1', "", 'u3,a,5" disc,1']
    text = HEADER.replace("\t", ",") + "\n".join(rows) + "\n"
    path = tmp_path / "d.inter"
    path.write_bytes(text.encode(encoding))
    pairs = (["u1", "u2", "u3"], ["a"] * 3)
    found = read_reviews(path, pairs, KEYS, separator=",", encoding=encoding)
    assert found == ['schön, "gut"\n\nund billig', "short", '5" disc']


def test_a_wrong_encoding_names_the_setting(tmp_path: Path) -> None:
    path = tmp_path / "d.inter"
    path.write_bytes((HEADER + "u\ta\tschön\t5\n").encode("latin-1"))
    with pytest.raises(ValueError, match=r"d\.inter is not in utf-8 .*set RecBole's encoding to the file's"):
        read_reviews(path, (["u"], ["a"]), KEYS)


def test_a_stray_quote_hides_no_review(tmp_path: Path) -> None:
    path = _write(tmp_path / "d.inter", 'u\ta\t"fine\t5', "v\ta\tgood\t4", 'w\ta\tso "la la"\t4')
    assert read_reviews(path, (["u", "v", "w"], ["a"] * 3), KEYS) == ['"fine', "good", 'so "la la"']


def test_latest_reviews() -> None:
    texts = ["one", "", "two three", "four", "five"]
    found = latest_reviews([0, 0, 0, 2, 0], texts, 3, limit=2, words=1)
    assert found == [[(4, "five"), (2, "two")], [], [(3, "four")]]
    assert latest_reviews([0], None, 2, 5, 5) == [[], []]
    assert latest_reviews([0], ["x"], 1, 0, 5) == [[]]
