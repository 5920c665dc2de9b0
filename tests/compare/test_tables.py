"""What stands in the tables, letter by letter."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
from matplotlib.figure import Figure

from recbole_hnlm.compare import plots
from recbole_hnlm.compare.blocks import blocks_of
from recbole_hnlm.compare.ledger import FAILED, OK
from recbole_hnlm.compare.notes import notes_of
from recbole_hnlm.compare.outcomes import Outcome, validation_score
from recbole_hnlm.compare.plan import Cell
from recbole_hnlm.compare.report import head_lines
from recbole_hnlm.compare.rows import Row
from recbole_hnlm.compare.spaces import read_space
from recbole_hnlm.compare.tables import (
    CSV_COLUMNS,
    Table,
    accuracy_table,
    comma_separated,
    cost_table,
    describe_point,
    probability,
)
from recbole_hnlm.compare.writing import latex, latex_safe, markdown, web


def outcome(name: str, test: list[float], valid: list[float], kind: str = "sampler", **figures: Any) -> Outcome:
    """A row that was trained with seeds 0, 1, ..."""
    seeds = tuple(range(len(test)))
    row = Row(name, "BPR", kind, {}, everywhere=kind == "baseline")
    cell = Cell("tiny", "" if row.everywhere else "BPR", row, {}, {}, {}, {}, 1, seeds)
    runs = tuple(
        {"status": OK, "seed": seed, "test": {"ndcg@20": test[seed]}, "valid_score": valid[seed],
         "higher_is_better": True, "seconds_per_epoch": 0.25, "best_epoch": 3, "seconds_to_best": 1.0, "epochs": 9,
         "peak_memory_mib": 512.4, "machine": {"processor": "p", "cores": 2, "device": "cpu"},
         "versions": {"torch": "2"}, **figures}
        for seed in seeds
    )  # fmt: skip
    return Outcome(cell, {"learning_rate": 0.01}, runs, tried=8)


@pytest.fixture
def outcomes() -> list[Outcome]:
    return [
        outcome("EASE", [0.10, 0.12], [0.2, 0.2], "baseline"),
        outcome("dns", [0.2, 0.22], [0.1, 0.1]),
        outcome("hnlm", [0.2, 0.22], [0.9, 0.9], "text"),
        outcome("mixgcf", [0.15, 0.15], [0.3, 0.1]),
    ]


def test_the_base_is_the_best_id_only_row_on_validation(outcomes: list[Outcome]) -> None:
    """EASE and mixgcf draw on validation, the first stands; dns is better on test and hnlm reads text."""
    assert blocks_of(outcomes)[0].base == "EASE"
    outcomes.append(outcome("bsl", [0.1, 0.1], [0.8, 0.8], "loss"))
    assert blocks_of(outcomes)[0].base == "bsl"  # reads interactions alone, too
    with pytest.raises(ValueError, match="against='x' is no row; choose one of"):
        blocks_of(outcomes, "x")


def test_validation_decides_by_the_sign_of_its_metric_and_by_numbers_alone() -> None:
    rows = [outcome(name, [0.1], [score], higher_is_better=False) for name, score in (("dns", 0.4), ("ahns", 0.3))]
    assert blocks_of(rows)[0].base == "ahns"
    assert [validation_score(row.records[0]) for row in rows] == [-0.4, -0.3]
    rows = [outcome(name, [0.1], [score]) for name, score in (("dns", math.nan), ("ahns", 0.3))]
    assert blocks_of(rows)[0].base == "ahns" and validation_score(rows[0].records[0]) is None
    failed = {"status": FAILED, "valid_score": 0.9, "higher_is_better": True}
    assert validation_score(failed) is None


def test_equal_rows_share_the_best_and_the_next_is_second(outcomes: list[Outcome]) -> None:
    table = accuracy_table(blocks_of(outcomes)[0])
    assert table.marks == {(1, 1): 1, (2, 1): 1, (3, 1): 2}
    text = markdown([table], "# head")
    assert text.count("**0.2100 ± 0.0141**") == 2 and "<u>0.1500 ± 0.0000</u>" in text


@pytest.mark.parametrize("means", list(itertools.permutations([0.1, math.nan, 0.3, 0.2])))
def test_what_is_no_number_is_neither_best_nor_in_the_way(means: tuple[float, ...]) -> None:
    rows = [outcome(f"row{place}", [mean, mean], [0.1, 0.1]) for place, mean in enumerate(means)]
    figures = [line.figures["ndcg@20"] for line in blocks_of(rows)[0].lines]
    assert {figure.mean: figure.rank for figure in figures if figure.rank} == {0.3: 1, 0.2: 2}


def test_a_row_that_failed_with_some_seeds_is_shown_and_not_ranked(outcomes: list[Outcome]) -> None:
    partial = outcome("ahns", [0.9, 0.9], [0.9, 0.9])
    partial = replace(partial, records=(partial.records[0], {"status": FAILED, "seed": 1, "error": "no memory"}))
    block = blocks_of([*outcomes, partial])[0]
    table = accuracy_table(block)
    assert table.rows[4][:2] == ("ahns", "0.9000") and block.base == "EASE"
    assert table.marks == {(1, 1): 1, (2, 1): 1, (3, 1): 2}
    again = "(the same command with --retry_failed trains it again)"
    assert f"ahns: not ranked, failed with some seeds: no memory {again}" in table.notes


@pytest.fixture
def uneven() -> list[Outcome]:
    """Seed 2 has an easy split: rows that were trained on it look better by that alone."""
    return [
        outcome("dns", [0.20, 0.22, 0.90], [0.2, 0.2, 0.9]),
        outcome("mixgcf", [0.30, 0.32], [0.3, 0.3]),
        outcome("hnlm", [0.25, 0.27, 0.80], [0.1, 0.1, 0.1], "text"),
    ]


def test_rows_are_compared_on_the_seeds_that_they_share(uneven: list[Outcome]) -> None:
    (block,) = blocks_of(uneven)
    assert block.base == "mixgcf" and block.shared == (0, 1)  # by the mean of all seeds it would be dns, .43 against .3
    table = accuracy_table(block)
    assert table.marks == {(1, 1): 1, (2, 1): 2} and table.rows[0][1].startswith("0.4400")
    assert [row[2] for row in table.rows] == ["-32.3 %", "", "-16.1 %"] and [row[-1] for row in table.rows] == [
        "3",
        "2",
        "3",
    ]
    assert table.notes[0].startswith(
        "Seeds of all rows: 0, 1; further ones: 2 of dns, hnlm. Means are over a row's own"
    )
    (block,) = blocks_of(uneven[::2])
    assert block.base == "dns" and block.shared == (0, 1, 2) and "further ones" not in " ".join(notes_of(block))


def test_rows_without_a_common_seed_are_not_held_against_each_other(uneven: list[Outcome]) -> None:
    one, other, _ = uneven
    for number, run in enumerate(other.records, start=7):
        run["seed"] = number
    (block,) = blocks_of([one, other])
    assert block.base is None and accuracy_table(block).marks == {}
    assert notes_of(block)[0] == "Rows share no seed, so none is marked as best. Seeds: 0, 1, 2 of dns; 7, 8 of mixgcf."


def test_the_wilcoxon_note_is_about_the_pairs_of_every_row(uneven: list[Outcome]) -> None:
    long = [
        outcome(name, [0.1 * i + step * i * i for i in range(7)], [0.5] * 7)
        for name, step in (("ahns", 0.0), ("dens", 0.1))
    ]
    (block,) = blocks_of([*uneven, *long], against="ahns")
    told = [note for note in notes_of(block) if "The Wilcoxon test" in note]
    assert told == [
        "The Wilcoxon test cannot go below p 0.2500 with 3 seeds, 0.5000 with 2 seeds, even before correction, so it "
        "cannot reach .05 there."
    ]
    (block,) = blocks_of([*long, outcome("dns", [0.3], [0.1])], against="ahns")
    assert "(1 test a column)" in notes_of(block)[1] and any(
        note.startswith("Rows that share one seed with ahns") for note in notes_of(block)
    )


def test_the_head_says_whether_all_rows_have_the_same_seeds(uneven: list[Outcome]) -> None:
    assert "Seeds 0, 1, 2: each gives split, start and draws, the same in all rows." in head_lines(uneven[::2])[1]
    fixed = [replace(one, cell=replace(one.cell, values={"benchmark_filename": list("abc")})) for one in uneven[::2]]
    assert "each gives start and draws, the same" in head_lines(fixed)[1]
    by_time = [with_values(one, eval_args={"order": "TO", "split": {"RS": [8, 1, 1]}}) for one in uneven[::2]]
    assert "each gives start and draws, the same" in head_lines(by_time)[1]
    assert "each gives split, start and draws (no split of datasets that" in head_lines([uneven[0], fixed[1]])[1]
    told = head_lines(uneven)[1]
    assert "Seeds 0, 1, 2, of which some rows have fewer" in told and "in all rows." not in told


def test_rows_that_were_tuned_longer_are_told(outcomes: list[Outcome]) -> None:
    knob = read_space({"learning_rate": [0.1, 0.2]})
    rows = [replace(one, cell=replace(one.cell, space=knob, budget=4)) for one in outcomes[:3]]
    assert not any("tuned alike" in note for note in notes_of(blocks_of([*rows, outcomes[3]])[0]))  # it has no space
    rows[1] = replace(rows[1], cell=replace(rows[1].cell, budget=1))
    names = [one.cell.row.name for one in rows]
    told = f"Rows were not tuned alike, trials: 1 of {names[1]}; 4 of {names[0]}, {names[2]}."
    assert any(note.startswith(told) for note in notes_of(blocks_of(rows)[0]))


def test_seeds_that_did_not_learn_in_all_their_epochs_need_more() -> None:
    row = with_values(outcome("kar", [0.2, 0.1], [0.20, 0.10]), epochs=9)
    (told,) = [note for note in notes_of(blocks_of([row])[0]) if "not all seeds learned" in note]
    assert told.endswith("seed 1 after 9 epochs; try more epochs.")


def test_seeds_that_did_not_learn_are_told(outcomes: list[Outcome]) -> None:
    (block,) = blocks_of([*outcomes, outcome("kar", [0.2, 0.1, 0.1], [0.20, 0.13, 0.14])])
    told = [note for note in accuracy_table(block).notes if "not all seeds learned" in note]
    assert told == [
        "mixgcf: not all seeds learned: below 70 % of the best one on validation, seed 1 after 9 epochs; try a larger "
        "stopping_step.",
        "kar: not all seeds learned: below 70 % of the best one on validation, seed 1 after 9 epochs; try a larger "
        "stopping_step.",
    ]


def with_values(row: Outcome, **values: Any) -> Outcome:
    return replace(row, cell=replace(row.cell, values=values))


def test_what_rows_do_not_share_is_told() -> None:
    rows = [outcome(name, [0.1], [0.1]) for name in ("dns", "kar", "EASE", "mixgcf", "rlmrec_con")]
    patience = (8, 24, 8, 8, 24)
    rows = [with_values(row, stopping_step=steps, epochs=300) for row, steps in zip(rows, patience, strict=True)]
    (block,) = blocks_of(rows)
    told = [note for note in notes_of(block) if "stopping_step" in note or "epochs" in note]
    assert told == ["stopping_step: 24 of kar, rlmrec_con; 8 of the other rows."]
    (block,) = blocks_of(rows[::2][:2])
    assert not any("stopping_step" in note for note in notes_of(block))


def test_other_settings_of_backbones_are_told_but_not_what_rows_are_made_of() -> None:
    """Rows that joined a folder later may have another width; a baseline's own settings are no difference."""
    made = {"neg_sampler": "dns"}
    rows = [outcome(name, [0.1], [0.1]) for name in ("uniform", "dns", "mixgcf")]
    rows = [with_values(row, embedding_size=size, **made) for row, size in zip(rows, (8, 8, 32), strict=True)]
    rows[1] = with_values(rows[1], embedding_size=8, neg_sampler="uniform")
    rows.append(with_values(outcome("EASE", [0.1], [0.1], "baseline"), embedding_size=64, eval_step=1))
    (block,) = blocks_of(rows)
    told = [note for note in notes_of(block) if ": " in note and "other rows" in note]
    assert told == ["embedding_size: 32 of mixgcf; 8 of the other rows."]


