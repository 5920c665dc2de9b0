"""The parts that ``scale.py`` measures, each in a process of its own; one JSON object on standard output.

Shapes: ``E`` interactions, ``N`` nodes, ``D`` width of a row.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from recbole.data.interaction import Interaction  # noqa: E402
from recbole.model.general_recommender import BPR, LightGCN  # noqa: E402
from scale_data import BATCH, Data, Measured, once, per_step  # noqa: E402
from scale_store import opened_store, read_store, write_store  # noqa: E402

from recbole_hnlm import hnlm  # noqa: E402
from recbole_hnlm.config import HNLMConfig  # noqa: E402
from recbole_hnlm.models.adjacency import InteractionGraph, vectorised_methods  # noqa: E402
from recbole_hnlm.models.mean_of_hops import MeanForm, propagate_mean  # noqa: E402
from recbole_hnlm.models.products import FastProducts, csr_matrix  # noqa: E402
from recbole_hnlm.models.text import hash_of_training_pairs, training_pairs  # noqa: E402
from recbole_hnlm.samplers import TrainingInteractions  # noqa: E402
from recbole_hnlm.samplers.candidates import UniformCandidates  # noqa: E402
from recbole_hnlm.training.loader import BLOCK_CANDIDATES, PairLoader  # noqa: E402
from recbole_hnlm.training.optimizers import by_rows, fused  # noqa: E402
from recbole_hnlm.training.watching import peak_memory_mib  # noqa: E402

WIDTH, LAYERS = 64, 3


def interactions_of(data: Data) -> TrainingInteractions:
    """The training pairs' tables."""
    feat = data.inter_feat
    return TrainingInteractions(feat[data.uid_field], feat[data.iid_field], data.user_num, data.item_num)


def draw(data: Data, count: int) -> Measured:
    """One batch's candidates, drawn for as many batches at once as the training loader does."""
    drawer = UniformCandidates(interactions_of(data), torch.Generator().manual_seed(1))
    ahead = max(1, BLOCK_CANDIDATES // (BATCH * count))
    users = [torch.cat([users for users, _ in data.batches(ahead, seed)]) for seed in range(64)]
    measured = per_step(lambda at: drawer.draw(users[at % 64], count), 400)
    return {**measured, "seconds": measured["seconds"] / ahead}


def propagate(data: Data) -> Measured:
    """Forward and backward of LightGCN's propagation, three hops, width 64, as a wrapped model runs it."""
    graph = InteractionGraph(data.inter_matrix())
    scale = np.power(graph.degrees + 1e-7, -0.5)
    model: Any = torch.nn.Module()
    model.graph = graph.scaled(scale, scale)
    model.user_embedding = torch.nn.Embedding(data.user_num, WIDTH)
    model.item_embedding = torch.nn.Embedding(data.item_num, WIDTH)
    form, products = MeanForm(model.graph, LAYERS, LAYERS + 1), FastProducts(model)
    assert products.of(model.graph) is not None
    del graph

    def step(_: int) -> None:
        found = propagate_mean(model, form, products, record=False)
        assert found is not None
        sum(table.sum() for table in found[0]).backward()
        model.zero_grad()

    return per_step(step, 30, least=3)


def config(model: str, **values: Any) -> HNLMConfig:
    """A configuration that reads no data."""
    common = {
        "embedding_size": WIDTH,
        "n_layers": LAYERS,
        "use_gpu": False,
        "state": "ERROR",
        "train_batch_size": BATCH,
    }
    return HNLMConfig(model, "synthetic", config_dict={**common, **values})


def model_of(base: type, data: Data, wrapped: bool) -> Any:
    """A model under ``neg_sampler: uniform``, or the bare one; LightGCN's graph is made the fast way in both."""
    if wrapped:
        return hnlm(base)(config(base.__name__, neg_sampler="uniform"), data).train()
    return type(base.__name__, (base,), vectorised_methods(base))(config(base.__name__), data).train()


def training_step(model: Any, data: Data) -> Callable[[int], None]:
    """Loss and gradients of one batch; the bare model is handed negatives, the wrapped one draws them."""
    batches = data.batches(64)
    negatives = torch.from_numpy(np.random.default_rng(2).integers(1, data.item_num, (64, BATCH)))
    bare = not hasattr(model, "hnlm")

    def step(at: int) -> None:
        users, items = batches[at % 64]
        columns = {"user_id": users, "item_id": items}
        if bare:
            columns["neg_item_id"] = negatives[at % 64]
        model.zero_grad()
        model.calculate_loss(Interaction(columns)).backward()

    return step


def overhead(base: type, data: Data) -> Measured:
    """Ratio of a wrapped step to a bare one, the two taking turns; the median over turns."""
    steps = [training_step(model_of(base, data, wrapped), data) for wrapped in (False, True)]
    taken: list[tuple[float, ...]] = []
    started = time.perf_counter()
    while len(taken) < 4 or (time.perf_counter() - started < 15 and len(taken) < 200):
        times = []
        for step in steps:
            begun = time.perf_counter()
            step(len(taken))
            times.append(time.perf_counter() - begun)
        taken.append(tuple(times))
    return {"seconds": statistics.median(wrapped / bare for bare, wrapped in taken[1:]), "steps": len(taken) - 1}


def adam(data: Data, optimiser_of: Callable[[Any], Any], rows: bool = False) -> Measured:
    """One step of an optimiser over both tables of a BPR."""
    model = model_of(BPR, data, wrapped=False)
    model.user_embedding.sparse = model.item_embedding.sparse = rows
    optimiser = optimiser_of(torch.optim.Adam(model.parameters(), lr=1e-3))
    training_step(model, data)(0)
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]

    def step(_: int) -> None:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        optimiser.step()

    return per_step(step, 100)


