"""The weights in a Transformers checkpoint folder, of whatever form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from prunella.bitmask import Coded
from prunella.errors import UsageError
from prunella.runtime.files import FILE, read

CONFIG = "config.json"
DENSE = "model.safetensors"
INDEX = "model.safetensors.index.json"  # in which of several files each tensor is
ONNX = "model.onnx"
PICKLED = ("pytorch_model*.bin*", "*.pt", "*.pth", "*.ckpt")
# Forms of a model's weights, as patterns: one replaces the others.
WEIGHTS = (FILE, DENSE, INDEX, "model-*-of-*.safetensors", ONNX, "pytorch_model*.bin*")


def opened(folder: Path) -> tuple[list[Path], Iterator[tuple[str, Tensor | Coded]]]:
    """The files with weights, and the tensors in them, one at a time.

    Raises:
        UsageError: there are none, or two forms of them; they are pickled, or damaged.
    """
    forms = [name for name in (FILE, DENSE, INDEX) if (folder / name).is_file()]
    if FILE in forms[:1] and len(forms) > 1:
        raise UsageError(
            f"{folder} holds {forms[0]} and {forms[1]}, which may be two models; remove one"
        )
    if (folder / FILE).is_file():
        return [folder / FILE], read(folder / FILE)
    if (folder / DENSE).is_file():
        return [folder / DENSE], _dense(folder / DENSE, None)
    if (folder / INDEX).is_file():
        files = shards(folder / INDEX)
        return list(files), (pair for file in files.items() for pair in _dense(*file))
    pickled = [path.name for pattern in PICKLED for path in sorted(folder.glob(pattern))]
    if pickled:
        raise UsageError(
            f"the weights in {folder} are pickled ({pickled[0]}), and such a file can run any "
            "code; convert it to safetensors, as by from_pretrained and save_pretrained"
        )
    raise UsageError(
        f"the folder {folder} has no weights, for {FILE}, {DENSE} and {INDEX} are missing; give a "
        "whole checkpoint"
    )


def shards(index: Path) -> dict[Path, list[str]]:
    """The files that an index names, and which tensors each is to hold.

    Raises:
        UsageError: it is damaged, or names other files than safetensors beside it.
    """
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards: dict[Path, list[str]] = {}
        for name, file in places.items():
            if Path(file).name != file or not file.endswith(".safetensors"):
                raise ValueError(f"{file!r} is no safetensors file beside it")
            shards.setdefault(index.with_name(file), []).append(name)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{index} is damaged ({error!r}); save the model again") from error
    return shards


def _dense(path: Path, names: list[str] | None) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a file as they are: those named, or all."""
    try:
        with safe_open(path, "pt") as file:
            for name in file.keys() if names is None else names:
                yield name, file.get_tensor(name)
    except (SafetensorError, OSError, RuntimeError) as error:  # torch lacks some dtypes
        raise UsageError(
            f"{path} cannot be read ({error}); save the model again, or fetch the file anew"
        ) from error
