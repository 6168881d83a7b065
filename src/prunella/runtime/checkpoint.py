"""Models as Transformers checkpoint folders: saved small, loaded fast, exported."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from prunella.adapters import layers_of
from prunella.bitmask import Coded, can_code, decode
from prunella.errors import Unsaved, UsageError
from prunella.prunable import Count, few, find_prunable, named_parameters, unwrap
from prunella.runfiles import OF_RUN, RESULT
from prunella.runtime import files
from prunella.runtime.companions import companions, copy_along, is_weights
from prunella.runtime.encoder import fuse
from prunella.runtime.engine import variant
from prunella.runtime.folder import (
    check_config,
    described,
    fetched,
    needs_decoding,
    opened,
)
from prunella.runtime.forms import (
    CODINGS,
    CONFIG,
    DENSE,
    ONNX,
    check_coding,
    is_coded,
    refuse,
    settings,
)
from prunella.runtime.linear import WORTH, places, replace, sparsify
from prunella.sharding import nonzeros

logger = logging.getLogger("prunella")

Engine = Literal["sparse", "dense"]
Format = Literal["sparse", "dense", "onnx"]

# Options of from_pretrained that are of the loading, and not of the config.
_LOADING = ("dtype", "ignore_mismatched_sizes", "output_loading_info", "key_mapping")


def save(
    model: nn.Module, folder: str | Path, *, tokenizer: Any = None, overwrite: bool = False
) -> Count:
    """Save a model as a Transformers checkpoint whose sparse matrices are coded.

    A matrix takes one bit a weight and its non-zero values; every bit pattern comes back, so -0.0
    counts as a value. Files are written aside and put in place one by one, the weights last.

    Args:
        model: any model of Transformers, wrapped or not; who made its zeros does not matter.
        folder: made if need be; weights of the same model in it, of whatever form, are replaced.
        tokenizer: saved along.
        overwrite: replace another model's weights too, or those that the result of a run is about.

    Returns:
        what was saved of the weights that a pruner prunes by default, of all matrices where it
        would find none; the log is warned where hardly one of them is zero.

    Raises:
        UsageError: it is not a model of Transformers, adapters lie over its weights, or the folder
            holds another model.
        Unsaved: the folder cannot be written to.
    """
    model = unwrap(model)
    _check_model(model)
    if not overwrite:
        _check_place(Path(folder), model)
    count = _count(model)
    if count.total - count.nonzero <= few(count.total):
        logger.warning(
            "%d of %d prunable weights are zero, so %s is no smaller than a dense checkpoint; was "
            "it an average or a copy that was to be saved, Pruner.apply_to(MODEL) gives it zeros",
            count.total - count.nonzero,
            count.total,
            folder,
        )
    with _aside(Path(folder)) as aside:
        _save_dense(model, aside, tokenizer)
        with safe_open(aside / DENSE, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            files.write(tensors, aside / files.FILE)
            _warn_of_negative_zeros(tensors)
        (aside / DENSE).unlink()
    return count


def load(folder: str | Path, engine: Engine = "sparse", trust_remote_code: bool = False) -> Any:
    """Load a checkpoint folder, sparse or dense, with the head that it was saved with.

    Args:
        folder: as ``prunella.save`` or Transformers' ``save_pretrained`` wrote it.
        engine: ``sparse`` multiplies with the non-zero weights alone, for inference in float32 on
            the CPU; ``dense`` is Transformers' own model, for training and everything else.
        trust_remote_code: run Python code that comes with the checkpoint, where it needs such. It
            can do all that you can; read it before.

    Returns:
        a Transformers model in evaluation mode.

    Raises:
        UsageError: no checkpoint, of an unknown architecture, damaged, or of a newer version.
    """
    folder = Path(folder)
    if engine not in get_args(Engine):
        raise UsageError(f"engine is {engine!r}; it must be one of {', '.join(get_args(Engine))}")
    config, architecture = described(folder, trust_remote_code)
    opened(folder)  # refuses what cannot be read safely
    if engine == "dense":
        return _whole(architecture, folder, trust_remote_code)
    model = None
    if (folder / files.FILE).is_file() and variant() is not None:
        model = _assemble(architecture, config, folder)
    if model is None:
        model = sparsify(_whole(architecture, folder, trust_remote_code))
    fuse(model)
    return model


def from_pretrained(architecture: Any, source: str | Path, **options: Any) -> Any:
    """Transformers' ``from_pretrained`` of a model class, which reads sparse forms as well.

    Args:
        architecture: the class, such as ``AutoModelForSequenceClassification``.
        source: a folder, or a name on the hub.
        options: as Transformers takes them.

    Raises:
        UsageError: the weights are damaged, or in a form that is not read.
    """
    folder = _decoded(source)
    if folder is None:
        return architecture.from_pretrained(source, **options)
    from transformers import AutoConfig

    loading = {n: options.pop(n) for n in list(options) if n in _LOADING}
    trusted = options.pop("trust_remote_code", False)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trusted, **options)
    for key in CODINGS:
        vars(config).pop(key, None)
    if hasattr(architecture, "from_config"):  # only a model's own class takes given tensors
        with torch.device("meta"):
            architecture = type(architecture.from_config(config, trust_remote_code=trusted))
    state = {n: decode(t) if isinstance(t, Coded) else t for n, t in opened(folder)[1]}
    loaded = architecture.from_pretrained(None, config=config, state_dict=state, **loading)
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    model.config.name_or_path = str(source)
    _generation(model, folder)
    return loaded


def _decoded(source: str | Path) -> Path | None:
    """The folder of a checkpoint that Transformers does not read by itself; None where it does.

    Raises:
        UsageError: nor do we.
    """
    folder = Path(source)
    if folder.is_dir():
        refuse(folder, pickled=True)
        return folder if needs_decoding(folder) else None
    from transformers import PreTrainedConfig
    from transformers.utils import cached_file

    config, _ = PreTrainedConfig.get_config_dict(str(source))
    check_coding(source, config)
    # Without a network what is in the cache will do.
    quietly = dict.fromkeys(
        (
            "_raise_exceptions_for_missing_entries",
            "_raise_exceptions_for_connection_errors",
            "_raise_exceptions_for_gated_repo",
        ),
        False,
    )
    if is_coded(config) or cached_file(str(source), files.FILE, **quietly) is not None:
        return fetched(source)
    return None


def export(
    source: str | Path, target: str | Path, format: Format, *, overwrite: bool = False
) -> None:
    """Write a checkpoint in another form; tensors are the same to the bit.

    All that lies beside the weights goes along, but for what tells of a run and hidden files.

    Args:
        source: a checkpoint folder, sparse or dense, or a name on the hub.
        target: another folder.
        format: ``sparse``, ``dense`` (Transformers' own file) or ``onnx`` (``model.onnx``, run
            once in onnxruntime and compared).
        overwrite: replace weights and files of the same names in the target; all else there stays.

    Raises:
        UsageError: see ``load``; the two folders are the same, or something in the target would be
            lost; the model cannot be exported.
        Unsaved: the target cannot be written to.
    """
    if format not in get_args(Format):
        raise UsageError(f"format is {format!r}; it must be one of {', '.join(get_args(Format))}")
    source, target = fetched(source, whole=True), Path(target)
    if target.resolve() == source.resolve():
        raise UsageError(f"{target} would be written over itself; export to another folder")
    check_config(source)
    _, stored = opened(source)
    inside = target.resolve().is_relative_to
    along = [path for path in companions(source) if not inside(path.resolve())]
    if not overwrite:
        _check_target(target, {path.name for path in along})
    with _aside(target) as aside:
        if format == "onnx":
            from prunella.runtime.onnx import export_onnx

            export_onnx(load(source, "dense"), aside / ONNX, tokenizer=_tokenizer(source))
        else:
            tensors = {n: decode(t) if isinstance(t, Coded) else t for n, t in stored}
            if format == "sparse":
                files.write(tensors, aside / files.FILE)
                _warn_of_negative_zeros(tensors)
            else:
                save_file(tensors, aside / DENSE, {"format": "pt"})
        copy_along(along, aside)


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
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # broken files make the loaders raise almost anything
        raise UsageError(f"the tokenizer in {folder} cannot be loaded: {error}") from error


# --- writing -------------------------------------------------------------------------------------


def _count(model: nn.Module) -> Count:
    parameters = dict(named_parameters(model))
    try:
        names = list(find_prunable(model, trained=False)[0])
    except UsageError:
        names = [name for name, parameter in parameters.items() if parameter.ndim > 1]
    kept = sum(nonzeros(parameters[name]) for name in names)
    return Count(kept, sum(parameters[name].numel() for name in names))


def _check_model(model: nn.Module) -> None:
    from transformers import PreTrainedModel

    if layers_of(model):
        raise UsageError(
            f"adapters lie over the weights of {type(model).__name__}, and a checkpoint of one "
            "model has them merged; save model.merge_and_unload()"
        )
    if not isinstance(model, PreTrainedModel):
        raise UsageError(
            f"{type(model).__name__} is not a model of Transformers, whose config a checkpoint "
            "needs; save its tensors with prunella.runtime.files.write(model.state_dict(), PATH)"
        )
    masked = [name for name in model.state_dict() if name.endswith("weight_mask")]
    if masked:
        raise UsageError(
            f"{masked[0]} lies over a weight, as torch.nn.utils.prune puts it; make masks "
            "permanent first, with torch.nn.utils.prune.remove"
        )


def _warn_of_negative_zeros(tensors: Mapping[str, Tensor]) -> None:
    """Tell who zeroed weights with a product why the file is so large."""
    matrices = [t for t in tensors.values() if t.ndim > 1 and can_code(t.dtype)]
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


def _check_place(folder: Path, model: Any) -> None:
    """Raise UsageError where a folder holds another model than this one, or a run's result."""
    held = [path.name for path in _inside(folder) if is_weights(path)]
    there = _outline(settings(folder))
    here = _outline({**model.config.to_dict(), "architectures": [type(model).__name__]})
    # Versions of Transformers differ in what they write.
    if held and any(there[key] != here[key] for key in there.keys() & here.keys()):
        raise UsageError(
            f"{folder} holds another model ({held[0]}), which would be lost; save to another "
            "folder, or replace it with overwrite=True"
        )
    if (folder / RESULT).exists():
        raise UsageError(
            f"{folder} holds the result of a run, which would then tell of another model; save to "
            "another folder, or replace it with overwrite=True"
        )


