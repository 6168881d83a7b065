"""``sparse.safetensors``: the tensors of a model, its sparse matrices in coded form.

A safetensors file that holds ``N.bits`` and ``N.values`` for each coded matrix N, and the other
tensors as they are. Its metadata:

- ``format``: ``prunella-sparse``, and ``version``: ``1``;
- ``tensors``: JSON, from the name of each tensor to its ``dtype``, ``shape``, whether it is
  ``coded``, and the ``sha256`` of what is stored of it (see ``_digest``);
- ``sha256``: that of ``tensors``, so that no entry can be altered, swapped or lost unnoticed.

The hashes tell damage, not malice: who writes a file can write its hashes too. So all else in it is
checked as well, before anything is made of it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from prunella.bitmask import Coded, bound_bytes, can_code, coded_bytes, encode, ideal_bytes
from prunella.errors import Unsaved, UsageError

FILE = "sparse.safetensors"
FORMAT = "prunella-sparse"
VERSION = 2  # in which tensors of more than two sides are coded too; written where one is

# What can be stored, by the names that safetensors has for it.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
LIMIT = 2**48  # no tensor has so many values, and none so long a side
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Sizes:
    """What a coded matrix takes.

    Attributes:
        count: how many weights it has.
        kept: how many of them are kept.
        bytes: what its bits and values take in the file.
        ideal: bytes of ideal bitmask coding, one bit a weight and the kept values.
        bound: bytes that no coding of a random mask goes below.
    """

    count: int
    kept: int
    bytes: int
    ideal: float
    bound: float

    @classmethod
    def of(cls, count: int, kept: int, bits: int) -> Sizes:
        """Of so many weights of so many bits, of which some are kept."""
        taken = -(-count // 8) + kept * bits // 8
        ideal, bound = ideal_bytes(count, kept, bits), bound_bytes(count, kept, bits)
        return cls(count, kept, taken, ideal, bound)


@dataclass(frozen=True)
class _Entry:
    """What the metadata says of one tensor."""

    dtype: str
    shape: tuple[int, ...]
    coded: bool
    sha256: str

    def parts(self, name: str) -> tuple[str, ...]:
        """Names under which it is stored."""
        return (f"{name}.bits", f"{name}.values") if self.coded else (name,)


def write(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors into one file, matrices and stacks of them in coded form where that is smaller.

    The file is whole or not there; an older one is replaced. Equal tensors make equal files.

    Args:
        tensors: any, on any device; what several names share is stored for each.
        path: the file.

    Raises:
        UsageError: a dtype or a name that cannot be stored.
        Unsaved: the disk is full, or the folder is not there or closed to us.
    """
    stored: dict[str, Tensor] = {}
    entries: dict[str, _Entry] = {}
    for name, tensor in tensors.items():
        entry, parts = _prepare(name, tensor)
        names = entry.parts(name)
        if taken := sorted({"__metadata__", *stored}.intersection(names)):
            raise UsageError(
                f"the tensor {name!r} would be stored as {taken[0]!r}, a name that is taken; "
                "rename it"
            )
        entries[name] = entry
        stored |= zip(names, parts, strict=True)
    listed = {name: asdict(entry) for name, entry in entries.items()}
    text = json.dumps(listed, ensure_ascii=False)
    metadata = {
        "format": FORMAT,
        "version": str(VERSION if any(map(_is_stack, entries.values())) else 1),
        "tensors": text,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    with whole(path) as new:
        _save(stored, metadata, new)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name to write a file under, which then takes the place of another one, or is removed.

    Raises:
        Unsaved: the disk is full, or the folder is not there or closed to us.
    """
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield new
        os.replace(new, path)
    except OSError as error:
        raise Unsaved(f"{path} could not be written: {error}") from error
    finally:
        with suppress(OSError):  # nothing is there, when all went well
            new.unlink()


def sync(*paths: Path) -> None:
    """Have files and folders' entries on disk, not only in the system's memory.

    Not on Windows, which opens neither folders nor read-only files for that.
    """
    if os.name == "nt":
        return
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read(path: Path) -> Iterator[tuple[str, Tensor | Coded]]:
    """All tensors of a file in the order in which ``write`` was given them, each checked.

    Nothing is allocated but what the file really holds, so a ``Coded`` can claim no more than eight
    weights for each byte of its bits.

    Raises:
        UsageError: the file is missing, damaged, inconsistent, of another tool or a newer version.
    """
    # Most of the time goes into hashes, which are computed side by side.
    with _opened(path) as (file, entries), ThreadPoolExecutor(torch.get_num_threads()) as pool:
        checked = pool.map(lambda item: _tensor(path, file, *item), entries.items())
        yield from zip(entries, checked, strict=True)


def sizes(path: Path) -> dict[str, Sizes]:
    """What each coded matrix of a file takes, by name; the weights themselves are not read.

    Raises:
        UsageError: as ``read``, for all that can be told without reading weights.
    """
    found = {}
    with _opened(path) as (file, entries):
        for name, entry in entries.items():
            if entry.coded:
                count, bits = math.prod(entry.shape), 8 * DTYPES[entry.dtype].itemsize
                (kept,) = file.get_slice(f"{name}.values").get_shape()
                found[name] = Sizes.of(count, kept, bits)
    return found


def _prepare(name: str, tensor: Tensor) -> tuple[_Entry, tuple[Tensor, ...]]:
    """What is to be stored of a tensor."""
    if tensor.dtype not in _NAMES or tensor.layout != torch.strided or tensor.is_meta:
        raise UsageError(
            f"the tensor {name!r} ({tensor.dtype}, {tensor.layout}, on {tensor.device}) cannot be "
            "stored; make it a dense tensor with values, of one of the usual dtypes"
        )
    tensor = tensor.detach().cpu().contiguous()
    parts: tuple[Tensor, ...] = (tensor,)
    if tensor.ndim > 1 and can_code(tensor.dtype) and coded_bytes(tensor) < tensor.nbytes:
        coded = encode(tensor)
        parts = (coded.bits, coded.values)
    entry = _Entry(_NAMES[tensor.dtype], tuple(tensor.shape), len(parts) > 1, "")
    return replace(entry, sha256=_digest(entry, parts)), parts


def _digest(entry: _Entry, parts: Iterable[Tensor]) -> str:
    """SHA-256 of a tensor's dtype, shape and form, as one line, and its bytes as stored."""
    form = "coded" if entry.coded else "plain"
    digest = hashlib.sha256(f"{entry.dtype} {list(entry.shape)} {form}\n".encode())
    for part in parts:
        digest.update(_memory(part))
    return digest.hexdigest()


def _memory(tensor: Tensor) -> Any:
    """The bytes of a contiguous tensor, not copied."""
    return tensor.flatten().view(torch.uint8).numpy()


def _save(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> None:
    """Write a safetensors file, and wait until it is on disk.

    With safetensors' own writer two files of one model would differ: it shuffles the metadata.
    """
    ordered = sorted(tensors, key=lambda name: -tensors[name].itemsize)  # so each is aligned
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name in ordered:
        tensor, start = tensors[name], end
        end += tensor.nbytes
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in ordered:
            file.write(_memory(tensors[name]))
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, _Entry]]]:
    """A file of which all is checked but the content of the tensors, and what it holds."""
    try:
        if not path.is_file():
            raise UsageError(f"there is no file {path}; give one that Prunella wrote")
        with safe_open(path, "pt") as file:
            yield file, _entries(path, file)
    except SafetensorError as error:
        raise _damaged(path, str(error)) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error}); see to its permissions") from error


