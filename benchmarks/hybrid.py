"""Fine-tuning and generation of hybrid prompts against the bare loop that one would write with transformers and peft.

python benchmarks/hybrid.py [--repeats 5] [--device cpu] [--precision float32] [--threads 1]

A Llama of random weights, small on a CPU, the same LoRA on both sides, the same texts in batches of the same shapes.
The bare loop gets its padded batches ready made, of token ids alone: embeddings, soft tokens, masks of negatives,
checkpoints and files are our overhead, and so is the making of prompts. The contestants take turns, round by round.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from result import Result, compared, table  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn import functional  # noqa: E402
from transformers import EarlyStoppingCallback  # noqa: E402

from recbole_hnlm.llm.hybrid import (  # noqa: E402
    BaseSettings,
    FineTuneSettings,
    GenerateSettings,
    PairTexts,
    fine_tune,
    generate,
    read_template,
)
from recbole_hnlm.llm.hybrid.adapter import load_adapter  # noqa: E402
from recbole_hnlm.llm.hybrid.contrast import length_batches  # noqa: E402
from recbole_hnlm.llm.hybrid.loading import load_base  # noqa: E402
from recbole_hnlm.llm.hybrid.prompts import PromptBuilder, TokenBatch  # noqa: E402
from recbole_hnlm.llm.hybrid.run import split_sources  # noqa: E402
from recbole_hnlm.llm.hybrid.trainer import ContrastiveTrainer, Plan, Validation  # noqa: E402
from recbole_hnlm.llm.hybrid.tuning import equip  # noqa: E402

WANTED = 0.9
WORDS = [f"word{number}" for number in range(500)]
SIZES = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 6}


def make_pairs(count: int, seed: int = 0) -> PairTexts:
    """Made-up pairs with profiles of 5 to 60 words and embeddings of width 64."""
    rng = np.random.default_rng(seed)
    users, items = count // 10, max(count // 20, 50)
    profiles, texts = ([" ".join(rng.choice(WORDS, rng.integers(5, 60))) for _ in range(n)] for n in (users, items))
    chosen, hard = rng.integers(items, size=count), rng.integers(items, size=count)
    hard = np.where(hard == chosen, (hard + 1) % items, hard)
    vectors = [rng.normal(size=(n, 64)).astype(np.float32) for n in (users, items)]
    return PairTexts("made-up", rng.integers(users, size=count), chosen, hard, profiles, texts, vectors[0], vectors[1])


def save_llama(folder: Path, sizes: Mapping[str, int] = SIZES, device: str = "cpu", precision: str = "float32") -> Path:
    """A Llama of random weights with one token a word; more words than occur where ``sizes`` has a ``vocab_size``."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

    fixed = " ".join(text for text, _ in read_template().parts()).replace(":", " : ").replace(",", " , ").split()
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(["[UNK]", "<s>", "</s>", *fixed, *WORDS]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"unk_token": "[UNK]", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    shape = {"vocab_size": len(vocabulary), "max_position_embeddings": 512, **sizes}
    usual = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, precision))
    try:
        with torch.device(device):
            LlamaModel(LlamaConfig(**shape)).save_pretrained(folder)
    finally:
        torch.set_default_dtype(usual)
    return folder


def bare_vectors(model: Any, batch: TokenBatch, dtype: torch.dtype) -> Tensor:
    """What the bare loop makes of a padded batch, shape ``(n, S)``."""
    mask = torch.arange(batch.ids.shape[1], device=batch.ids.device) < batch.lengths.unsqueeze(1)
    with torch.autocast(batch.ids.device.type, dtype, enabled=dtype != torch.float32):
        states = model(input_ids=batch.ids, attention_mask=mask.long()).last_hidden_state
    rows = torch.arange(len(batch.lengths), device=states.device)
    return functional.normalize(states[rows, batch.lengths - 1].float(), dim=1)


