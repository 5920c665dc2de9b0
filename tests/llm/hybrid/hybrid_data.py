"""What the tests of hybrid prompts run on: pairs with a known answer, and tiny models made from a config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from recbole_hnlm.llm.hybrid import PairTexts

KINDS = ("pen", "chair", "lamp", "desk", "paper", "stapler", "folder", "marker")
COLOURS = ("red", "blue", "green", "black", "white", "yellow")


def make_pairs(n_users: int = 24, name: str = "toy", width: int = 8, seed: int = 0) -> PairTexts:
    """Pairs whose hard negative follows from the user's embedding alone: profiles say nothing of it."""
    rng = np.random.default_rng(seed)
    items = [f"{colour} {kind}" for kind in KINDS for colour in COLOURS]
    item_vectors = rng.normal(size=(len(items), width)).astype(np.float32)
    favourite = rng.integers(len(items), size=n_users)
    user_vectors = (item_vectors[favourite] + 0.05 * rng.normal(size=(n_users, width))).astype(np.float32)
    users = np.repeat(np.arange(n_users), 6)
    chosen = np.concatenate([rng.choice(np.delete(np.arange(len(items)), f), 6, replace=False) for f in favourite])
    return PairTexts(
        name, users, chosen, favourite[users], ["buys things for the office"] * n_users, items, user_vectors, item_vectors
    )  # fmt: skip


WORDS = (
    "[PAD] [UNK] <s> </s> a user of collaborative embedding is described as : the chose item something this would take "
    "for similar , yet not want buys things office likes red pens " + " ".join((*KINDS, *COLOURS))
)


def _tokenizer(family: str) -> Any:
    """One token a word; for Qwen2, whose class accepts nothing else, byte pairs learnt from the same words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = {"unk_token": "[UNK]", "pad_token": "[PAD]"}
    if family == "Qwen2":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=600, special_tokens=["[PAD]", "[UNK]", "</s>"], show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )  # fmt: skip
        tokenizer.train_from_iterator([WORDS] * 10, trainer)
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", **special)
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(WORDS.split()))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special |= (
        {"cls_token": "<s>", "sep_token": "</s>"} if family == "Bert" else {"bos_token": "<s>", "eos_token": "</s>"}
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def save_tiny(folder: Path, family: str, seed: int = 0) -> Path:
    """A Llama, Qwen2, Mistral or BERT of random weights with a small tokenizer, as ``from_pretrained`` reads it."""
    import torch
    import transformers

    tokenizer = _tokenizer(family)
    tokenizer.save_pretrained(folder)
    sizes = {
        "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 128,
    }  # fmt: skip
    if family != "Bert":
        sizes["num_key_value_heads"] = 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        getattr(transformers, f"{family}Model")(getattr(transformers, f"{family}Config")(**sizes)).save_pretrained(
            folder
        )
    return folder
