"""A small dataset with text, and helpers that build RecBole runs on it. Two tastes: even users like even items, odd ones odd."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_hnlm.config import HNLMConfig
from recbole_hnlm.quick_start import build_model, prepare

USERS, ITEMS, PER_USER = 60, 80, 16
WORDS = {0: ("copper", "kettle", "kitchen", "spoon"), 1: ("rocket", "planet", "galaxy", "comet")}

PAIRWISE = (
    *("BPR", "LightGCN", "NGCF", "DGCF", "SpectralCF", "LINE", "SimpleX", "ConvNCF", "SGL", "NCL", "GCMC"),
    *("SimGCL", "XSimGCL"),
)
PROPAGATING = ("LightGCN", "NGCF", "SGL", "NCL", "SimGCL", "XSimGCL")
POINTWISE = ("NeuMF", "DMF", "NNCF", "FISM", "NAIS")
SMALL: dict[str, dict[str, Any]] = {
    "DGCF": {"n_factors": 2, "n_iterations": 1, "cor_weight": 0.01, "embedding_size": 8},
    "ConvNCF": {"embedding_size": 8, "cnn_channels": [1, 4], "cnn_kernels": [4], "cnn_strides": [4]},
    "NCL": {"num_clusters": 4, "m_step": 1, "warm_up_step": 0},
    "SimpleX": {"history_len": 5, "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}},
    "NeuMF": {"mf_embedding_size": 8, "mlp_embedding_size": 8, "mlp_hidden_size": [8]},
    "NNCF": {"ui_embedding_size": 8, "neigh_embedding_size": 8, "num_conv_kernel": 4, "mlp_hidden_size": [8]},
    "DMF": {
        "user_embedding_size": 8,
        "item_embedding_size": 8,
        "user_hidden_size_list": [8],
        "item_hidden_size_list": [8],
    },
    "SGL": {"n_layers": 2},
    "GCMC": {"gcn_output_dim": 16, "embedding_size": 8},
}


def write_dataset(folder: Path, name: str = "tiny", seed: int = 0, text: bool = True) -> Path:
    """Write the dataset's atomic files into ``folder/name`` and return ``folder``."""
    home = folder / name
    home.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(USERS):
        taste = np.arange(user % 2, ITEMS, 2)
        for time, item in enumerate(rng.choice(taste, PER_USER, replace=False)):
            lines.append(f"u{user}\ti{item}\t{rng.integers(1, 6)}\t{time}")
    (home / f"{name}.inter").write_text("\n".join(lines) + "\n")
    if text:
        rows = ["item_id:token\ttitle:token_seq\tmaker:token"]
        for item in range(ITEMS):
            title = " ".join(rng.permutation(WORDS[item % 2])) + f" number {item}"
            rows.append(f"i{item}\t{title}\tmaker{item % 2}")
        (home / f"{name}.item").write_text("\n".join(rows) + "\n")
    return folder


def settings(folder: Path, model: Any, **values: Any) -> dict[str, Any]:
    """A configuration of a small run on the dataset in ``folder``."""
    return {
        "data_path": str(folder),
        "embedding_size": 8,
        "train_batch_size": 128,
        "eval_batch_size": 100_000,
        "epochs": 2,
        "topk": [5],
        "metrics": ["Recall", "NDCG"],
        "valid_metric": "NDCG@5",
        "metric_decimal_place": 10,
        "show_progress": False,
        "state": "ERROR",
        "use_gpu": False,
        **SMALL.get(model, {}),
        **values,
    }


def made(folder: Path, name: Any, **values: Any) -> tuple[Any, Any, HNLMConfig]:
    """Model, loaders and configuration of a small run."""
    config = HNLMConfig(name, "tiny", config_dict=settings(folder, name, **values))
    loaders = prepare(config)
    return build_model(config, loaders[0]), loaders, config


def seed_everything(seed: int = 7) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def first_loss(model: Any, loaders: Any) -> torch.Tensor:
    """Loss of the first batch, summed where a model returns several terms; gradients are left on the parameters."""
    seed_everything()
    model.train()
    if hasattr(model, "e_step"):
        model.e_step()
    seed_everything()
    batch = next(iter(loaders[0]))
    losses = model.calculate_loss(batch)
    loss = sum(losses) if isinstance(losses, tuple) else losses
    model.zero_grad()
    loss.backward()
    return loss.detach()
