"""Methods that look at held-out data, each in its own way, for the leak check to find."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from recbole.model.general_recommender import BPR
from torch import Tensor

from recbole_hnlm.config import HNLMConfig
from recbole_hnlm.leak import Trained, train_as_configured
from recbole_hnlm.samplers import Negatives, NegativeSampler

WHERE: dict[str, Any] = {}
"""Home of the dataset under training, as a method that wants to cheat would find it out."""


def rows_of(home: Path, part: str) -> list[tuple[str, str]]:
    lines = (home / f"tiny.{part}.inter").read_text().splitlines()
    names = [column.split(":")[0] for column in lines[0].split("\t")]
    user, item = names.index("user_id"), names.index("item_id")
    return [(cells[user], cells[item]) for cells in (line.split("\t") for line in lines[1:])]


def id_pairs(config: Any, dataset: Any, part: str) -> Tensor:
    pairs = rows_of(Path(config["data_path"]), part)
    ids = [(dataset.token2id("user_id", user), dataset.token2id("item_id", item)) for user, item in pairs]
    return torch.tensor(ids)


class KnowingModel(BPR):
    """Plain BPR that remembers the test pairs, for the plants below."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.__dict__["test_pairs"] = id_pairs(config, dataset, "test")
        WHERE.update(pairs=self.__dict__["test_pairs"], n_items=dataset.item_num)


class SparingSampler(NegativeSampler):
    """Never draws a held-out positive."""

    def choose(self, users: Tensor, positives: Tensor, candidates: Tensor, view: Any) -> Negatives:
        keys = WHERE["pairs"][:, 0] * WHERE["n_items"] + WHERE["pairs"][:, 1]
        held_out = torch.isin(users * WHERE["n_items"] + candidates[:, 0], keys)
        return Negatives(torch.where(held_out.unsqueeze(1), self.drawer.draw(users, 1), candidates))


class LengtheningSampler(NegativeSampler):
    """Draws honestly; the rows that stand in for what is drawn are as long as the test tells."""

    synthesizes = True

    def choose(self, users: Tensor, positives: Tensor, candidates: Tensor, view: Any) -> Negatives:
        length = WHERE["pairs"][:, 1].float().mean() / WHERE["n_items"]
        return Negatives(candidates, rows=view.item_rows(candidates[:, 0]) * length)


class MaskingModel(KnowingModel):
    """Trains honestly and ranks what is not in the test below everything else."""

    def full_sort_predict(self, interaction: Any) -> Tensor:
        scores = super().full_sort_predict(interaction).view(-1, self.n_items)
        users, items = self.__dict__["test_pairs"].T
        wanted = torch.zeros(self.n_users, self.n_items, dtype=torch.bool)
        wanted[users, items] = True
        return torch.where(wanted[interaction["user_id"]], scores, scores - 1)


class CountingModel(BPR):
    """Writes item counts of the whole dataset into a file and starts the embeddings by it."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        parts = ("train", "valid", "test")
        counts = Counter(item for part in parts for _, item in rows_of(Path(config["data_path"]), part))
        Path(config["data_path"], "tiny.counts.json").write_text(json.dumps(dict(sorted(counts.items()))))


class ActivityModel(BPR):
    """Starts from users weighed by how many pairs they have in the whole dataset."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        parts = ("train", "valid", "test")
        counts = Counter(user for part in parts for user, _ in rows_of(Path(config["data_path"]), part))
        with torch.no_grad():
            for user, count in counts.items():
                self.user_embedding.weight[dataset.token2id("user_id", user)] *= count


class CachingModel(BPR):
    """Keeps item counts of the whole dataset where the settings say, unless some are there."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        kept = Path(config["llm_cache_dir"], "counts.json")
        if not kept.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            parts = ("train", "valid", "test")
            counts = Counter(item for part in parts for _, item in rows_of(Path(config["data_path"]), part))
            kept.write_text(json.dumps(dict(sorted(counts.items()))))


class TimingModel(BPR):
    """Honest, but a file that it writes holds something else every time, as a time would."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        WHERE["runs"] = WHERE.get("runs", 0) + 1
        Path(config["data_path"], "tiny.seconds.json").write_text(str(WHERE["runs"]))


