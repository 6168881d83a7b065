"""Models as Transformers checkpoint folders: saved small, loaded fast, exported."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import safe_open
from torch import Tensor, nn

from prunella.bitmask import Coded, decode
from prunella.errors import Unsaved, UsageError
from prunella.runtime import files
from prunella.runtime.encoder import fuse
from prunella.runtime.engine import variant
from prunella.runtime.linear import WORTH, linears, replace, sparsify

Engine = Literal["sparse", "dense"]
Format = Literal["sparse", "dense", "onnx"]

DENSE = "model.safetensors"
ONNX = "model.onnx"
# Options of from_pretrained that are of the loading, and not of the config.
_LOADING = ("dtype", "ignore_mismatched_sizes", "output_loading_info")
INDEX = "model.safetensors.index.json"  # in which of several files each tensor is
WEIGHTS = (files.FILE, DENSE, INDEX, ONNX)
# What a checkpoint folder holds besides weights and config.json: the tokenizer's files.
COMPANIONS = (
    "*tokenizer*",
    "*vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
    "chat_template*",
    "preprocessor_config.json",
    "processor_config.json",
)


def save(model: nn.Module, folder: str | Path, *, tokenizer: Any = None) -> None:
    """Save a model as a Transformers checkpoint whose sparse matrices are coded.

    A matrix takes one bit a weight and its non-zero values; every bit pattern comes back, so -0.0
    counts as a value. Files are written aside and put in place one by one, the weights last.

    Args:
        model: any model of Transformers; who made its zeros does not matter.
        folder: made if need be; weights of another form in it are removed.
        tokenizer: saved along.

    Raises:
        UsageError: it is not a model of Transformers.
        Unsaved: the folder cannot be written to.
    """
    _check_model(model)
    with _aside(Path(folder)) as aside:
        _save_dense(model, aside, tokenizer)
        with safe_open(aside / DENSE, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            files.write(tensors, aside / files.FILE)
        (aside / DENSE).unlink()
    _warn_of_negative_zeros(tensors)


def load(folder: str | Path, engine: Engine = "sparse") -> Any:
    """Load a checkpoint folder, sparse or dense, with the head that it was saved with.

    Args:
        folder: as ``prunella.save`` or Transformers' ``save_pretrained`` wrote it.
        engine: ``sparse`` multiplies with the non-zero weights alone, for inference in float32 on
            the CPU; ``dense`` is Transformers' own model, for training and everything else.

    Returns:
        a Transformers model in evaluation mode.

    Raises:
        UsageError: no checkpoint, of an unknown architecture, damaged, or of a newer version.
    """
    folder = Path(folder)
    if engine not in get_args(Engine):
        raise UsageError(f"engine is {engine!r}; it must be one of {', '.join(get_args(Engine))}")
    config, architecture = _architecture(folder)
    if not any((folder / name).is_file() for name in (files.FILE, DENSE, INDEX)):
        raise UsageError(
            f"{folder} has neither {files.FILE} nor {DENSE}; give a folder that prunella.save or "
            "save_pretrained wrote"
        )
    if engine == "dense":
        return _whole(architecture, folder)
    model = None
    if (folder / files.FILE).is_file() and variant() is not None:
        model = _assemble(architecture, config, folder)
    if model is None:
        model = sparsify(_whole(architecture, folder))
    fuse(model)
    return model


def from_pretrained(architecture: Any, source: str | Path, **options: Any) -> Any:
    """Transformers' ``from_pretrained`` of a model class, which reads the sparse form as well.

    Args:
        architecture: the class, such as ``AutoModelForSequenceClassification``.
        source: a folder, or a name on the hub.
        options: as Transformers takes them.

    Raises:
        UsageError: the sparse file is damaged.
    """
    path = Path(source) / files.FILE
    if not path.is_file():
        return architecture.from_pretrained(source, **options)
    from transformers import AutoConfig

    loading = {n: options.pop(n) for n in list(options) if n in _LOADING}
    config = AutoConfig.from_pretrained(source, **options)
    if hasattr(architecture, "from_config"):  # only a model's own class takes given tensors
        with torch.device("meta"):
            architecture = type(architecture.from_config(config))
    state = {n: decode(t) if isinstance(t, Coded) else t for n, t in files.read(path)}
    loaded = architecture.from_pretrained(None, config=config, state_dict=state, **loading)
    _generation(loaded[0] if isinstance(loaded, tuple) else loaded, Path(source))
    return loaded


def export(source: str | Path, target: str | Path, format: Format) -> None:
    """Write a checkpoint in another form, its tokenizer along.

    Args:
        source: a checkpoint folder, sparse or dense.
        target: another folder.
        format: ``sparse``, ``dense`` (Transformers' own files) or ``onnx`` (``model.onnx``, run
            once in onnxruntime and compared).

    Raises:
        UsageError: see ``load``; the two folders are the same; the model cannot be exported.
        Unsaved: the target cannot be written to.
    """
    source, target = Path(source), Path(target)
    if format not in get_args(Format):
        raise UsageError(f"format is {format!r}; it must be one of {', '.join(get_args(Format))}")
    if target.resolve() == source.resolve():
        raise UsageError(f"{target} would be written over itself; export to another folder")
    model = load(source, "dense")
    if format == "sparse":
        save(model, target)
    with _aside(target) as aside:
        if format == "dense":
            _save_dense(model, aside, None)
        elif format == "onnx":
            from prunella.runtime.onnx import export_onnx

            model.config.save_pretrained(aside)
            export_onnx(model, aside / ONNX, tokenizer=_tokenizer(source))
        for pattern in COMPANIONS:
            for path in source.glob(pattern):
                if path.is_file() and path.name not in WEIGHTS:
                    shutil.copy2(path, aside / path.name)


def size(folder: str | Path) -> int:
    """Bytes of a checkpoint's files of weights."""
    return sum(
        path.stat().st_size
        for path in Path(folder).iterdir()
        if path.suffix == ".safetensors" or path.name == ONNX
    )


