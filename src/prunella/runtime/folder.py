"""The weights in a Transformers checkpoint folder, of whatever form."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from prunella.bitmask import Coded, decode
from prunella.errors import UsageError
from prunella.prunable import find_prunable, named_parameters, unwrap
from prunella.runtime import compressed
from prunella.runtime.conversion import Conversions
from prunella.runtime.files import FILE, read
from prunella.runtime.forms import (
    CODINGS,
    CONFIG,
    DENSE,
    INDEX,
    ONNX,
    PICKLED,
    SHARDS,
    check_coding,
    is_coded,
    refuse,
    settings,
)

# Forms of a model's weights, as patterns: one replaces the others.
WEIGHTS = (FILE, DENSE, INDEX, SHARDS, ONNX, "pytorch_model*.bin*")
# What is needed of a model on the hub to know its weights.
_FETCHED = (CONFIG, "generation_config.json", FILE, DENSE, INDEX, SHARDS)
# What of it is no use beside them.
_LEFT = (*PICKLED, "*.h5", "*.msgpack", "*.ot", "*.gguf", "*.onnx", "onnx/*", "openvino/*")


def fetched(source: str | Path, whole: bool = False) -> Path:
    """A checkpoint folder as given, or the hub's model of that name: its config and weights.

    Args:
        whole: whether what lies beside the weights is wanted too, such as a tokenizer.

    Raises:
        UsageError: it is neither, or the hub cannot be reached and holds nothing in the cache.
    """
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    wanted: dict[str, Any] = (
        {"ignore_patterns": list(_LEFT)} if whole else {"allow_patterns": list(_FETCHED)}
    )
    try:
        return Path(snapshot_download(str(source), **wanted))
    except Exception as error:  # of its own, of its HTTP library, of the disk
        raise UsageError(
            f"there is no folder {source}, nor can it be had from the hub ({first_sentence(error)})"
            "; give the folder of a saved model, or a hub name and a network"
        ) from error


def described(folder: Path, trusted: bool = False) -> tuple[Any, Any]:
    """Config and class of the model in a folder; of how weights are coded the config says nothing.

    Args:
        trusted: whether code that comes with it may be run.

    Raises:
        UsageError: there is no config, Transformers does not know the model, or it comes with code
            of its own.
    """
    # Imported here, so that a wrong folder need not wait for it.
    import transformers

    check_config(folder)
    try:
        # Code that comes with a checkpoint is not run unasked.
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trusted)
        names = config.architectures or [None]
        known = getattr(transformers, str(names[0]), None)
        if known is None and trusted:
            known = _brought(config, str(names[0]), folder)
    except Exception as error:  # broken files make the loaders raise almost anything
        _refuse_code(folder, trusted)
        raise UsageError(f"{folder / CONFIG} cannot be used: {first_sentence(error)}") from error
    if not (isinstance(known, type) and issubclass(known, transformers.PreTrainedModel)):
        _refuse_code(folder, trusted)
        raise UsageError(
            f"{folder / CONFIG} names the architecture {names[0]!r}, which this version of "
            "Transformers does not have; save the model with save_pretrained, or update it"
        )
    for key in CODINGS:
        vars(config).pop(key, None)
    return config, known


def _brought(config: Any, name: str, folder: Path) -> Any:
    """The class of that name in the code that comes with a checkpoint; None where there is none."""
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    brought = (getattr(config, "auto_map", None) or {}).values()
    found = (where for where in brought if isinstance(where, str) and where.endswith(f".{name}"))
    return next((get_class_from_dynamic_module(where, str(folder)) for where in found), None)


def _refuse_code(folder: Path, trusted: bool) -> None:
    """Raise UsageError where a checkpoint that cannot be loaded comes with code of its own."""
    try:
        brought = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("auto_map")
        places = {str(where).partition("--")[2] or str(where) for where in brought.values()}
    except (OSError, ValueError, AttributeError):  # it comes with none, or is no config at all
        return
    if not trusted:
        code = ", ".join(sorted({f"{place.rpartition('.')[0]}.py" for place in places}))
        raise UsageError(
            f"the model in {folder} needs code that comes with it ({code}), and such code is not "
            "run unasked; read it, then give trust_remote_code=True to prunella.load"
        )


def check_config(folder: Path) -> None:
    """Raise UsageError where a folder has no config, or holds its weights in a form not read."""
    refuse(folder)
    if not (folder / CONFIG).is_file():
        raise UsageError(f"{folder} has no {CONFIG}; give a Transformers checkpoint folder")


def first_sentence(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()).partition(". ")[0]


class Names:
    """A model's parameters by any name a checkpoint may give them.

    It may name a tied parameter by any of its names, have or lack the prefix of the model without
    its head, call the parameters of a layer norm gamma and beta, and have what is one parameter in
    several tensors.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self._first = {id(parameter): name for name, parameter in named_parameters(model)}
        self._every = dict(named_parameters(model, remove_duplicate=False))
        self._prefix = f"{getattr(model, 'base_model_prefix', '')}."
        self._conversions = Conversions(model)

    def find(self, name: str, shape: tuple[int, ...]) -> str | None:
        """The name in the model, the first of a tied one's; None where it has nothing such."""
        new = re.sub("LayerNorm.beta$", "LayerNorm.bias", name)
        new = re.sub("LayerNorm.gamma$", "LayerNorm.weight", new)
        known, rule = self._conversions.renamed(name)
        for alias in (name, *self._with_prefix(new), *self._with_prefix(known)):
            if alias in self._every and (rule or tuple(self._every[alias].shape) == shape):
                return self._first[id(self._every[alias])]
        return None

    def _with_prefix(self, name: str) -> tuple[str, ...]:
        return name, f"{self._prefix}{name}", name.removeprefix(self._prefix)

    def is_part(self, name: str) -> bool:
        """Whether a tensor of that name is laid out otherwise than the parameter it is of."""
        return name not in self._every and self._conversions.renamed(name)[1] is not None

    def assembled(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parameters by name, of such tensors or of masks of them; None that lacks a part."""
        every = self._conversions.converted(parts)
        found = ((self.find(name, tuple(tensor.shape)), tensor) for name, tensor in every.items())
        return {name: tensor for name, tensor in found if name is not None}


def masks_from(
    source: str | Path,
    model: nn.Module,
    parameters: Sequence[str] | None = None,
    include_biases: bool = False,
    include_embeddings: bool = False,
) -> dict[str, Tensor]:
    """Masks of a model that was pruned before, by whatever tool: what is not zero there is kept.

    They go into ``Pruner(..., masks=...)``, which holds them and prunes on from there.

    Args:
        source: a checkpoint folder, dense or sparse, or a name on the hub.
        model: the model that is to be pruned; its head may be another.
        parameters, include_biases, include_embeddings: as of the pruner.

    Returns:
        name -> bool tensor, True = kept, for every parameter that the pruner prunes.

    Raises:
        UsageError: no checkpoint, a damaged one or one of another model; nothing in it is zero.
    """
    folder, model = fetched(source), unwrap(model)
    prunable, _ = find_prunable(model, parameters, include_biases, include_embeddings)
    names = Names(model)
    masks: dict[str, Tensor] = {}
    parts: dict[str, Tensor] = {}
    for name, tensor in opened(folder)[1]:
        known = names.find(name, tuple(tensor.shape))
        if known in prunable:
            mask = (decode(tensor) if isinstance(tensor, Coded) else tensor) != 0
            if names.is_part(name):
                parts[name] = mask
            else:
                masks[known] = mask
    masks |= {name: mask for name, mask in names.assembled(parts).items() if name in prunable}
    missing = [name for name in prunable if name not in masks]
    if missing:
        raise UsageError(
            f"{folder} lacks {missing[0]} and {len(missing) - 1} more of the weights to prune in "
            f"{type(model).__name__}, or has them in another shape; give a checkpoint of that model"
        )
    if all(bool(mask.all()) for mask in masks.values()):
        raise UsageError(
            f"no weight to prune is zero in {folder}, so there are no masks to start from; give a "
            "pruned model"
        )
    return masks


def opened(folder: Path) -> tuple[list[Path], Iterator[tuple[str, Tensor | Coded]]]:
    """The files with weights, and the tensors in them, one at a time.

    Those that compressed-tensors has coded as bits and values (its ``sparse-bitmask``) come coded.

    Raises:
        UsageError: there are none, or two forms of them; they are in a form that is not read, or
            damaged.
    """
    forms = [name for name in (FILE, DENSE, INDEX) if (folder / name).is_file()]
    if FILE in forms[:1] and len(forms) > 1:
        raise UsageError(
            f"{folder} holds {forms[0]} and {forms[1]}, which may be two models; remove one"
        )
    if FILE not in forms:
        check_coding(folder, settings(folder), stored_names(folder))
    if not forms:
        refuse(folder)
        raise UsageError(
            f"the folder {folder} has no weights, for {FILE}, {DENSE} and {INDEX} are missing; "
            "give a whole checkpoint"
        )
    if forms[0] == FILE:
        return [folder / FILE], read(folder / FILE)
    files = shards(folder / INDEX) if forms[0] == INDEX else {folder / DENSE: None}
    return list(files), _tensors(files)


def needs_decoding(folder: Path) -> bool:
    """Whether Transformers alone cannot read a folder's weights, and ``opened`` may.

    Raises:
        UsageError: some of its files are missing, or hold weights in a form that is not read; to
            Transformers these are numbers like all others, and what they lack of them is surplus.
    """
    if (folder / FILE).is_file() or is_coded(settings(folder)):
        return True
    try:
        names = stored_names(folder)
    except UsageError as error:
        if isinstance(error.__cause__, SafetensorError):  # damaged: let Transformers say so
            return False
        raise
    check_coding(folder, {}, names)
    return any(name.endswith(".bitmask") for name in names)


def stored_names(folder: Path) -> list[str]:
    """Names of what a folder's safetensors files hold, none of it read; none where there are none.

    Raises:
        UsageError: a file is damaged or missing.
    """
    if (folder / DENSE).is_file():
        with _reading(folder / DENSE), safe_open(folder / DENSE, "pt") as file:
            return list(file.keys())
    if (folder / INDEX).is_file():
        return [name for names in shards(folder / INDEX).values() for name in names]
    return []


def shards(index: Path) -> dict[Path, list[str]]:
    """The files that an index names, and which tensors each is to hold.

    Raises:
        UsageError: it is damaged, names other files than safetensors beside it, or some of these
            are missing.
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
    missing = [path.name for path in shards if not path.is_file()]
    if missing:
        raise UsageError(
            f"{index.parent} lacks {missing[0]}, and {len(missing)} of its {len(shards)} files of "
            "weights in all; fetch what is missing"
        )
    return shards


def _tensors(
    files: Mapping[Path, list[str]] | Mapping[Path, None],
) -> Iterator[tuple[str, Tensor | Coded]]:
    """Tensors of safetensors files: those named, or all; the parts of a coded one together."""
    with ExitStack() as stack:
        places: dict[str, tuple[Path, Any]] = {}
        for path, names in files.items():
            with _reading(path):
                file = stack.enter_context(safe_open(path, "pt"))
                places |= dict.fromkeys(file.keys() if names is None else names, (path, file))
        coded = {name.removesuffix(".bitmask") for name in places if name.endswith(".bitmask")}

        def get(name: str) -> Tensor:
            path, file = places.get(name, (next(iter(files)), None))
            if file is None:
                raise UsageError(f"{path} is damaged, for it lacks {name}; fetch the file anew")
            with _reading(path):
                return file.get_tensor(name)

        for name in places:
            module, _, part = name.rpartition(".")
            if module not in coded or part not in compressed.PARTS:
                yield name, get(name)
            elif part == "bitmask":
                yield f"{module}.weight", compressed.coded(module, get)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError, RuntimeError) as error:  # torch lacks some dtypes
        raise UsageError(
            f"{path} cannot be read ({error}); save the model again, or fetch the file anew"
        ) from error
