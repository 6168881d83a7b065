"""The engine: which variant of its kernels runs, and products with matrices it holds.

``PRUNELLA_ENGINE`` chooses a variant by name (``avx512``, ``avx2``, ``neon``, ``portable``), or
``off``. Installed without a C++ compiler, the package has no engine; then everything is dense.
"""

from __future__ import annotations

import os
import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from prunella.bitmask import Coded, decode, encode
from prunella.errors import UsageError

VARIABLE = "PRUNELLA_ENGINE"
PANEL = 64  # tokens side by side, as in native/kernels.hpp

_native: Any
_missing = ""
try:
    from prunella.runtime import _native
except ModuleNotFoundError:
    _native, _missing = None, "it was installed without a C++ compiler"
except ImportError as error:
    _native, _missing = None, f"it cannot be loaded: {error}"


@cache
def variant() -> str | None:
    """Name of the kernels in use; None if everything is computed densely, which is announced.

    Raises:
        UsageError: ``PRUNELLA_ENGINE`` asks for what this machine cannot run.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted == "off":
        return None
    if _native is None:
        if wanted:
            raise UsageError(
                f"{VARIABLE}={wanted}, but this installation has no engine ({_missing}); install "
                "a C++ compiler (GCC 12 or Clang), then prunella again"
            )
        warnings.warn(
            f"this installation of prunella has no engine ({_missing}): sparse models are computed "
            "densely, by torch",
            stacklevel=2,
        )
        return None
    if wanted and not _native.choose(wanted):
        raise UsageError(
            f"{VARIABLE}={wanted}, but this machine runs {', '.join(_native.variants())}; name one "
            "of them, or 'off'"
        )
    return _native.variant()


def variants() -> tuple[str, ...]:
    """Names of the variants this machine can run, the fastest first; none without an engine."""
    return () if _native is None else tuple(_native.variants())


def plain(tensor: Tensor) -> bool:
    """Whether the engine can read a tensor where it is."""
    return tensor.dtype == torch.float32 and tensor.is_cpu and tensor.is_contiguous()


def has_values(tensor: Tensor) -> bool:
    """Whether a tensor is plain memory, and nothing is being traced that would miss what we do."""
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined]
    return type(tensor) in (Tensor, nn.Parameter) and not tracing


def dense_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x Wᵀ + bias for one token x [..., in] and a dense weight [out, in].

    All are contiguous float32 tensors of the CPU, which the caller sees to.
    """
    rows, cols = weight.shape
    out = x.new_empty((*x.shape[:-1], rows))
    _native.dense_linear(
        weight.data_ptr(),
        rows,
        cols,
        x.data_ptr(),
        out.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        torch.get_num_threads(),
    )
    return out


class Matrix:
    """The non-zero weights of a matrix, as the engine walks them. It never changes.

    Five bytes a non-zero weight: its float32 value, and its column within a block of at most 256.
    """

    def __init__(self, coded: Coded, transposed: bool = False):
        """
        Args:
            coded: the matrix [out, in] (bfloat16, float16 and float64 become float32).
            transposed: ``coded`` is [in, out], as in GPT-2's Conv1D.
        """
        if variant() is None:
            raise UsageError(
                "there is no engine to hold a matrix; load the model with engine='dense'"
            )
        # -0.0 is a value in a file, and nothing in a product.
        if coded.values.count_nonzero() < coded.values.numel():
            coded = encode(decode(coded) + 0.0)
        rows, cols = reversed(coded.shape) if transposed else coded.shape
        bits, values = coded.bits.contiguous(), coded.values.float().contiguous()
        self._native = _native.Matrix(
            rows, cols, bits.data_ptr(), values.data_ptr(), values.numel(), transposed
        )

    @property
    def shape(self) -> tuple[int, int]:
        """[out, in]."""
        return self._native.rows, self._native.cols

    @property
    def nonzero(self) -> int:
        return self._native.nonzero

    @property
    def nbytes(self) -> int:
        """Bytes it takes in memory."""
        return self._native.bytes

    def dense(self) -> Tensor:
        """All weights [out, in], float32."""
        dense = torch.empty(self.shape, dtype=torch.float32, device="cpu")
        self._native.dense(dense.data_ptr())
        return dense

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x Wᵀ + bias, for x [..., in]. Zeros are skipped, even where x is not finite.

        Raises:
            UsageError: x is not a float32 tensor [..., in] of the CPU, or bias not one [out].
        """
        rows, cols = self.shape
        if not has_values(x):
            raise UsageError(
                f"the engine computes with values, and can neither be traced nor take a "
                f"{type(x).__name__}; load the model with engine='dense'"
            )
        if bias is not None and (bias.shape != (rows,) or not plain(bias)):
            raise UsageError(
                f"the bias of a sparse matrix of {rows} rows is float32 [{rows}] on the CPU; this "
                f"is {bias.dtype} {list(bias.shape)} on {bias.device}"
            )
        if x.dtype != torch.float32 or x.device.type != "cpu" or x.ndim < 1 or x.shape[-1] != cols:
            raise UsageError(
                f"a sparse matrix takes float32 on the CPU, [..., {cols}]; this is {x.dtype} on "
                f"{x.device}, {list(x.shape)}; convert it, or load the model with engine='dense'"
            )
        x = x.resolve_neg().contiguous()
        out = x.new_empty((*x.shape[:-1], rows))
        tokens = out.numel() // rows
        if tokens:
            self._native.linear(
                x.data_ptr(),
                out.data_ptr(),
                tokens,
                0 if bias is None else bias.data_ptr(),
                torch.get_num_threads(),
            )
        return out

    def product(self, panels: Tensor) -> Tensor:
        """W x in the engine's own layout, as within an encoder; for measurements and tests.

        Args:
            panels: contiguous float32 [panels, in, 64], 64 tokens side by side.

        Returns:
            [panels, out, 64].
        """
        rows, cols = self.shape
        count = len(panels)
        assert panels.shape == (count, cols, PANEL) and panels.dtype == torch.float32
        out = panels.new_empty(count, rows, PANEL)
        self._native.product(
            panels.contiguous().data_ptr(), out.data_ptr(), count, torch.get_num_threads()
        )
        return out

    def __deepcopy__(self, memo: object) -> Matrix:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Matrix, (encode(self.dense()),)