def _entries(path: Path, file: Any) -> dict[str, _Entry]:
    """What the metadata says of each tensor, once it agrees with what the file holds."""
    metadata = file.metadata() or {}
    if metadata.get("format") != FORMAT:
        raise UsageError(
            f"{path} is of the format {metadata.get('format')!r}, not {FORMAT!r}; give a file that "
            "Prunella wrote, or load it with Transformers"
        )
    version = metadata.get("version", "")
    if re.fullmatch("[1-9][0-9]{0,8}", version) and int(version) > VERSION:
        raise UsageError(
            f"{path} is of version {version} of the format, and this Prunella reads {VERSION}; "
            "upgrade Prunella"
        )
    text = metadata.get("tensors", "")
    known = hashlib.sha256(text.encode()).hexdigest()
    if version not in ("1", str(VERSION)) or metadata.get("sha256") != known:
        raise _damaged(path, "its metadata is not what was written")
    try:
        listed = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
        if not isinstance(listed, dict):
            raise ValueError("its metadata lists no tensors")
        entries = {name: _entry(name, fields) for name, fields in listed.items()}
        if version == "1" and any(map(_is_stack, entries.values())):
            raise ValueError("its metadata is of a later version than it says")
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    parts = [part for name, entry in entries.items() for part in entry.parts(name)]
    if sorted(parts) != sorted(file.keys()):
        raise _damaged(path, "the tensors that it lists are not those that it holds")
    for name, entry in entries.items():
        _compare(path, file, name, entry)
    return entries