def _outline(config: Mapping[str, Any]) -> dict[str, Any]:
    """By what two models are told apart: their class, their sizes and how many labels they know."""
    sizes = {
        name: value
        for name, value in config.items()
        if type(value) is int and not name.endswith(("_id", "_ids"))
    }
    labels = len(config.get("id2label") or {}) or 2  # as it is where none are named
    return {**sizes, "architectures": config.get("architectures"), "id2label": labels}


def _check_target(target: Path, names: Collection[str]) -> None:
    """Raise UsageError where an export would replace something."""
    lost = [p.name for p in _inside(target) if is_weights(p) or p.name in {*names, *OF_RUN}]
    if lost:
        raise UsageError(
            f"{target} holds {min(lost)}, which the export would replace; name another folder, or "
            "replace it with --overwrite (in code overwrite=True)"
        )


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A folder to write to, whose files are then put into another one, the weights last."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished-") as name:
            aside = Path(name)
            yield aside
            written = {path.name for path in aside.iterdir()}
            files.sync(*aside.rglob("*"))
            for path in sorted(aside.iterdir(), key=is_weights):
                old = folder / path.name
                if old.is_dir() and not old.is_symlink():
                    shutil.rmtree(old)
                elif path.is_dir():
                    old.unlink(missing_ok=True)
                os.replace(path, old)
            for path in folder.iterdir():
                # A result would tell of weights that are gone.
                if (is_weights(path) or path.name in OF_RUN) and path.name not in written:
                    path.unlink()
    except OSError as error:
        raise Unsaved(f"{folder} cannot be written to: {error}") from error