def load(data: Data) -> Measured:
    """Seconds a batch that the training loader takes to hand out shuffled pairs, start of the epoch included."""
    settings = config("BPR", neg_sampler="uniform")
    loader = PairLoader(settings, data, settings.run, shuffle=True)
    started = time.perf_counter()
    batches = sum(1 for _ in loader)
    return {"seconds": (time.perf_counter() - started) / batches, "steps": batches}


def recbole_adjacency(data: Data) -> Measured:
    """RecBole's own ``LightGCN.get_norm_adj_mat``, as the constructor calls it."""
    model = model_of(BPR, data, wrapped=False)
    model.interaction_matrix = data.inter_matrix().astype(np.float32)
    return once(lambda: LightGCN.get_norm_adj_mat(model))


def our_adjacency(data: Data) -> Measured:
    """The same tensor without the dictionary."""
    model = model_of(BPR, data, wrapped=False)
    model.interaction_matrix = data.inter_matrix().astype(np.float32)
    return once(lambda: vectorised_methods(LightGCN)["get_norm_adj_mat"](model))


def copy_to_csr(data: Data) -> Measured:
    """Checking that the matrix is symmetric and making its CSR copy, at the first product."""
    graph = InteractionGraph(data.inter_matrix())
    scale = np.power(graph.degrees + 1e-7, -0.5)
    matrix = graph.scaled(scale, scale)
    del graph
    return once(lambda: csr_matrix(matrix))


PARTS: dict[str, Callable[[Data], Measured]] = {
    "idle": lambda data: {"seconds": 0.0},
    "pairs": lambda data: once(lambda: interactions_of(data)),
    "tokens": lambda data: once(lambda: training_pairs(data)),
    "hash": lambda data: once(lambda: hash_of_training_pairs(data)),
    "loader": load,
    "draw 1": lambda data: draw(data, 1),
    "draw 32": lambda data: draw(data, 32),
    "adjacency RecBole": recbole_adjacency,
    "adjacency": our_adjacency,
    "csr": copy_to_csr,
    "propagation": propagate,
    "BPR bare": lambda data: per_step(training_step(model_of(BPR, data, False), data), 200),
    "BPR wrapped": lambda data: per_step(training_step(model_of(BPR, data, True), data), 200),
    "BPR ratio": lambda data: overhead(BPR, data),
    "LightGCN bare": lambda data: per_step(training_step(model_of(LightGCN, data, False), data), 40, least=3),
    "LightGCN wrapped": lambda data: per_step(training_step(model_of(LightGCN, data, True), data), 40, least=3),
    "LightGCN ratio": lambda data: overhead(LightGCN, data),
    "Adam": lambda data: adam(data, lambda optimiser: optimiser),
    "Adam fused": lambda data: adam(data, fused),
    "Adam rows": lambda data: adam(data, by_rows, rows=True),
    "store write": write_store,
    "store open": lambda data: once(lambda: opened_store(data)),
    "store read": read_store,
}


def main() -> None:
    """Measure one part: ``scale_parts.py PART FOLDER``."""
    part, folder = sys.argv[1:3]
    sys.argv[1:] = []  # RecBole reads the command line
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    torch.manual_seed(1)
    data = Data(Path(folder))
    measured = PARTS[part](data)
    sys.stdout.write(json.dumps({**measured, "peak_mib": peak_memory_mib()}) + "\n")


if __name__ == "__main__":
    main()
