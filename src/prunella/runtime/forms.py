"""Forms of checkpoints that are not read, each known by its config or its files, and named."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunella.errors import UsageError
from prunella.runtime.files import FILE

CONFIG = "config.json"
DENSE = "model.safetensors"
INDEX = "model.safetensors.index.json"  # in which of several files each tensor is
SHARDS = "model-*-of-*.safetensors"
ONNX = "model.onnx"
PICKLED = ("pytorch_model*.bin*", "*.pt", "*.pth", "*.ckpt")
# Where config.json says how weights are coded; compressed-tensors has had all three.
CODINGS = ("quantization_config", "compression_config", "sparsity_config")
BITMASK = "sparse-bitmask"  # compressed-tensors' name for bits and kept values
_READ = (None, "dense", BITMASK)


@dataclass(frozen=True)
class Form:
    """One that is not read.

    Attributes:
        files: patterns of files that tell it.
        what: what the folder holds; ``{file}`` is the first of these files.
        remedy: how to come by what is read.
    """

    files: tuple[str, ...]
    what: str
    remedy: str


_PICKLED = Form(
    PICKLED,
    "the weights are pickled ({file}), and such a file can run any code",
    "convert it to safetensors, as by from_pretrained and save_pretrained",
)
# The first that fits is named.
FORMS = (
    Form(
        ("consolidated*.safetensors", "consolidated*.pth"),
        "the weights are in the form of the model's makers ({file}), not in Transformers'",
        "fetch model.safetensors of the same model, or convert it with Transformers' script for it",
    ),
    Form(
        (SHARDS,),
        f"there are parts of weights ({{file}}), but no {INDEX} that says what is in them",
        "fetch that file too",
    ),
    _PICKLED,
    Form(
        ("*.gguf",),
        "the weights are in llama.cpp's form GGUF ({file})",
        "give the model it was made from, or load it with from_pretrained(..., gguf_file=...) and "
        "save it with save_pretrained",
    ),
    Form(
        ("*.h5", "*.ckpt.index", "saved_model.pb"),
        "the weights are TensorFlow's ({file})",
        "convert them with Transformers 4: from_pretrained(..., from_tf=True), save_pretrained",
    ),
    Form(
        ("*.msgpack",),
        "the weights are Flax's ({file})",
        "convert them with Transformers 4: from_pretrained(..., from_flax=True), save_pretrained",
    ),
    Form(
        ("openvino*.xml", "openvino*.bin", "openvino/*.xml"),
        "the model is in OpenVINO's form ({file}), for inference alone",
        "give the Transformers folder it was exported from",
    ),
    Form(
        ("*.onnx", "onnx/*.onnx"),
        "the model is in ONNX form ({file}), for inference alone",
        "give the Transformers folder it was exported from",
    ),
    Form(
        ("*.tflite", "*.mlmodel", "*.mlpackage", "*.ot", "*.llamafile"),
        "the model is in the form of another runtime ({file})",
        "give the Transformers folder it was made from",
    ),
    Form(
        ("*.safetensors",),
        f"the weights have another name ({{file}}) than Transformers' {DENSE}",
        f"rename the file if it holds the whole model that {CONFIG} describes",
    ),
)
# Tensors that stand in the place of a weight, where no config tells of it.
_TENSORS = {
    "weight_packed": "compressed-tensors' pack-quantized",
    "weight_scale": "compressed-tensors' int-quantized or float-quantized",
    "weight_scale_inv": "8-bit floats with a scale a block",
    "qweight": "GPTQ or AWQ",
    "W_q": "HQQ",
    "SCB": "bitsandbytes (8 bits)",
    "quant_map": "bitsandbytes (4 bits)",
    "_packed_weight": "quanto",
}
_METHODS = {"gptq": "GPTQ", "awq": "AWQ", "auto-round": "AutoRound", "fp_quant": "FP-Quant"}
_UNQUANTIZED = (
    "give the model from before it was quantized, or what Transformers' model.dequantize() makes "
    "of it, saved with save_pretrained"
)


def settings(folder: Path) -> dict[str, Any]:
    """What a folder's config says; nothing where it has none, or a damaged one."""
    try:
        read = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without word of how weights were coded, for what holds them as they are."""
    return {key: value for key, value in config.items() if key not in CODINGS}


def is_coded(config: Mapping[str, Any]) -> bool:
    """Whether a config says that weights are coded, so that Transformers wants a package."""
    return any(config.get(key) for key in CODINGS)


def check_coding(name: str | Path, config: Mapping[str, Any], tensors: Iterable[str] = ()) -> None:
    """Raise UsageError where a checkpoint's weights are quantized, or coded as we do not read.

    Args:
        name: of the checkpoint, for the message.
        config: what its config.json says.
        tensors: names in its files.
    """
    said = (_coding(key, config[key]) for key in CODINGS if isinstance(config.get(key), Mapping))
    ends = {tensor.rpartition(".")[2] for tensor in tensors}
    seen = (what for end, what in _TENSORS.items() if end in ends)
    coding = next(filter(None, (*said, *seen)), None)
    # Two of four: told from the form that is read by what it lacks.
    if coding is None and {"bitmask", "compressed"} <= ends and "row_offsets" not in ends:
        coding = "compressed-tensors' sparse-24-bitmask"
    if coding is None and {"weight_orig", "weight_mask"} <= ends:
        raise UsageError(
            f"the weights of {name} are beside their masks (weight_orig, weight_mask), as "
            "torch.nn.utils.prune holds them, which is not read; multiply them by its "
            "remove(module, 'weight') for each module, and save the model again"
        )
    if coding is not None:
        raise UsageError(
            f"the weights of {name} are in the form of {coding}, which is not read; {_UNQUANTIZED}"
        )


def _coding(key: str, block: Mapping[str, Any]) -> str | None:
    """What a block of a config says of the weights; None where these are read."""
    nested = block.get("sparsity_config") or {}
    ours = key == "sparsity_config" or "sparsity_config" in block
    method = block.get("quant_method")
    if method is None and not ours:
        # Of before methods were named.
        odd = any(block.get(name) for name in ("load_in_8bit", "load_in_4bit"))
        method = "bitsandbytes" if odd else block.get("format") and "compressed-tensors"
    if block and method not in (None, "compressed-tensors"):
        return f"{_METHODS.get(method, method)} (quant_method {method!r})"
    groups = block.get("config_groups") or {}
    formats = [block.get("format"), *(each.get("format") for each in (nested, *groups.values()))]
    unread = [form for form in formats if form not in _READ]
    if unread:
        return f"compressed-tensors' {unread[0]}"
    if groups or block.get("transform_config"):
        what = "quantized weights" if groups else "transforms of weights"
        return f"compressed-tensors with {what}"
    return None if ours or method or not block else f"an unknown {key}"


def refuse(folder: Path, pickled: bool = False) -> None:
    """Raise UsageError that names what a folder holds in the place of weights that are read.

    Nothing happens where there are such weights, or nothing that is known.

    Args:
        pickled: whether pickled ones are read, as Transformers does.
    """
    if any((folder / name).is_file() for name in (FILE, DENSE, INDEX)):
        return
    if pickled and any(folder.glob("pytorch_model*.bin*")):
        return
    if (folder / "adapter_config.json").is_file():
        base = _adapted(folder / "adapter_config.json")
        raise UsageError(
            f"{folder} holds adapters alone, of the base model {base}; merge them into it "
            "(peft's PeftModel.from_pretrained and merge_and_unload), save that, and give it"
        )
    for form in FORMS:
        found = sorted(path for pattern in form.files for path in folder.glob(pattern))
        if found and not (pickled and form is _PICKLED):
            what = form.what.format(file=found[0].relative_to(folder))
            raise UsageError(f"in {folder} {what}; {form.remedy}")
    below = [*folder.glob(f"*/{CONFIG}"), *folder.glob(f"snapshots/*/{CONFIG}")]
    inner = [path.parent for path in sorted(below) if _has_weights(path)]
    if inner and not (folder / CONFIG).is_file():
        first = str(inner[0].relative_to(folder)) + f" (and {len(inner) - 1} more)" * bool(
            inner[1:]
        )
        raise UsageError(
            f"{folder} has no {CONFIG}, but its subfolder {first} is a checkpoint; give {inner[0]}"
        )


def _has_weights(config: Path) -> bool:
    patterns = ("*.safetensors", INDEX, *PICKLED)
    return any(path for pattern in patterns for path in config.parent.glob(pattern))


def _adapted(path: Path) -> str:
    """The model that adapters are of."""
    try:
        base = json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, LookupError, TypeError):
        base = None
    return str(base or "that they were trained on")