def bare_training(model: Any, batches: list[Any], dtype: torch.dtype, device: torch.device) -> float:
    """Seconds of a plain loop of contrastive steps over ready batches."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=2e-4)
    model.train()
    started = time.perf_counter()
    for batch in batches:
        queries, items = (bare_vectors(model, part.to(device), dtype) for part in (batch.prompts, batch.items))
        loss = functional.cross_entropy(queries @ items.T / 0.05, batch.targets.to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    float(loss.detach())
    return time.perf_counter() - started


def training_rounds(base: BaseSettings, repeats: int, steps: int, work: Path) -> tuple[list[float], list[float], str]:
    """Seconds of the bare loop and of ours, round by round, for the same steps."""
    settings = FineTuneSettings(batch_size=16, extra_negatives=16, pairs=16 * steps, evaluations=1, validation_pairs=4)
    pairs = make_pairs(24 * steps)
    loaded = load_base(base)
    equip(loaded.model, [pairs], settings)
    peer = load_base(base)
    equip(peer.model, [pairs], settings)
    builder = PromptBuilder(pairs, read_template(), loaded.tokens, loaded.lengths)
    tuned, _ = split_sources([pairs], settings)
    plan = Plan([builder], tuned, settings)
    batches = [plan[step] for step in range(len(plan))]
    dtype = getattr(torch, base.precision)
    theirs, ours = [], []
    for repeat in range(-1, repeats):  # the first round warms up
        theirs.append(bare_training(peer.model.base, batches, dtype, peer.model.device))
        trainer = ContrastiveTrainer(loaded.model, plan, Validation([], 0.05), settings, work / f"round{repeat}")
        trainer.remove_callback(EarlyStoppingCallback)
        trainer.args.eval_strategy = trainer.args.save_strategy = "no"  # type: ignore[assignment]
        trainer.args.load_best_model_at_end = False
        started = time.perf_counter()
        trainer.train()
        ours.append(time.perf_counter() - started)
    return theirs[1:], ours[1:], f"{len(plan)} steps of 16 pairs and {batches[0].items.ids.shape[0]} texts"


def generation_rounds(base: BaseSettings, repeats: int, count: int, work: Path) -> tuple[list[float], list[float], str]:
    """Seconds of a bare forward loop over ready batches and of :func:`generate`, loading and files included."""
    pairs, settings = make_pairs(count), GenerateSettings(batch_tokens=4096)
    fine_tune(make_pairs(200), base, FineTuneSettings(batch_size=16, validation_pairs=4, evaluations=1), work / "tuned")
    loaded, info = load_adapter(work / "tuned", base)
    builder = PromptBuilder(pairs, info.template, loaded.tokens, info.lengths)
    places = np.arange(len(pairs))
    groups = list(length_batches(builder.lengths(places).tolist(), settings.batch_tokens))
    batches = [builder.prompts(np.array(group)) for group in groups]
    dtype = getattr(torch, base.precision)
    theirs, ours = [], []
    for repeat in range(-1, repeats):
        started = time.perf_counter()
        with torch.inference_mode():
            rows = np.empty((len(pairs), loaded.model.width), dtype=np.float16)
            for group, batch in zip(groups, batches, strict=True):
                rows[group] = bare_vectors(loaded.model.base, batch.to(loaded.model.device), dtype).cpu().numpy()
        theirs.append(time.perf_counter() - started)
        started = time.perf_counter()
        generate(pairs, work / "tuned", base, settings, work / f"vectors{repeat}")
        ours.append(time.perf_counter() - started)
    return theirs[1:], ours[1:], f"{count} pairs, {int(builder.lengths(places).sum()):,} tokens"


def measure(repeats: int, base: BaseSettings | None = None, steps: int = 32, count: int = 2400) -> list[Result]:
    """Both comparisons, on a small Llama of random weights unless ``base`` names a model."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        base = base or BaseSettings(precision="float32")
        if base.base == BaseSettings.base:
            base = replace(base, base=str(save_llama(work / "llama")))
        base = replace(base, prompt_tokens=96, label_tokens=64)
        about = f"Llama {SIZES['num_hidden_layers']} x {SIZES['hidden_size']}, {base.precision} on {base.device}"
        theirs, ours, note = training_rounds(base, repeats, steps, work)
        work_done = "fine-tuning on hybrid prompts, LoRA r 32"
        results.append(compared(work_done, "bare transformers + peft loop", theirs, ours, WANTED, f"{about}; {note}"))
        theirs, ours, note = generation_rounds(base, repeats, count, work)
        work_done = "vectors of hybrid prompts, loading and files included"
        results.append(compared(work_done, "bare forward loop", theirs, ours, WANTED, f"{about}; {note}"))
    return results


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="rounds that are measured")
    parser.add_argument("--device", default="cpu", help="where all run")
    parser.add_argument("--precision", default="float32", help="type of weights and products")
    parser.add_argument("--steps", type=int, default=32, help="steps of fine-tuning in a round")
    parser.add_argument("--pairs", type=int, default=2400, help="pairs whose vectors a round makes")
    parser.add_argument("--threads", type=int, default=1, help="threads of every contestant")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    base = BaseSettings(device=args.device, precision=args.precision)
    sys.stdout.write("\n".join(table(measure(args.repeats, base, args.steps, args.pairs))) + "\n")


if __name__ == "__main__":
    main()
