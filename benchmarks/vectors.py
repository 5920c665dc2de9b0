"""Vectors of pairs: reading, building and exchanging them against plain numpy and pandas, and the memory that it takes.

python benchmarks/vectors.py [--pairs 1240000 --width 384] [--repeats 7] [--folder FOLDER] [--parts read,ahead,...]

Contestants take turns in one process on one thread, round by round; ratios are medians over rounds. Files lie in the
page cache as far as it holds them. Memory is the peak (``VmHWM``, Linux) of a process of its own for each work; mapped
pages of files count.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from result import Result, compared, table  # noqa: E402
from vector_data import ITEMS, batches, contents, internal_tokens, write_matrix  # noqa: E402

from recbole_hnlm.artefacts import (  # noqa: E402
    ArtefactContents,
    ArtefactReader,
    BoundArtefact,
    Provenance,
    export_text,
    import_text,
    write_artefact,
)
from recbole_hnlm.artefacts.vector_file import RESIDENT_BYTES  # noqa: E402
from recbole_hnlm.models.ahead import look_ahead  # noqa: E402
from recbole_hnlm.models.text import TextVectors  # noqa: E402
from recbole_hnlm.samplers import TrainingInteractions  # noqa: E402

BATCH = 2048
BATCHES = 100
TEXT_ROWS = 20_000
MEMORY_PAIRS = 200_000
PARTS = ("read", "ahead", "open", "build", "text", "memory")
Turn = Callable[[], object]


def each(work: Callable[..., object], batches_of_ids: Iterable[tuple]) -> Turn:
    """A turn that does ``work`` for one batch after the other and keeps nothing of it, as training does."""

    def turn() -> None:
        for batch in batches_of_ids:
            work(*batch)

    return turn


def rows_of(asked: Sequence[tuple]) -> list[torch.Tensor]:
    """Rows of batches, as the training loader hands them over: it has looked all pairs up before the first epoch."""
    return [torch.from_numpy(rows.astype(np.int64)).unsqueeze(1) for _, _, rows in asked]


def rounds(turns: Sequence[Callable[[int], Turn]], repeats: int) -> list[list[float]]:
    """Seconds of each contestant in each round; a contestant is made ready for the round's number outside the clock."""
    taken: list[list[float]] = [[] for _ in turns]
    for number in range(-1, repeats):  # the first round warms up
        for times, prepare in zip(taken, turns, strict=True):
            turn = prepare(number)
            started = time.perf_counter()
            turn()
            if number >= 0:
                times.append(time.perf_counter() - started)
    return taken