def test_a_model_that_is_solved_at_once_is_not_told_to_learn_longer() -> None:
    row = outcome("EASE", [0.1, 0.1], [0.20, 0.10], "baseline", epochs=1, best_epoch=0)
    assert not any("not all seeds learned" in note for note in notes_of(blocks_of([row])[0]))


@pytest.mark.parametrize(("best", "told"), [(299, True), (297, True), (295, False), (None, False)])
def test_a_best_epoch_beside_the_last_is_told(best: int | None, told: bool) -> None:
    """Looked at every second epoch, so 298 and 300 are the last two, counted from 1."""
    row = with_values(outcome("dns", [0.1, 0.2], [0.1, 0.1], best_epoch=7), epochs=300, eval_step=2)
    row.records[1]["best_epoch"] = best
    notes = [note for note in notes_of(blocks_of([row])[0]) if "best at the end" in note]
    more = f"dns: best at the end, in epoch {(best or 0) + 1} with seed 1; it may be better with more than epochs=300."
    assert notes == ([more] if told else [])


@pytest.mark.parametrize("epochs", (1, 2))
def test_one_epoch_of_a_model_that_is_solved_is_no_early_end(epochs: int) -> None:
    row = with_values(outcome("EASE", [0.1], [0.1], "baseline", best_epoch=0), epochs=epochs, eval_step=1)
    row.records[0]["epochs"] = 1
    assert not any("best at the end" in note for note in notes_of(blocks_of([row])[0]))


