"""MF-BPR with any negative sampler under the protocol of AHNS (AAAI'24), beside the figures published for it.

The authors publish their splits as two text files, a user and that user's items on every line:

    train.txt:  0 12 7 31          test.txt:  0 5
                1 7                           1 12 40

``convert`` turns them into RecBole's atomic files with a fixed split; the rest of this file trains on them:

    python examples/ahns_protocol.py --data=phones/ --name=phones --sampler=ahns
    python examples/ahns_protocol.py --data=sports/ --name=sports --sampler=ahns neg_sampler_shift=0.5
    python examples/ahns_protocol.py --data=tools/  --name=tools  --sampler=dins neg_sampler_boundary=2

**The epoch is chosen on the test pairs.** That is what the published figures rest on, so a comparison with them must do
it too; it flatters every row, and is right for nothing else. The script says so when it starts.

What is as published: D 64, Adam at 1e-3, batches of 2048 pairs, 32 candidates, l2 1e-4 times half the summed squares of
the batch's rows over B, evaluation every 5 epochs, stop after 10 evaluations without gain in Recall@20, seed 2022,
uniform Xavier start. What differs, as far as the public code of MixGCF goes, which AHNS continues:

- it evaluates after epochs 1, 6, 11 ..., RecBole after 5, 10, 15 ...;
- it drops the last, smaller batch of an epoch; RecBole trains on it;
- its catalogue runs to the largest id, so ids that occur nowhere are items too; RecBole ranks items that occur;
- a pair of both files is masked and counts as missed there; here it is no test pair (``convert`` tells how many);
- random numbers are others, so figures agree within the spread of seeds at best.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from recbole.model.general_recommender import BPR
from recbole.model.loss import EmbLoss

from recbole_hnlm import run_recbole_hnlm
from recbole_hnlm.compare.plan import CompareConfig
from recbole_hnlm.samplers import SAMPLERS, sampler_class

PUBLISHED = {  # Recall@20 and NDCG@20, of the AHNS authors' notebook and of re-runs of the public code
    ("phones", "ahns"): (0.1304, 0.0711), ("sports", "ahns"): (0.0846, 0.0460), ("tools", "ahns"): (0.0731, 0.0401),
    ("phones", "uniform"): (0.1103, 0.0594), ("sports", "uniform"): (0.0670, 0.0361),
    ("tools", "uniform"): (0.0566, 0.0308), ("phones", "dns"): (0.1158, 0.0643), ("sports", "dns"): (0.0740, 0.0411),
    ("tools", "dns"): (0.0659, 0.0378), ("phones", "mixgcf"): (0.1181, 0.0666), ("sports", "mixgcf"): (0.0757, 0.0428),
    ("tools", "mixgcf"): (0.0659, 0.0378), ("phones", "dins"): (0.1286, 0.0720), ("tools", "dins"): (0.0730, 0.0416),
}  # fmt: skip
"""AHNS from the notebook, the others from re-runs; ahns on sports with a shift of 0.5, dins with a boundary of 2."""
WARNING = "THE EPOCH IS CHOSEN ON THE TEST PAIRS, as in the published figures. Use these numbers for nothing else."


@dataclass(frozen=True)
class Counts:
    """What a conversion has found.

    Attributes:
        users: Users with a training pair.
        items: Items that occur.
        train: Training pairs.
        test: Test pairs.
        repeated: Pairs left out since their line, or another of the same user, names the item before.
        in_both: Test pairs left out since they are training pairs.
        unseen_users: Users with test pairs alone; their embeddings stay at their start.
    """

    users: int
    items: int
    train: int
    test: int
    repeated: int
    in_both: int
    unseen_users: int


def read_lists(path: Path) -> Iterator[tuple[str, str]]:
    """The pairs of a file of lines ``user item item ...``, in their order; blank lines and bare users give none.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: On what is no id, with the line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; the protocol needs train.txt and test.txt, 'user item item ...' a line")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            user, *items = line.split() or [""]
            for item in items:
                if not (user.isdecimal() and item.isdecimal()):
                    raise ValueError(
                        f"line {number} of {path} should be whole numbers 'user item ...', got {line[:40]!r}"
                    )
                yield user, item


