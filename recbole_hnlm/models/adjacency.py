"""The graphs that RecBole's models make when they are constructed, without a Python dictionary of all edges.

LightGCN, NGCF, NCL, GCMC and SpectralCF fill a ``dok_matrix`` edge by edge: some 9 microseconds and 700 bytes for each
interaction. The functions here return the same tensors, equal in every index, value, dtype and order.
Shapes: ``E`` interactions, ``N`` nodes (users, then items), both with RecBole's padding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

_EPSILON = 1e-7
_MODELS = "recbole.model.general_recommender."


class InteractionGraph:
    """The bipartite graph of a model's interactions: each edge once, in the order of its first occurrence.

    Args:
        matrix: Interactions in COO form, shape ``(n_users, n_items)``; values are not looked at.
        backwards: Whether each node's neighbours are listed last to first. scipy's product of sparse matrices turns
            the order in a row around, and RecBole multiplies once or twice.
    """

    def __init__(self, matrix: sp.coo_matrix, backwards: bool = False) -> None:
        users, items = distinct_pairs(matrix)
        if backwards:
            users, items = users[::-1], items[::-1]
        n_users, n_items = matrix.shape
        self._halves = [
            _rows_in_order(users, items, (n_users, n_items)),
            _rows_in_order(items, users, (n_items, n_users)),
        ]
        self._offsets = [0, n_users]
        self.nodes = n_users + n_items

    @property
    def degrees(self) -> NDArray[np.int64]:
        """Neighbours of each node, shape ``(N,)``."""
        return np.concatenate([np.diff(half.indptr) for half in self._halves]).astype(np.int64)

    def scaled(self, left: NDArray[np.float64], right: NDArray[np.float64] | None = None) -> Tensor:
        """The edges weighted by ``left`` of their row and ``right`` of their column, each of shape ``(N,)``.

        Returns:
            Uncoalesced sparse COO tensor, shape ``(N, N)``, float32; products are made in double precision.
        """
        edges = sum(half.nnz for half in self._halves)
        index, values = np.empty((2, edges), dtype=np.int64), np.empty(edges, dtype=np.float32)
        end = 0
        for half, first, other in zip(self._halves, self._offsets, self._offsets[::-1], strict=True):
            begin, end = end, end + half.nnz
            nodes = slice(first, first + half.shape[0])
            counts = np.diff(half.indptr)
            index[0, begin:end] = np.repeat(np.arange(nodes.start, nodes.stop), counts)
            columns = np.add(half.indices, other, out=index[1, begin:end])
            weights = np.repeat(left[nodes], counts)
            if right is not None:
                weights *= right[columns]
            values[begin:end] = weights
        shape = (self.nodes, self.nodes)
        return _sparse(torch.from_numpy(index), torch.from_numpy(values), shape)


def distinct_pairs(matrix: sp.coo_matrix) -> tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]]:
    """Rows and columns of a COO matrix, repeated pairs left out after their first occurrence, each ``(E,)``."""
    rows, columns = matrix.row, matrix.col
    marked = sp.csr_matrix((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=matrix.shape)
    if marked.nnz == len(rows):  # making it has merged the repeated ones
        return rows, columns
    keys = rows.astype(np.int64) * matrix.shape[1] + columns
    order = np.argsort(keys, kind="stable")
    first = np.ones(len(keys), dtype=bool)
    first[order[1:]] = np.diff(keys[order]) != 0
    return rows[first], columns[first]


def _rows_in_order(
    rows: NDArray[np.integer[Any]], columns: NDArray[np.integer[Any]], shape: tuple[int, int]
) -> sp.csr_matrix:
    """CSR matrix whose columns stand, within each row, in the order in which they are given."""
    matrix = sp.coo_matrix((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=shape)
    matrix.has_canonical_format = True  # there are no duplicates to merge; merging would sort each row
    return matrix.tocsr()


def _sparse(index: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    return torch.sparse_coo_tensor(index, values, shape, check_invariants=False)


def _normalised(model: Any) -> Tensor:
    """``D^-1/2 A D^-1/2``, as LightGCN, NGCF and GCMC make it."""
    graph = InteractionGraph(model.interaction_matrix)
    scale = np.power(graph.degrees + _EPSILON, -0.5)
    return graph.scaled(scale, scale)


def _normalised_of_ncl(model: Any) -> Tensor:
    """The same; NCL also keeps the diagonal."""
    graph = InteractionGraph(model.interaction_matrix)
    scale = np.power(graph.degrees + _EPSILON, -0.5)
    model.diag = torch.from_numpy(scale).to(model.device)
    return graph.scaled(scale, scale)


def _laplacian(model: Any) -> Tensor:
    """``I - D^-1 A``, as SpectralCF makes it."""
    graph = InteractionGraph(model.interaction_matrix, backwards=True)
    laplacian: Tensor = model.get_eye_mat(graph.nodes) - graph.scaled(np.power(graph.degrees + _EPSILON, -1))
    return laplacian


def _identity(count: int) -> Tensor:
    """Sparse identity matrix, shape ``(count, count)``, float32, uncoalesced."""
    index = torch.arange(count).repeat(2, 1)
    return _sparse(index, torch.ones(count), (count, count))


def _identity_of_nodes(model: Any) -> Tensor:
    return _identity(model.n_users + model.n_items)


def _identity_of_size(model: Any, num: int) -> Tensor:
    return _identity(num)


_SAME: dict[str, dict[str, Callable[..., Tensor]]] = {
    "get_norm_adj_mat": {
        "lightgcn.LightGCN": _normalised,
        "ngcf.NGCF": _normalised,
        "gcmc.GCMC": _normalised,
        "ncl.NCL": _normalised_of_ncl,
    },
    "get_laplacian_matrix": {"spectralcf.SpectralCF": _laplacian},
    "get_eye_mat": {"ngcf.NGCF": _identity_of_nodes, "spectralcf.SpectralCF": _identity_of_size},
    "get_sparse_eye_mat": {"gcmc.GCMC": _identity_of_size},
}
"""Method -> the class of RecBole that defines it -> a function that returns the same."""


def vectorised_methods(model_class: type) -> dict[str, Callable[..., Tensor]]:
    """Methods for a subclass of ``model_class`` that make its graph fast, by name.

    Only where the method that the class would run is RecBole's own; a subclass that overrides it keeps its own.
    """
    found = {}
    for name, functions in _SAME.items():
        method = getattr(model_class, name, None)
        home = f"{getattr(method, '__module__', '')}.{getattr(method, '__qualname__', '')}"
        defined_in = home.removeprefix(_MODELS).removesuffix(f".{name}")
        if home == f"{_MODELS}{defined_in}.{name}" and defined_in in functions:
            found[name] = functions[defined_in]
    return found