def test_the_least_is_best_where_less_is_better() -> None:
    rows = [outcome(name, [0.1], [0.1]) for name in ("uniform", "dns", "mixgcf")]
    for row, value in zip(rows, (0.3, 0.9, 0.1), strict=True):
        row.records[0]["test"] = {"giniindex@20": value, "recall@20": value}
    (block,) = blocks_of(rows)
    ranks = {metric: [line.figures[metric].rank for line in block.lines] for metric in block.metrics}
    assert ranks == {"giniindex@20": [2, 0, 1], "recall@20": [2, 1, 0]}


def test_the_validation_score_is_told_as_it_was_measured() -> None:
    row = outcome("uniform", [0.1, 0.1], [0.7, 0.9])
    assert blocks_of([row])[0].lines[0].valid_score == pytest.approx(0.8)
    for record in row.records:
        record["higher_is_better"] = False
    assert blocks_of([row])[0].lines[0].valid_score == pytest.approx(0.8)
    assert f"{0.8:.6f}"[:3] in comma_separated(blocks_of([row]))


def test_a_row_that_was_asked_for_and_is_not_there_is_told(outcomes: list[Outcome]) -> None:
    assert not any("Asked for against" in note for note in notes_of(blocks_of(outcomes, "dns")[0]))
    outcomes[1] = replace(outcomes[1], missing=1)
    (block,) = blocks_of(outcomes, "dns")
    assert block.base == "EASE"
    assert "Asked for against dns, which has no figures here; EASE is the best by validation." in notes_of(block)


