"""Tokens and pairs a second of fine-tuning and generation by hybrid prompts, and their share of a chip's peak.

python benchmarks/hybrid_throughput.py --device cuda:0 --shape 8b --quantization none nf4 --peak 989 [--folder DISK]

A Llama of random weights in the shape of an 8B model (16 GB in bfloat16, written to ``--folder`` once), or a tiny one
that shows that the script works. Operations are counted as 2 a weight and token for a pass forwards, twice that for
tuning (LoRA needs no gradients of the frozen weights) and three times that with checkpointed gradients; embeddings do
not count. A warm-up comes first. Figures are absolute: nothing takes turns here.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from hybrid import SIZES, make_pairs, save_llama

from recbole_hnlm.llm.hybrid import BaseSettings, FineTuneSettings, read_template
from recbole_hnlm.llm.hybrid.contrast import ContrastiveBatch, contrastive_loss, length_batches
from recbole_hnlm.llm.hybrid.encoder import encode
from recbole_hnlm.llm.hybrid.loading import Base, load_base, prepare_training
from recbole_hnlm.llm.hybrid.pairs import PairTexts
from recbole_hnlm.llm.hybrid.prompts import PromptBuilder, TokenBatch
from recbole_hnlm.llm.hybrid.run import split_sources
from recbole_hnlm.llm.hybrid.trainer import Plan
from recbole_hnlm.llm.hybrid.tuning import equip

SHAPES = {
    "tiny": SIZES,
    "8b": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128_256,
    },
}  # fmt: skip
FORWARD, TUNING, TUNING_CHECKPOINTED = 2, 4, 6
"""Operations a weight and token."""


@dataclass(frozen=True)
class Throughput:
    """What was done in so many seconds."""

    work: str
    pairs: int
    tokens: int
    padded: int
    seconds: float
    operations: float

    def line(self, peak: float) -> str:
        """A row of the table; ``peak`` in TFLOPS, 0 where it is unknown."""
        reached = self.operations / self.seconds / 1e12
        share = f"{reached / peak:.1%}" if peak else "?"
        rates = [f"{count / self.seconds:,.1f}" for count in (self.pairs, self.tokens, self.padded)]
        return f"| {self.work} | {' | '.join(rates)} | {reached:.3f} | {share} |"


def weights_of(sizes: dict[str, int]) -> int:
    """Weights of the layers, which every token goes through."""
    width, inner, layers = sizes["hidden_size"], sizes["intermediate_size"], sizes["num_hidden_layers"]
    shared = sizes.get("num_key_value_heads", sizes["num_attention_heads"]) / sizes["num_attention_heads"]
    return int(layers * (width * width * (2 + 2 * shared) + 3 * width * inner))


def _settle(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _tokens(*batches: TokenBatch) -> tuple[int, int]:
    """Tokens of batches, without and with padding."""
    return sum(int(batch.lengths.sum()) for batch in batches), sum(batch.ids.numel() for batch in batches)


def tuning(loaded: Base, pairs: PairTexts, settings: FineTuneSettings, weights: int, steps: int) -> Throughput:
    """Steps of contrastive tuning of an equipped model, as Trainer would make them."""
    model = loaded.model
    builder = PromptBuilder(pairs, read_template(), loaded.tokens, loaded.lengths)
    plan = Plan([builder], split_sources([pairs], settings)[0], settings)
    batches: list[ContrastiveBatch] = [plan[step] for step in range(min(steps + 2, len(plan)))]
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    model.train()
    started = 0.0
    for number, batch in enumerate(batches):
        if number == 2:  # two steps warm up
            started = _settle(model.device)
        contrastive_loss(model, batch.to(model.device), settings.temperature).backward()
        optimizer.step()
        optimizer.zero_grad()
    seconds = _settle(model.device) - started
    counted = [_tokens(batch.prompts, batch.items) for batch in batches[2:]]
    tokens, padded = (sum(column) for column in zip(*counted, strict=True))
    each = TUNING_CHECKPOINTED if settings.gradient_checkpointing else TUNING
    done = settings.batch_size * len(counted)
    return Throughput("fine-tuning", done, tokens, padded, seconds, float(each * weights * tokens))


def generation(loaded: Base, pairs: PairTexts, weights: int, batch_tokens: int) -> Throughput:
    """Vectors of all pairs, batches made on the way as :func:`~recbole_hnlm.llm.hybrid.generate` makes them."""
    model = loaded.model.eval()
    builder = PromptBuilder(pairs, read_template(), loaded.tokens, loaded.lengths)
    groups = list(length_batches(builder.lengths(np.arange(len(pairs))).tolist(), batch_tokens))
    encode(model, builder.prompts(np.array(groups[0])))
    started = _settle(model.device)
    tokens = padded = 0
    for group in groups:
        batch = builder.prompts(np.array(group))
        more, wide = _tokens(batch)
        tokens, padded = tokens + more, padded + wide
        encode(model, batch)
    seconds = _settle(model.device) - started
    return Throughput("generation", len(pairs), tokens, padded, seconds, float(FORWARD * weights * tokens))


def measure(args: argparse.Namespace, folder: Path) -> list[str]:
    """The table, a line each for tuning and generation by every quantisation asked for."""
    where = folder / f"llama-{args.shape}"
    if not (where / "config.json").is_file():
        save_llama(where, SHAPES[args.shape], args.device, args.precision)
    lines = [
        f"Llama {args.shape} of random weights, {args.precision} on {args.device}, at most {args.prompt_tokens} tokens",
        "",
        "| work | pairs/s | tokens/s | with padding | TFLOPS | of the peak |",
        "|---|---|---|---|---|---|",
    ]
    settings = FineTuneSettings(
        batch_size=args.batch_size, extra_negatives=args.batch_size, gradient_checkpointing=args.checkpointing,
        pairs=args.batch_size * (args.steps + 4),
    )  # fmt: skip
    for quantization in args.quantization:
        lengths = args.prompt_tokens, args.prompt_tokens // 2
        base = BaseSettings(str(where), args.device, args.precision, quantization, *lengths)
        loaded = load_base(base)
        weights = weights_of(SHAPES[args.shape])
        source = make_pairs(2 * settings.pairs)
        prepare_training(loaded.model, args.precision)
        equip(loaded.model, [source], settings)
        found = [tuning(loaded, source, settings, weights, args.steps)]
        if quantization == "none":  # as the package does before it generates
            loaded.model.base = loaded.model.base.merge_and_unload()
        found.append(generation(loaded, make_pairs(args.pairs), weights, args.batch_tokens))
        name = "" if quantization == "none" else f", {quantization}"
        lines += [result.line(args.peak).replace(result.work, result.work + name, 1) for result in found]
        del loaded
    return lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="where it runs")
    parser.add_argument("--precision", default="bfloat16", help="type of weights and products")
    parser.add_argument("--shape", choices=list(SHAPES), default="tiny", help="of the model")
    parser.add_argument("--quantization", nargs="+", choices=["none", "nf4"], default=["none"], help="of its weights")
    parser.add_argument("--peak", type=float, default=0.0, help="TFLOPS of the chip at that precision")
    parser.add_argument("--steps", type=int, default=20, help="steps of tuning that are measured")
    parser.add_argument("--batch-size", type=int, default=16, help="pairs of a step")
    parser.add_argument("--checkpointing", action="store_true", help="checkpoint gradients")
    parser.add_argument("--pairs", type=int, default=2000, help="pairs whose vectors are made")
    parser.add_argument("--batch-tokens", type=int, default=16384, help="tokens of a batch of generation")
    parser.add_argument("--prompt-tokens", type=int, default=256, help="most tokens of a prompt")
    parser.add_argument("--folder", help="where the model is written and found again; a temporary folder by default")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        sys.stdout.write("\n".join(measure(args, Path(args.folder or temporary))) + "\n")


if __name__ == "__main__":
    main()