# --- reading -------------------------------------------------------------------------------------


def _whole(architecture: Any, folder: Path, trusted: bool) -> Any:
    """The dense model, none of whose weights Transformers had to make up."""
    try:
        model, report = from_pretrained(
            architecture, folder, output_loading_info=True, trust_remote_code=trusted
        )
    except UsageError:
        raise
    except Exception as error:  # as above
        raise UsageError(f"the model in {folder} cannot be loaded: {error}") from error
    # A sparse file was written from this very class, so that nothing can be left over.
    left = report["unexpected_keys"] if (folder / files.FILE).is_file() else ()
    for odd, what in ((report["missing_keys"], "lack"), (left, "have more than fits:")):
        if odd:
            raise UsageError(
                f"the weights in {folder} {what} {min(odd)} of {architecture.__name__}; give the "
                "config that the model was saved with"
            )
    return model.eval()


def _assemble(architecture: Any, config: Any, folder: Path) -> Any:
    """The model with sparse layers from the start: no dense matrix is ever made.

    None where names in the file are not those of the model's parameters, as Transformers can
    rename some while loading.
    """
    from transformers.initialization import no_init_weights

    tensors = dict(files.read(folder / files.FILE))
    try:
        with no_init_weights():
            model = architecture(config)
        model.tie_weights()
    except Exception as error:  # as above
        raise UsageError(f"{folder / CONFIG} cannot be used: {error}") from error
    known = places(model)
    sparse = {
        name: tensor
        for name, tensor in tensors.items()
        if isinstance(tensor, Coded)
        and name in known
        and tensor.values.numel() <= (1 - WORTH) * tensor.count
    }
    state = {
        name: (decode(tensor) if isinstance(tensor, Coded) else tensor)
        for name, tensor in tensors.items()
        if name not in sparse
    }
    try:
        report = model.load_state_dict(state, strict=False, assign=True)
    except RuntimeError as error:
        raise UsageError(f"the weights in {folder} do not fit its {CONFIG}: {error}") from error
    missing = set(report.missing_keys)
    if report.unexpected_keys or not missing <= sparse.keys() | model.all_tied_weights_keys.keys():
        return None
    model.tie_weights(missing_keys=missing)
    model.eval().float().requires_grad_(False)
    replace(model, sparse)
    _generation(model, folder)
    return model


def _generation(model: Any, folder: Path) -> None:
    from transformers import GenerationConfig

    if (folder / "generation_config.json").is_file():
        try:
            model.generation_config = GenerationConfig.from_pretrained(folder)
        except Exception as error:  # as above
            raise UsageError(
                f"{folder / 'generation_config.json'} cannot be used: {error}"
            ) from error