def test_copies_of_runs_are_told() -> None:
    rows = [outcome(name, [value] * 3, [value] * 3, "baseline") for name, value in (("EASE", 0.3), ("Pop", 0.2))]
    (block,) = blocks_of(rows)
    assert accuracy_table(block).rows[1][3:6] == ("-", "-", "-")


def test_a_name_that_begins_with_a_line_is_in_the_legend() -> None:
    assert plots._plain("_mine").strip() == "_mine" != plots._plain("_mine")


def test_the_table_by_hand(outcomes: list[Outcome]) -> None:
    """dns against EASE: differences .1 and .1, so t has no p; three tests a column; signs alike: p 2/4."""
    (block,) = blocks_of(outcomes)
    table = accuracy_table(block)
    assert table.header[1:3] == ("N@20", "N@20 vs EASE")
    assert table.header[3:6] == ("p t (N@20)", "p t, resampled (N@20)", "p Wilcoxon (N@20)")
    assert table.rows[0] == ("EASE", "0.1100 ± 0.0141", "", "", "", "", "8", "lr 0.01", "2")
    assert table.rows[1][3:6] == ("-", "-", "1.000") and "No p t where all seeds differ by the same" in table.notes[2]
    assert table.rows[3][:3] == ("mixgcf", "0.1500 ± 0.0000", "+36.4 %") and table.rows[3][5] == "1.000"
    assert table.notes[0].endswith("(3 tests a column).") and "cannot go below p 0.5000" in table.notes[3]
    csv = comma_separated([block]).splitlines()
    assert {line.count(",") for line in csv} == {len(CSV_COLUMNS) - 1}  # the row compared with has empty cells
    assert csv[4].startswith("tiny,BPR,mixgcf,sampler,BPR,ndcg@20,0.15,0,0.2,2,EASE,36.3636,")