def convert(source: Path, target: Path, name: str) -> Counts:
    """Write ``target/name/name.train.inter`` and ``name.test.inter`` from ``train.txt`` and ``test.txt`` of ``source``.

    A pair that comes twice is written once, and a test pair that is a training pair not at all.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a line holds anything but ids, or a file no pair.
    """
    given = {part: list(read_lists(source / f"{part}.txt")) for part in ("train", "test")}
    pairs = {part: list(dict.fromkeys(rows)) for part, rows in given.items()}
    repeated = sum(map(len, given.values())) - sum(map(len, pairs.values()))
    known = set(pairs["train"])
    in_both = len(known & set(pairs["test"]))
    pairs["test"] = [pair for pair in pairs["test"] if pair not in known]
    home = target / name
    home.mkdir(parents=True, exist_ok=True)
    for part, rows in pairs.items():
        if not rows:
            raise ValueError(f"{source / part}.txt leaves no pair; check the file")
        lines = ["user_id:token\titem_id:token", *("\t".join(pair) for pair in rows)]
        (home / f"{name}.{part}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    users, test_users = ({user for user, _ in pairs[part]} for part in ("train", "test"))
    items = {item for rows in pairs.values() for _, item in rows}
    counts = len(users), len(items), len(pairs["train"]), len(pairs["test"])
    return Counts(*counts, repeated, in_both, len(test_users - users))


class RegularisedBPR(BPR):
    """RecBole's BPR, which has no penalty of its own, with that of the protocol and its start.

    ``l2 / B * (|e_u|^2 + |e_i|^2 + |e_j|^2) / 2``, summed over the batch. RecBole's ``EmbLoss`` is that with
    ``require_pow=True``; without it, which is the default of RecBole's LightGCN, it is the *root* of the sum, and the
    same ``reg_weight`` means something else. ``weight_decay`` of Adam would draw on all rows at every step.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.reg_weight = config["reg_weight"]
        self.half_squares = EmbLoss()
        if config["start"] == "uniform":
            torch.nn.init.xavier_uniform_(self.user_embedding.weight)
            torch.nn.init.xavier_uniform_(self.item_embedding.weight)

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """BPR's loss plus the penalty; a synthetic negative is penalised as the row that it is."""
        users, items = interaction[self.USER_ID], interaction[self.ITEM_ID]
        rows = (
            self.user_embedding(users),
            self.item_embedding(items),
            self.item_embedding(interaction[self.NEG_ITEM_ID]),
        )
        penalty = self.half_squares(*rows, require_pow=True)
        loss: torch.Tensor = super().calculate_loss(interaction) + self.reg_weight * penalty
        return loss


def protocol(folder: Path, name: str, sampler: str, options: dict[str, Any]) -> dict[str, Any]:
    """Settings of a run; ``options`` go before everything else."""
    drawn = {"neg_sampler_candidates": 32} if "candidates" in _fields_of(sampler) else {}
    return {
        "data_path": str(folder.resolve()), "benchmark_filename": ["train", "test", "test"],  # the epoch by the test
        "load_col": {"inter": ["user_id", "item_id"]}, "embedding_size": 64, "learning_rate": 1e-3,
        "train_batch_size": 2048, "reg_weight": 1e-4, "start": "uniform", "seed": 2022, "epochs": 1000,
        "eval_step": 5, "stopping_step": 9,  # RecBole stops at the evaluation after as many without gain
        "metrics": ["Recall", "NDCG"], "topk": [20], "valid_metric": "Recall@20", "metric_decimal_place": 6,
        "eval_args": {"order": "RO", "group_by": "user", "mode": "full", "split": {"RS": [0.8, 0.1, 0.1]}},
        "eval_batch_size": 2_000_000, "show_progress": False, "neg_sampler": sampler, **drawn, **options,
    }  # fmt: skip


def _fields_of(sampler: str) -> Iterable[str]:
    return getattr(sampler_class(sampler).Options, "__dataclass_fields__", ())


def report(name: str, sampler: str, result: dict[str, Any]) -> str:
    """A table: the published figures of the same data and sampler, where there are any, and ours."""
    test = result["test_result"]
    rows = [(f"{name}, {sampler}, this run", test["recall@20"], test["ndcg@20"])]
    found = PUBLISHED.get((name, sampler))
    if found is not None:
        rows.insert(0, (f"{name}, {sampler}, published", *found))
    lines = [WARNING, "", "| | R@20 | N@20 |", "|---|---:|---:|"]
    lines += [f"| {label} | {float(recall):.4f} | {float(ndcg):.4f} |" for label, recall, ndcg in rows]
    if found is None:
        lines.append(f"no published figure for {sampler} on {name}")
    return "\n".join([*lines, f"epoch {result['hnlm']['best_epoch'] + 1} of {result['hnlm']['epochs']}"])


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Convert, train, print."""
    parser = argparse.ArgumentParser(description=WARNING)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.txt and test.txt")
    parser.add_argument("--name", required=True, help="name for the dataset; phones, sports and tools have figures")
    parser.add_argument("--sampler", default="ahns", help=f"one of {', '.join(SAMPLERS)}")
    parser.add_argument("--work", type=Path, default=Path("ahns_data"), help="where the atomic files go")
    parser.add_argument("options", nargs="*", help="further settings, e.g. neg_sampler_shift=0.5 or start=normal")
    args = parser.parse_args(arguments)
    wrong = [text for text in args.options if "=" not in text]
    if wrong:
        parser.error(f"cannot read {' '.join(wrong)}; further settings are written key=value")
    options = {key: yaml.safe_load(value) for key, _, value in (text.partition("=") for text in args.options)}
    try:
        settings = protocol(args.work, args.name, args.sampler, options)
        if settings["epochs"] < settings["eval_step"]:
            raise ValueError(
                f"epochs={settings['epochs']} ends before the first evaluation; eval_step is {settings['eval_step']}"
            )
        CompareConfig(RegularisedBPR, args.name, config_dict=settings)
        converted = convert(args.data, args.work, args.name)
    except (ValueError, TypeError, FileNotFoundError) as error:
        parser.error(str(error))
    sys.stdout.write(f"{WARNING}\n{converted}\n")
    logging.getLogger("recbole").setLevel(logging.WARNING)
    result = run_recbole_hnlm(RegularisedBPR, args.name, config_dict=settings, config_class=CompareConfig)
    sys.stdout.write(report(args.name, args.sampler, result) + "\n")
    return result


if __name__ == "__main__":
    main()