def _tokenizer(folder: Path) -> Any:
    """A folder's tokenizer; None where it has none."""
    from transformers import AutoTokenizer

    if not any(folder.glob("*tokenizer*")):
        return None
    return AutoTokenizer.from_pretrained(folder)


# --- writing -------------------------------------------------------------------------------------


def _check_model(model: nn.Module) -> None:
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise UsageError(
            f"{type(model).__name__} is not a model of Transformers, whose config a checkpoint "
            "needs; save its tensors with prunella.runtime.files.write(model.state_dict(), PATH)"
        )


def _warn_of_negative_zeros(tensors: Mapping[str, Tensor]) -> None:
    """Tell who zeroed weights with a product why the file is so large."""
    matrices = [t for t in tensors.values() if t.ndim == 2 and t.is_floating_point()]
    count = sum(int(((m == 0) & m.signbit()).sum()) for m in matrices)
    if count > 0.01 * sum(m.numel() for m in matrices):
        warnings.warn(
            f"{count:,} weights are -0.0, as products with a mask leave them, and take as much "
            "room as others; add 0.0 to every weight before saving, and they are zeros",
            stacklevel=3,
        )


def _save_dense(model: Any, folder: Path, tokenizer: Any) -> None:
    model.save_pretrained(folder, max_shard_size="100TB")
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A folder to write to, whose files are then put into another one, the weights last."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished-") as name:
            aside = Path(name)
            yield aside
            written = {path.name for path in aside.iterdir()}
            for name in sorted(written, key=lambda name: name in WEIGHTS):
                with (aside / name).open("rb") as file:
                    os.fsync(file.fileno())
                os.replace(aside / name, folder / name)
            if not written.isdisjoint(WEIGHTS):
                for name in set(WEIGHTS) - written:
                    (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise Unsaved(f"{folder} cannot be written to: {error}") from error


# --- reading -------------------------------------------------------------------------------------


def _architecture(folder: Path) -> tuple[Any, Any]:
    """Config and class of the model in a folder."""
    import transformers

    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} has no config.json; give a Transformers checkpoint folder")
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{folder / 'config.json'} cannot be used: {error}") from error
    names = config.architectures or []
    architecture = getattr(transformers, names[0], None) if names else None
    if architecture is None:
        raise UsageError(
            f"config.json of {folder} names the architectures {names}, none of which this version "
            "of Transformers has; save the model with save_pretrained, or update Transformers"
        )
    return config, architecture


def _whole(architecture: Any, folder: Path) -> Any:
    """The dense model, none of whose weights Transformers had to make up."""
    try:
        model, report = from_pretrained(architecture, folder, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"the model in {folder} cannot be loaded: {error}") from error
    if report["missing_keys"]:
        raise UsageError(
            f"the weights in {folder} lack {sorted(report['missing_keys'])[0]} of "
            f"{architecture.__name__}; save the model again"
        )
    return model.eval()


def _assemble(architecture: Any, config: Any, folder: Path) -> Any:
    """The model with sparse layers from the start: no dense matrix is ever made.

    None where names in the file are not those of the model's parameters, as Transformers can
    rename some while loading.
    """
    from transformers.initialization import no_init_weights

    tensors = dict(files.read(folder / files.FILE))
    with no_init_weights():
        model = architecture(config)
    model.tie_weights()
    layers = linears(model)
    sparse = {
        name: tensor
        for name, tensor in tensors.items()
        if isinstance(tensor, Coded)
        and name.removesuffix(".weight") in layers
        and tensor.values.numel() <= (1 - WORTH) * tensor.count
    }
    state = {
        name: (decode(tensor) if isinstance(tensor, Coded) else tensor)
        for name, tensor in tensors.items()
        if name not in sparse
    }
    report = model.load_state_dict(state, strict=False, assign=True)
    missing = set(report.missing_keys)
    if report.unexpected_keys or not missing <= sparse.keys() | model.all_tied_weights_keys.keys():
        return None
    model.tie_weights(missing_keys=missing)
    replace(model, {name.removesuffix(".weight"): tensor for name, tensor in sparse.items()})
    _generation(model, folder)
    return model.eval().float().requires_grad_(False)


def _generation(model: Any, folder: Path) -> None:
    from transformers import GenerationConfig

    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