def test_every_p_is_corrected_for_the_rows_of_the_table() -> None:
    """Three rows against dns: the least p counts three times, the next twice and the last once, in each test."""
    base, steps = [0.1, 0.1, 0.1], {"hnlm": (0.010, 0.011, 0.012), "dtl": (0.01, 0.02, 0.04), "ahns": (-0.1, 0.1, 0.2)}
    rows = [outcome(name, [one + by for one, by in zip(base, more, strict=True)], base) for name, more in steps.items()]
    (block,) = blocks_of([outcome("dns", base, base), *rows], against="dns")
    table = accuracy_table(block)
    for test, column in (("p_t", 3), ("p_resampled", 4)):
        raw = [getattr(line.figures["ndcg@20"].against, test) for line in block.lines[1:]]
        assert raw == sorted(raw) and 3 * raw[0] < 2 * raw[1] < raw[2]
        corrected = [3 * raw[0], 2 * raw[1], raw[2]]
        assert [getattr(line.figures["ndcg@20"], test) for line in block.lines[1:]] == pytest.approx(corrected)
        assert [row[column] for row in table.rows[1:]] == [probability(p) for p in corrected]
        place = CSV_COLUMNS.index(test)
        told = [line.rsplit(",", len(CSV_COLUMNS) - place)[1:3] for line in comma_separated([block]).splitlines()[2:]]
        assert [list(map(float, one)) for one in told] == [
            pytest.approx([p, p_holm], rel=1e-4) for p, p_holm in zip(raw, corrected, strict=True)
        ]
    assert float(table.rows[2][3]) < float(table.rows[2][4])  # what splits share makes it larger


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, "is Nadeau and Bengio's (2003), for 0.125 test pairs a training pair. Points are chosen on the first"),
        ({"eval_args": {"split": {"LS": "valid_and_test"}}}, "which take runs for independent, are too small. Points"),
        ({"eval_args": {"order": "TO"}}, None),
    ],
)
def test_splits_that_overlap_are_told(values: dict[str, Any], told: str | None) -> None:
    rows = [with_values(outcome(name, [0.1, 0.2, 0.4], [0.1] * 3), **values) for name in ("dns", "ahns")]
    rows[1].records[0]["test"] = {"ndcg@20": 0.3}
    table = accuracy_table(blocks_of(rows)[0])
    notes = [note for note in table.notes if note.startswith("Every seed splits the same pairs anew")]
    assert len(notes) == (told is not None) and (told or "") in "".join(notes)
    assert any("resampled" in name for name in table.header) is (not values)


def test_one_seed_gives_no_p() -> None:
    (block,) = blocks_of([outcome("dns", [0.1], [0.1]), outcome("hnlm", [0.2], [0.2], "text")])
    table = accuracy_table(block)
    assert table.rows[1][1:6] == ("0.2000", "+100.0 %", "-", "-", "-") and table.notes == (
        "One seed: no p-value can be given.",
    )


def test_a_row_alone_over_several_seeds_is_not_said_to_have_one() -> None:
    (block,) = blocks_of([outcome("dns", [0.1, 0.2], [0.1, 0.2])])
    assert not any("One seed" in note for note in accuracy_table(block).notes)


def test_memory_of_a_gpu_has_a_column_where_there_was_one(outcomes: list[Outcome]) -> None:
    plain = cost_table(blocks_of(outcomes)[0])
    on_gpu = outcome("bsl", [0.1, 0.1], [0.1, 0.1], "loss", peak_gpu_memory_mib=2048.6)
    table = cost_table(blocks_of([*outcomes, on_gpu])[0])
    assert table.header == (*plain.header, "peak MiB of the GPU")
    assert [row[-1] for row in table.rows] == ["2049" if row[0] == "bsl" else "" for row in table.rows]


def test_cost_by_hand(outcomes: list[Outcome]) -> None:
    table = cost_table(blocks_of(outcomes)[0])
    assert table.rows[1] == ("dns", "0.250", "4.0", "1.00", "9.0", "512")
    assert table.notes == ("Machine: p, 2 cores, cpu.", "torch 2.")


def test_nothing_is_told_in_percent_of_nothing() -> None:
    (block,) = blocks_of([outcome("uniform", [0.0, 0.0], [0.5, 0.5]), outcome("dns", [0.1, 0.2], [0.1, 0.1])])
    assert [row[2] for row in accuracy_table(block).rows] == ["", "-"]