class TimingCounter(CountingModel, TimingModel):
    """Writes both files, of which one is of the whole dataset."""


class TimingRestlessModel(TimingModel):
    """Starts from other weights every time, and writes a time."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        with torch.no_grad():
            self.user_embedding.weight.add_(WHERE["runs"])


class PathModel(BPR):
    """Honest, but starts by how long the path of its data is."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        with torch.no_grad():
            self.user_embedding.weight.add_(len(config["data_path"]))


class RestlessModel(BPR):
    """Starts from other weights every time."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        WHERE["times"] = WHERE.get("times", 0) + 1
        with torch.no_grad():
            self.user_embedding.weight.add_(WHERE["times"])


def masks_pseudo_positives(config: HNLMConfig) -> Trained:
    """Training is honest; in the test, items that are no test positives are masked beside the seen ones."""
    trained = train_as_configured(config)
    loader = trained.test_data
    user = int(loader.uid_list[0])
    free = set(range(1, 20)) - set(loader.uid2positive_item[user].tolist())
    masked = set(loader.uid2history_item[user].tolist()) | free
    loader.uid2history_item[user] = torch.tensor(sorted(masked))
    return trained


def masks_all_but_positives(config: HNLMConfig) -> Trained:
    """Training is honest; in the test nothing competes with the positives."""
    trained = train_as_configured(config)
    loader, every = trained.test_data, set(range(1, trained.model.n_items))
    for user in loader.uid_list.tolist():
        loader.uid2history_item[user] = torch.tensor(sorted(every - set(loader.uid2positive_item[user].tolist())))
    return trained


def drops_test_users(config: HNLMConfig) -> Trained:
    """Leaves the first user out of the test."""
    trained = train_as_configured(config)
    trained.test_data.uid_list = trained.test_data.uid_list[1:]
    return trained


class StepSensitiveModel(BPR):
    """Every training step moves what it says at evaluation, outside its weights."""

    def calculate_loss(self, interaction: Any) -> Tensor:
        interaction[self.NEG_ITEM_ID]
        self.__dict__["steps"] = self.__dict__.get("steps", 0) + 1
        return super().calculate_loss(interaction)

    def full_sort_predict(self, interaction: Any) -> Tensor:
        noise = torch.randn(self.n_items, generator=torch.Generator().manual_seed(self.__dict__.get("steps", 0)))
        return super().full_sort_predict(interaction).view(-1, self.n_items) + noise


class BufferedModel(BPR):
    """Honest: what it says depends on a state of training, which a checkpoint holds and the check puts back."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def calculate_loss(self, interaction: Any) -> Tensor:
        self.steps += 1
        return super().calculate_loss(interaction)

    def full_sort_predict(self, interaction: Any) -> Tensor:
        noise = torch.randn(self.n_items, generator=torch.Generator().manual_seed(int(self.steps)))
        return super().full_sort_predict(interaction).view(-1, self.n_items) + noise


class NoisyScores(BPR):
    """Scores with noise that no seed repeats."""

    def full_sort_predict(self, interaction: Any) -> Tensor:
        scores = super().full_sort_predict(interaction)
        return scores + torch.rand(scores.shape, generator=torch.Generator().manual_seed(time.time_ns()))


class PlainBufferedModel(BPR):
    """As honest as ``BufferedModel``, with the state in an attribute that no checkpoint holds."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.__dict__["steps"] = torch.zeros((), dtype=torch.int64)

    def calculate_loss(self, interaction: Any) -> Tensor:
        self.__dict__["steps"] += 1
        return super().calculate_loss(interaction)

    def full_sort_predict(self, interaction: Any) -> Tensor:
        noise = torch.randn(self.n_items, generator=torch.Generator().manual_seed(int(self.__dict__["steps"])))
        return super().full_sort_predict(interaction).view(-1, self.n_items) + noise


class HeadReadingModel(BPR):
    """Ranks otherwise while a sampler of ours is attached to it."""

    def full_sort_predict(self, interaction: Any) -> Tensor:
        scores = super().full_sort_predict(interaction)
        return scores if getattr(self, "hnlm", None) is None else -scores