def _is_stack(entry: _Entry) -> bool:
    return entry.coded and len(entry.shape) > 2


def _entry(name: str, fields: Any) -> _Entry:
    """One entry of the metadata; ValueError where it cannot be one."""
    if not isinstance(fields, dict) or fields.keys() != _Entry.__annotations__.keys():
        raise ValueError(f"its metadata on {name!r} lacks something, or has too much")
    dtype, shape, coded = fields["dtype"], fields["shape"], fields["coded"]
    if not (
        isinstance(dtype, str)
        and dtype in DTYPES
        and isinstance(fields["sha256"], str)
        and isinstance(coded, bool)
        and isinstance(shape, list)
        and len(shape) <= 64  # as many as torch allows
        and all(type(side) is int and 0 <= side < LIMIT for side in shape)
        and math.prod(side or 1 for side in shape) < LIMIT
        and (not coded or (len(shape) > 1 and can_code(DTYPES[dtype])))
    ):
        raise ValueError(f"its metadata on {name!r} is impossible")
    return _Entry(dtype, tuple(shape), coded, fields["sha256"])


def _compare(path: Path, file: Any, name: str, entry: _Entry) -> None:
    """Raise UsageError where the parts of a tensor are stored otherwise than its entry says."""
    slices = [file.get_slice(part) for part in entry.parts(name)]
    stored = [(part.get_dtype(), tuple(part.get_shape())) for part in slices]
    if entry.coded:
        bits, (dtype, kept) = stored
        mask = ("U8", (-(-math.prod(entry.shape) // 8),))
        # Any number of values will do here: the bits tell how many, once they are read.
        fits = bits == mask and dtype == entry.dtype and len(kept) == 1
    else:
        fits = stored == [(entry.dtype, entry.shape)]
    if not fits:
        raise _damaged(path, f"the tensor {name!r} is stored with another dtype or shape")


def _tensor(path: Path, file: Any, name: str, entry: _Entry) -> Tensor | Coded:
    """One tensor whose content is what was saved."""
    parts = [file.get_tensor(part) for part in entry.parts(name)]
    if _digest(entry, parts) != entry.sha256:
        raise _damaged(path, f"the tensor {name!r} is not what was saved")
    if entry.coded:
        try:
            return Coded(entry.shape, *parts)
        except UsageError as error:
            raise _damaged(path, f"the tensor {name!r}: {error}") from error
    if entry.dtype == "BOOL" and bool((parts[0].view(torch.uint8) > 1).any()):
        raise _damaged(path, f"the tensor {name!r} has bools that are neither true nor false")
    return parts[0]


def _damaged(path: Path, what: str) -> UsageError:
    return UsageError(f"{path} is damaged ({what}); save the model again, or fetch the file anew")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object in which no name is given twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("its metadata gives a name twice")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"its metadata says {constant}")