def test_runs_of_several_versions_are_told(outcomes: list[Outcome]) -> None:
    assert not any("several versions" in note for note in accuracy_table(blocks_of(outcomes)[0]).notes)
    outcomes.append(outcome("ahns", [0.1, 0.1], [0.1, 0.1], versions={"torch": "3"}))
    (block,) = blocks_of(outcomes)
    assert "Rows were trained with several versions" in " ".join(accuracy_table(block).notes)
    assert cost_table(block).notes[1:] == ("torch 2.", "torch 3.")


def test_latex_escapes_everything_that_means_something() -> None:
    assert latex_safe("*a [b]") == "{*}a {[}b]"  # at the beginning of a row both would belong to the \\\\ before it
    assert latex_safe(r"a_b & 5 % of $x^2 {#~\ <1 ± 2") == (
        r"a\_b \& 5 \% of \$x\textasciicircum{}2 \{\#\textasciitilde{}\textbackslash{} \textless{}1 $\pm$ 2"
    )


TABLE = Table("t_1", ("row", "N@20 vs a|b", "point"), (("a_b|c", "1 ± 2", "lr 1"),), {(0, 1): 2}, ("5 % <b>",))


def test_latex_is_booktabs_and_leaves_out_the_point() -> None:
    text = latex([TABLE])
    for line in (
        r"\begin{tabular}{lr}", r"\toprule", r"row & N@20 vs a\textbar{}b \\", r"a\_b\textbar{}c & \underline{1 $\pm$ 2} \\", r"\bottomrule",
        r"\par 5 \% \textless{}b\textgreater{}", r"\caption{t\_1}",
    ):  # fmt: skip
        assert line in text.splitlines()


def test_markdown_and_html_keep_names_whole() -> None:
    text = markdown([TABLE], "# head")
    assert r"| row | N@20 vs a\|b | point |" in text
    assert r"| a_b\|c | <u>1 ± 2</u> | lr 1 |" in text and text.endswith("\n5 % &lt;b>\n")
    assert "<td>a_b|c</td><td><u>1 ± 2</u></td>" in web(TABLE) and "<p>5 % &lt;b&gt;</p>" in web(TABLE)


def test_small_things() -> None:
    assert [probability(p) for p in (None, 0.0004, 0.0006, 0.05)] == ["-", "<.001", "0.001", "0.050"]
    point = {"neg_sampler_candidates": 8, "learning_rate": 1e-3, "hnlm_alignment_weight": 0.25}
    assert describe_point(point) == "alignment_weight 0.25, lr 0.001, candidates 8"


def test_a_block_without_rows_has_notes_alone() -> None:
    empty = Table("t", ("row",), (), notes=("dns: unfinished, 3 of 3 runs left.",))
    assert markdown([empty], "# head") == "# head\n\n## t\n\ndns: unfinished, 3 of 3 runs left.\n"
    assert "tabular" not in latex([empty]) and web(empty) == "<p>dns: unfinished, 3 of 3 runs left.</p>"


def test_bars_are_the_means_with_their_deviations(outcomes: list[Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(plots, "svg_element", lambda figure: drawn.append(figure) or "")
    (block,) = blocks_of(outcomes)
    plots.bars(block)
    (axes,) = drawn[0].axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.11, 0.21, 0.21, 0.15])
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [line.name for line in block.lines] == ["EASE", "dns", "hnlm", "mixgcf"]
    (errors,) = [lines.get_segments() for lines in axes.collections]
    half = [float(end[0] - begin[0]) / 2 for begin, end in errors]
    assert half == pytest.approx([*[math.sqrt(2) * 0.01] * 3, 0.0])


def test_curves_are_scores_by_epoch_and_by_seconds(outcomes: list[Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(plots, "svg_element", lambda figure: drawn.append(figure) or "")
    curve = [[1, 2.5, 0.1], [3, 7.5, 0.3]]
    (block,) = blocks_of(
        [outcome("dns", [0.1], [0.3], curve=curve), outcome("EASE", [0.1], [0.2], curve=[[0, 1.0, 0.2]])]
    )
    plots.convergence(block)
    by_epoch, by_seconds = drawn[0].axes
    assert [line.get_xydata().tolist() for line in by_epoch.lines] == [[[1, 0.1], [3, 0.3]]]
    assert [line.get_xydata().tolist() for line in by_seconds.lines] == [[[2.5, 0.1], [7.5, 0.3]]]
    assert by_epoch.get_xlabel() == "epoch" and "seconds" in by_seconds.get_xlabel()
