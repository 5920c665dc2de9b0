"""Constant sparse matrices of graph models, multiplied several times faster over CSR than over RecBole's COO.

A row's terms may be summed in another order than over RecBole's uncoalesced COO, so results agree to rounding, not
always to the bit.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class CsrMatrix:
    """A constant sparse matrix as products read it.

    Attributes:
        matrix: The matrix in CSR.
        transposed: Its transpose in CSR; the same tensor where the matrix is symmetric.
    """

    matrix: Tensor
    transposed: Tensor

    def product(self, dense: Tensor) -> Tensor:
        """``A x`` with a gradient for ``x``; in single precision even under autocast, which sparse kernels lack."""
        with torch.autocast(dense.device.type, enabled=False):
            result: Tensor = _Product.apply(self, dense.to(self.matrix.dtype))
        return result


class _Product(torch.autograd.Function):
    """``A x``; the gradient with respect to ``x`` is the transpose times the incoming one."""

    @staticmethod
    def forward(ctx, csr: CsrMatrix, dense: Tensor) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        ctx.csr = csr
        return csr.matrix @ dense

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, Tensor]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        return None, ctx.csr.transposed @ grad.contiguous()


def csr_matrix(matrix: Tensor) -> CsrMatrix | None:
    """A CSR copy of a constant sparse COO matrix, or None for anything else."""
    if matrix.layout is not torch.sparse_coo or matrix.dim() != 2 or matrix.requires_grad:
        return None
    if matrix.dtype is not torch.float32:
        return None
    indices, values = matrix._indices().cpu().numpy(), matrix._values().cpu().numpy()
    rows: Any = sp.csr_matrix((values, (indices[0], indices[1])), shape=(matrix.shape[0], matrix.shape[1]))
    rows.sort_indices()
    columns = rows.T.tocsr()
    kept = _as_tensor(rows, matrix.device)
    return CsrMatrix(kept, kept if _same(rows, columns) else _as_tensor(columns, matrix.device))


def _same(one: Any, other: Any) -> bool:
    parts = ("indptr", "indices", "data")
    return one.shape == other.shape and all(np.array_equal(getattr(one, part), getattr(other, part)) for part in parts)


def _as_tensor(matrix: Any, device: torch.device) -> Tensor:
    starts, columns = (torch.from_numpy(np.ascontiguousarray(part)) for part in (matrix.indptr, matrix.indices))
    values = torch.from_numpy(np.ascontiguousarray(matrix.data))
    return torch.sparse_csr_tensor(starts, columns, values, matrix.shape, check_invariants=False).to(device)


class FastProducts:
    """CSR copies of a model's own constant matrices, made when they are first multiplied.

    Args:
        model: The model; only sparse tensors that are its attributes, or stand in lists that are, are copied, as
            others may change from pass to pass.
    """

    def __init__(self, model: nn.Module) -> None:
        self._copies: dict[tuple[str, int], tuple[Tensor, CsrMatrix | None]] = {}
        self._model = model

    def __deepcopy__(self, memo: dict[int, Any]) -> FastProducts:
        """A copy without the matrices, which torch cannot deep-copy and which are made anew when needed."""
        return FastProducts(copy.deepcopy(self._model, memo))

    def of(self, matrix: Tensor) -> CsrMatrix | None:
        """The CSR copy to multiply with in place of ``matrix``, or None."""
        for name, value in self._model.__dict__.items():
            for place, held in enumerate(value if isinstance(value, list) else (value,)):
                if held is matrix:
                    known = self._copies.get((name, place))
                    if known is None or known[0] is not matrix:
                        known = self._copies[name, place] = (matrix, csr_matrix(matrix))
                    return known[1]
        return None
