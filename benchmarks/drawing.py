"""Draws per second of uniform negatives: ours against RecBole's own sampler, on the pairs of yelp2018.

python benchmarks/drawing.py [--data-path ../shared/data] [--repeats 7]

Both draw for the same batches of 2048 users, those of the shuffled training pairs, in one process on one thread, each
as its own training loader does: RecBole batch by batch, ours for as many batches at once as give 65,536 candidates.
They take turns, round by round, so that what else the machine does meets both alike; the table shows medians over
rounds. The last column is ours called batch by batch, where at one candidate the fixed cost of the calls is most.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from recbole.sampler import Sampler  # noqa: E402
from result import Result, compared  # noqa: E402

from recbole_hnlm.samplers import TrainingInteractions  # noqa: E402
from recbole_hnlm.samplers.candidates import UniformCandidates  # noqa: E402
from recbole_hnlm.training.loader import BLOCK_CANDIDATES  # noqa: E402

logger = logging.getLogger("drawing")

SPLIT = Path("yelp2018", "yelp2018.train.inter")
SIZES = (31_668, 38_048, 1_128_375)
"""Users, items and training pairs of yelp2018, for the synthetic stand-in."""
BATCH = 2048


Draw = Callable[[torch.Tensor, int], torch.Tensor]
"""Users ``(B,)`` and a count per user in, item ids out."""


@dataclass(frozen=True)
class Pairs:
    """Training pairs as RecBole numbers them: ids from 1, 0 is padding.

    Attributes:
        users: User ids, shape ``(E,)``, int64.
        items: Item ids, likewise.
        origin: Where they come from, for the table.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    origin: str

    uid_field = "user_id"
    iid_field = "item_id"

    @property
    def user_num(self) -> int:
        """Users with padding, as RecBole's sampler asks for them."""
        return int(self.users.max()) + 1

    @property
    def item_num(self) -> int:
        """Items with padding."""
        return int(self.items.max()) + 1

    @property
    def inter_feat(self) -> dict[str, torch.Tensor]:
        """Columns of the interactions, as RecBole's sampler asks for them."""
        return {self.uid_field: torch.from_numpy(self.users), self.iid_field: torch.from_numpy(self.items)}


def read_pairs(data_path: Path) -> Pairs:
    """The training split of yelp2018, or a power-law stand-in of its size where the file is absent."""
    file = data_path / SPLIT
    if not file.is_file():
        logger.warning("%s is absent; drawing from synthetic pairs of the same size", file)
        return synthetic_pairs(*SIZES)
    columns = np.loadtxt(file, dtype=np.int64, delimiter="\t", skiprows=1)
    users, items = (1 + np.unique(column, return_inverse=True)[1].astype(np.int64) for column in columns.T)
    return Pairs(users, items, "yelp2018, training split")


def synthetic_pairs(n_users: int, n_items: int, n_pairs: int) -> Pairs:
    """Distinct pairs with power-law activity and popularity; every user and item occurs."""
    rng = np.random.default_rng(2020)
    columns = []
    for count in (n_users, n_items):
        chance = 1.0 / (np.arange(count) + 30.0) ** 0.75
        columns.append(rng.choice(count, int(n_pairs * 1.1), p=chance / chance.sum()))
    keys = np.unique(columns[0] * n_items + columns[1])
    keys = rng.choice(keys, min(n_pairs, len(keys)), replace=False)
    users, items = (1 + np.unique(ids, return_inverse=True)[1].astype(np.int64) for ids in divmod(keys, n_items))
    return Pairs(users, items, "synthetic power law of yelp2018's size")


def batches(pairs: Pairs, count: int, seed: int) -> list[torch.Tensor]:
    """Users of ``count`` batches of shuffled training pairs, each ``(BATCH,)``."""
    shuffled = np.random.default_rng(seed).permutation(pairs.users)
    return [torch.from_numpy(shuffled[at * BATCH : (at + 1) * BATCH]) for at in range(count)]