class Built:
    """An artefact on disk and the matrix that it was made from."""

    def __init__(self, folder: Path, name: str, pairs: int, rows: int, width: int) -> None:
        self.folder, self.name, self.width = folder, name, width
        self.raw = folder / f"{name}.raw"
        write_matrix(self.raw, rows, width)
        self.handle = self.raw.open("rb")
        self.contents: ArtefactContents = contents(self.handle, pairs, rows, width)

    def write(self) -> float:
        """Build it; returns megabytes written."""
        manifest = write_artefact(self.folder, self.name, self.contents, Provenance("benchmark"), text_rows_limit=0)
        return sum(entry.bytes for entry in manifest.files.values()) / 1e6

    def bind(self, resident_bytes: int = RESIDENT_BYTES) -> BoundArtefact:
        """Open it as training does."""
        reader = ArtefactReader.open(self.folder, self.name)
        return reader.bind(*internal_tokens(self.contents), resident_bytes=resident_bytes)

    def memmap(self) -> np.memmap:
        """The vectors as numpy maps them."""
        return np.load(self.folder / f"{self.name}.hnlm_emb.npy", mmap_mode="r")

    def asked(self, number: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Users, items and rows of the batches of a round."""
        of = self.contents
        return [
            (of.pair_users[b] + 1, of.pair_items[b] + 1, of.neg_rows[b, 0])
            for b in batches(of, BATCH, BATCHES, number + 1)
        ]


def text_vectors(built: Built, resident_bytes: int = RESIDENT_BYTES) -> TextVectors:
    """The consumer of the vectors, over interactions that play no part here."""
    one = TrainingInteractions(torch.tensor([1]), torch.tensor([1]), n_users=2, n_items=3)
    items = torch.ones(3, built.width)
    return TextVectors(items, torch.ones(3, dtype=torch.bool), one, built.bind(resident_bytes), torch.device("cpu"))


def measure_read(built: Built, kind: str, repeats: int) -> list[Result]:
    """Reading against a map whose rows are known: looked up before, as the step gets them, and by batch."""
    bound, mapped, text = built.bind(), built.memmap(), text_vectors(built)

    def peer(number: int) -> Turn:
        return each(lambda users, items, rows: mapped[rows], built.asked(number))

    def ours(number: int) -> Turn:
        return each(lambda users, items, rows: bound.read(bound.pair_rows(users, items)[:, 0]), built.asked(number))

    def known(number: int) -> Turn:
        return each(lambda users, items, rows: bound.read(rows), built.asked(number))

    def peer_step(number: int) -> Turn:
        return each(lambda users, items, rows: torch.from_numpy(mapped[rows].astype(np.float32)), built.asked(number))

    def our_step(number: int) -> Turn:
        return each(text.pair_vectors, [(rows,) for rows in rows_of(built.asked(number))])

    users, items, rows = built.asked(0)[0]
    assert np.array_equal(bound.read(bound.pair_rows(users, items)[:, 0]), mapped[rows])
    half = rounds((peer, ours, known), repeats)
    step = rounds((peer_step, our_step), repeats)
    way = "map" if bound.mapped else "pread"
    results = []
    for work, wanted, theirs, our_times in (
        ("read, looked up before", 1.0, half[0], half[2]),
        ("read as float32, looked up before, as training does", 1.0, *step),
        ("read, looked up by batch", None, half[0], half[1]),
    ):
        millis = [1e3 * np.median(times) / len(built.asked(0)) for times in (theirs, our_times)]
        note = f"by {way}; {millis[0]:.2f} and {millis[1]:.2f} ms a batch"
        results.append(compared(f"{work}; {kind}", "memmap[rows]", theirs, our_times, wanted, note))
    return results


def measure_ahead(built: Built, repeats: int) -> list[Result]:
    """A step of a projector with its vectors read before it, against the same read while the step before runs."""
    results = []
    for way, resident in (("map", 1 << 62), ("pread", 0)):
        text = text_vectors(built, resident)
        layers = [torch.nn.Linear(built.width, built.width), torch.nn.ReLU(), torch.nn.Linear(built.width, 64)]

        def step(asked: torch.Tensor, text: TextVectors = text, layers: list = layers) -> None:
            pairs = text.pair_vectors(asked)
            rows = torch.nn.Sequential(*layers)(pairs.vectors)[pairs.index]
            rows.square().mean().backward()

        def at_once(number: int, step: Callable = step) -> Turn:
            return each(step, [(rows,) for rows in rows_of(built.asked(number))])

        def ahead(number: int, step: Callable = step, text: TextVectors = text) -> Turn:
            asked = rows_of(built.asked(number))
            return lambda: each(step, ((rows,) for rows in look_ahead(asked, text.tell)))()

        taken = rounds((at_once, ahead), repeats)
        note = f"{1e3 * np.median(taken[0]) / len(built.asked(0)):.1f} ms a step"
        results.append(compared(f"steps that read ahead, by {way}", "reading at once", *taken, note=note))
    return results


def measure_open(built: Built, repeats: int) -> list[Result]:
    """Checking and binding, against reading the matrix once from end to end."""
    path = built.folder / f"{built.name}.hnlm_emb.npy"

    def peer() -> None:
        buffer = bytearray(1 << 19)
        with path.open("rb", buffering=0) as handle:
            while handle.readinto(buffer):
                pass

    taken = rounds((lambda _: peer, lambda _: built.bind), repeats)
    note = f"{np.median(taken[1]):.2f} s for {path.stat().st_size / 1e9:.2f} GB"
    return [compared("open, check and bind", "reading the matrix once", *taken, note=note)]


def measure_build(built: Built, repeats: int) -> list[Result]:
    """All files of the artefact, against saving and syncing as many bytes."""
    size = built.write()
    path = built.folder / "plain.npy"
    raw = np.memmap(built.raw, dtype=np.uint8, mode="r")
    pieces = np.array_split(raw, max(len(raw) >> 25, 1))

    def peer() -> None:
        written = 0
        with path.open("wb") as handle:
            for piece in pieces:
                written += handle.write(piece.data)
            handle.write(bytes(max(int(size * 1e6) - written, 0)))
            handle.flush()
            os.fsync(handle.fileno())
        path.unlink()

    taken = rounds((lambda _: peer, lambda _: built.write), repeats)
    speeds = [size / np.median(times) for times in taken]
    note = f"{size:,.0f} MB at {speeds[0]:,.0f} and {speeds[1]:,.0f} MB/s"
    return [compared("build: all files", "write and fsync", *taken, note=note)]


def measure_text(folder: Path, width: int, repeats: int) -> list[Result]:
    """The text form of some rows, out and in."""
    built = Built(folder, "text", TEXT_ROWS, TEXT_ROWS, width)
    built.write()
    vectors, plain = np.array(built.memmap()), folder / "plain.txt"
    ids = pd.Index(built.contents.neg_ids)
    export_text(folder, "text")
    emb = folder / "text.hnlm_emb"

    def pandas_out() -> None:
        pd.DataFrame(vectors, index=ids).to_csv(plain, sep=" ", header=False)

    def numpy_in() -> None:
        with emb.open() as handle:
            handle.readline()
            np.loadtxt((line.split("\t")[1] for line in handle), dtype=np.float64).astype(np.float16)

    out = rounds((lambda _: pandas_out, lambda _: lambda: export_text(folder, "text")), repeats)
    into = rounds((lambda _: numpy_in, lambda _: lambda: import_text(folder, "text")), repeats)
    rows = TEXT_ROWS + min(TEXT_ROWS, ITEMS)  # of pairs and of items; the others do the former alone
    speeds = [(TEXT_ROWS / np.median(theirs), rows / np.median(ours)) for theirs, ours in (out, into)]
    notes = [f"{theirs:,.0f} and {ours:,.0f} rows/s" for theirs, ours in speeds]
    fair = [([second * rows / TEXT_ROWS for second in theirs], ours) for theirs, ours in (out, into)]
    return [
        compared("export, all files", "DataFrame.to_csv", *fair[0], wanted=1.0, note=notes[0]),
        compared("import, all files", "np.loadtxt", *fair[1], wanted=1.0, note=notes[1]),
    ]


def child(folder: Path, work: str, name: str) -> None:
    """One work in a process of its own; writes its peak memory in megabytes."""
    if work == "read":
        saved = np.load(folder / "asked.npz")
        users, items = int(saved["users"]), int(saved["items"])
        tokens = (
            ["[PAD]", *(f"{letter}{place:08d}" for place in range(count))]
            for letter, count in (("u", users), ("i", items))
        )
        bound = ArtefactReader.open(folder, name).bind(*tokens)
        for user_ids, item_ids in saved["pairs"]:
            bound.read(bound.pair_rows(user_ids, item_ids)[:, 0])
    elif work == "build":
        pairs, width = (int(part) for part in name.split("x")[1:])
        with (folder / f"{name}.raw").open("rb") as handle:
            of = contents(handle, pairs, pairs, width)
            write_artefact(folder, name, of, Provenance("benchmark"), text_rows_limit=0)
    elif work in ("export", "import"):
        (export_text if work == "export" else import_text)(folder, name)
    status = Path(
        "/proc/self/status"
    ).read_text()  # ru_maxrss would begin with that of the process that started this one
    sys.stdout.write(status.partition("VmHWM:")[2].split()[0])


def peak(folder: Path, work: str, name: str) -> float:
    """Peak memory of a work in megabytes."""
    command = [sys.executable, __file__, "--child", work, name, "--folder", str(folder)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1024


def measure_memory(built: Built, folder: Path, width: int) -> list[Result]:
    """What reading an epoch's part takes, and what the other works take at a width and at an eighth of it."""
    asked = np.array([[users, items] for number in range(4) for users, items, _ in built.asked(number)])
    np.savez(folder / "asked.npz", pairs=asked, users=len(built.contents.user_tokens), items=ITEMS)
    bare, read = peak(folder, "nothing", "-"), peak(folder, "read", built.name)
    size = len(built.memmap()) * built.width * 2 / 1e6
    note = f"{read:,.0f} MB; importing alone {bare:,.0f} MB; the matrix {size:,.0f} MB"
    results = [
        Result(
            "peak memory of opening and reading", "importing alone", read / bare, read / bare, read / bare, note=note
        )
    ]
    for work in ("build", "export", "import"):
        peaks = []
        for of_width in (max(width // 8, 1), width):
            name = f"memx{MEMORY_PAIRS}x{of_width}"
            if work == "build":
                write_matrix(folder / f"{name}.raw", MEMORY_PAIRS, of_width)
            peaks.append(peak(folder, work, name))
        ratio = peaks[0] / peaks[1]
        note = f"{peaks[0]:,.0f} and {peaks[1]:,.0f} MB; the matrix {MEMORY_PAIRS * width * 2 / 1e6:,.0f} MB"
        results.append(
            Result(
                f"peak memory of {work}, {MEMORY_PAIRS:,} x {width}",
                f"width {width // 8}",
                ratio,
                ratio,
                ratio,
                note=note,
            )
        )
    return results


def measure(
    repeats: int = 7,
    pairs: int = 1_240_000,
    width: int = 384,
    folder: Path | None = None,
    parts: Sequence[str] = PARTS,
) -> list[Result]:
    """All comparisons.

    Args:
        repeats: Rounds that are measured.
        pairs: Pairs, each with a vector of its own.
        width: Width of the vectors.
        folder: Where a temporary folder is made for the files, some three times the size of the vectors.
        parts: Which of :data:`PARTS` to measure.
    """
    torch.set_num_threads(1)
    results: list[Result] = []
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        place = Path(temporary)
        own = Built(place, "own", pairs, pairs, width)
        own.write()
        if "read" in parts:
            shared = Built(place, "shared", pairs, ITEMS, width)
            shared.write()
            results += measure_read(own, "each its vector", repeats)
            results += measure_read(shared, "items' vectors", repeats)
        if "ahead" in parts:
            results += measure_ahead(own, repeats)
        if "open" in parts:
            results += measure_open(own, min(repeats, 3))
        if "build" in parts:
            results += measure_build(own, min(repeats, 3))
        if "text" in parts:
            results += measure_text(place, width, min(repeats, 3))
        if "memory" in parts:
            results += measure_memory(own, place, width)
    return results


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1_240_000, help="pairs, each with a vector of its own")
    parser.add_argument("--width", type=int, default=384, help="width of the vectors")
    parser.add_argument("--repeats", type=int, default=7, help="rounds that are measured")
    parser.add_argument("--folder", type=Path, default=None, help="where the files go for the time")
    parser.add_argument("--parts", default=",".join(PARTS), help="what to measure")
    parser.add_argument("--child", nargs=2, metavar=("WORK", "NAME"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.folder, *args.child)
        return
    results = measure(args.repeats, args.pairs, args.width, args.folder, args.parts.split(","))
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
    lines = [
        f"{args.pairs:,} pairs x {args.width}; batches of {BATCH}, 1 thread, median of {args.repeats} rounds "
        f"(3 for files) by turns; {versions}",
        "",
        *table(results),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