def recbole_draw(pairs: Pairs) -> Draw:
    """RecBole's uniform sampler as its training loader calls it."""
    sampler = Sampler(["train"], [pairs]).set_phase("train")

    def draw(users: torch.Tensor, count: int) -> torch.Tensor:
        return sampler.sample_by_user_ids(users.numpy(), None, count)  # the items are not looked at

    return draw


def our_draw(pairs: Pairs) -> Draw:
    """Our uniform candidates."""
    users, items = torch.from_numpy(pairs.users), torch.from_numpy(pairs.items)
    interactions = TrainingInteractions(users, items, n_users=pairs.user_num, n_items=pairs.item_num)
    return UniformCandidates(interactions, torch.Generator().manual_seed(2020)).draw


def seconds(draw: Draw, users: list[torch.Tensor], count: int) -> float:
    """Wall time of drawing ``count`` negatives for every batch."""
    started = time.perf_counter()
    for batch in users:
        draw(batch, count)
    return time.perf_counter() - started


def in_blocks(users: list[torch.Tensor], count: int) -> list[torch.Tensor]:
    """The same users in the blocks for which our training loader draws at once."""
    size = max(1, BLOCK_CANDIDATES // (BATCH * count))
    return [torch.cat(users[at : at + size]) for at in range(0, len(users), size)]


def rounds(pairs: Pairs, repeats: int) -> Iterator[tuple[int, dict[str, list[float]]]]:
    """Candidates, and draws per second of each contestant round by round."""
    contestants = {"RecBole": recbole_draw(pairs), "ours": our_draw(pairs), "ours by batch": our_draw(pairs)}
    for count, n_batches in ((1, 512), (32, 32)):
        speeds: dict[str, list[float]] = {name: [] for name in contestants}
        for repeat in range(-1, repeats):  # the first round warms up
            users = batches(pairs, n_batches, seed=repeat + 1)
            for name, draw in contestants.items():
                taken = seconds(draw, in_blocks(users, count) if name == "ours" else users, count)
                if repeat >= 0:
                    speeds[name].append(n_batches * BATCH * count / taken)
        yield count, speeds


def measure(repeats: int, data_path: Path = Path("../shared/data")) -> list[Result]:
    """A row for one candidate and one for 32."""
    np.random.seed(2020)  # RecBole's sampler draws from numpy's global state
    results = []
    for (count, speeds), wanted in zip(rounds(read_pairs(data_path), repeats), (10, 5), strict=True):
        theirs, ours = ([1 / speed for speed in speeds[name]] for name in ("RecBole", "ours"))
        note = (
            " and ".join(f"{statistics.median(speeds[name]) / 1e6:.1f} M" for name in ("RecBole", "ours")) + " a second"
        )
        results.append(compared(f"negatives, {count} candidate(s)", "RecBole's Sampler", theirs, ours, wanted, note))
    return results


def compare(pairs: Pairs, repeats: int) -> Iterator[str]:
    """Lines of the Markdown table."""
    yield "| candidates | RecBole 1.2.1, draws/s | ours, draws/s | ratio (its range over rounds) | batch by batch |"
    yield "|---:|---:|---:|---:|---:|"
    for count, speeds in rounds(pairs, repeats):
        ratios = [ours / theirs for theirs, ours in zip(speeds["RecBole"], speeds["ours"], strict=True)]
        theirs, ours = (statistics.median(speeds[name]) for name in ("RecBole", "ours"))
        spread = f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
        by_batch = statistics.median(speeds["ours by batch"])
        yield f"| {count} | {theirs:,.0f} | {ours:,.0f} | {spread} | {by_batch / theirs:.1f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-path", type=Path, default=Path("../shared/data"), help="folder that holds yelp2018/")
    parser.add_argument("--repeats", type=int, default=7, help="rounds that are measured")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    np.random.seed(2020)  # RecBole's sampler draws from numpy's global state
    pairs = read_pairs(args.data_path)
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
    lines = [
        f"{pairs.origin}: {pairs.user_num - 1:,} users, {pairs.item_num - 1:,} items, {len(pairs.users):,} pairs; "
        f"batches of {BATCH}, 1 thread, median of {args.repeats} interleaved rounds; {versions}",
        "",
        *compare(pairs, args.repeats),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
