"""One ONNX file of a Transformers model, its zeros as they are, checked in ONNX Runtime."""

from __future__ import annotations

import inspect
import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prunella.errors import UsageError
from prunella.prunable import unwrap
from prunella.runtime.files import whole
from prunella.runtime.linear import matrices_of

# The last came into Transformers with the interface that is used here.
_PACKAGES = ("onnx", "onnxruntime", "onnxscript", "transformers.exporters.runners")

LIMIT = 2**31 - 2**24  # bytes of weights, as no ONNX file passes 2 GiB, its graph included

# Sentences, tokens and target tokens of a batch. All differ in the first, which the model is
# traced with, lest two axes be taken for one.
_TRACED = (2, 8, 5)
_CHECKED = (_TRACED, (3, 13, 7), (1, 4, 1))


def export_onnx(
    model: nn.Module, path: str | Path, *, tokenizer: PreTrainedTokenizerBase | None = None
) -> float:
    """Write a model as one ONNX file that takes batches of any size and length.

    Its inputs are called as the model's ``forward`` calls them: ``input_ids``, ``attention_mask``,
    ``token_type_ids``, and ``decoder_input_ids`` for a model that generates from an encoder; its
    outputs (``logits``, ``last_hidden_state``) as the model's output calls them. The weights of
    its layers are there once each, by their names in the ``state_dict`` and equal to the bit. The
    file is whole or not there; an older one is replaced.

    Args:
        model: a Transformers model that reads text, with any head; not one that runs sparse.
        path: the file.
        tokenizer: the model's, to tell which inputs it is given; without one, it gets
            ``token_type_ids`` if it tells more than one type apart.

    Returns:
        the largest absolute difference between its outputs in ONNX Runtime and the model's own,
        over batches of several sizes, padded and not.

    Raises:
        UsageError: packages are missing, the model cannot be exported, or the file computes
            something else than it.
        Unsaved: the disk is full, or the folder is closed to us.
    """
    path = Path(path)
    model = _exportable(unwrap(model))
    if path.is_dir():
        raise UsageError(f"the ONNX file {path} is a folder; name a file")
    if not path.parent.is_dir():
        raise UsageError(f"the folder of the ONNX file {path} is not there; make it first")
    names = _input_names(model, tokenizer)
    with whole(path) as new, _at_rest(model), torch.no_grad():
        _write(new, _translate(model, names))
        return _compare(model, new, [_sample(model, names, *size) for size in _CHECKED])


def _exportable(model: nn.Module) -> PreTrainedModel:
    """The model.

    Raises:
        UsageError: packages are missing, or it is none of those that can be exported.
    """
    try:
        for package in _PACKAGES:
            import_module(package)
    except ImportError as error:
        raise UsageError(
            f"the export to ONNX needs packages that are not installed ({error}): "
            "pip install 'prunella[onnx]'"
        ) from error
    kind = type(model).__name__
    if not isinstance(model, PreTrainedModel):
        raise UsageError(
            f"the model is a {kind}, and only Transformers models are exported to ONNX; give a "
            "PreTrainedModel"
        )
    if matrices_of(model):
        raise UsageError(
            f"the {kind} runs sparse, and only dense models are exported to ONNX; load it with "
            "prunella.load(..., engine='dense')"
        )
    if "input_ids" not in inspect.signature(model.forward).parameters:
        raise UsageError(
            f"{kind} takes no input_ids, and only models that read text are exported to ONNX; "
            "give one of those"
        )
    size = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    if size > LIMIT:
        raise UsageError(
            f"the {kind} has {size / 2**30:.1f} GiB of weights, and an ONNX file holds at most 2; "
            "write it with transformers.exporters, which puts them into a second file"
        )
    return model


def _input_names(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> list[str]:
    """What a batch consists of."""
    takes = inspect.signature(model.forward).parameters
    if tokenizer is not None:
        given = set(tokenizer.model_input_names)
    else:
        # GPT-2 takes token types too, as words: none are not the same as zeros.
        given = {"attention_mask"}
        if (getattr(model.config, "type_vocab_size", None) or 0) > 1:
            given.add("token_type_ids")
    names = ["input_ids"]
    names += [name for name in ("attention_mask", "token_type_ids") if name in given & takes.keys()]
    # Classifiers and the like make the decoder's input from the encoder's.
    if "decoder_input_ids" in takes and (model.can_generate() or model.base_model is model):
        names.append("decoder_input_ids")
    return names


def _sample(
    model: PreTrainedModel, names: Sequence[str], batch: int, length: int, target: int
) -> dict[str, Tensor]:
    """Random sentences, each two tokens shorter than the one before it, padded on the right."""
    config: Any = model.config
    generator = torch.Generator().manual_seed(0)
    special = (getattr(config, name, None) for name in ("pad_token_id", "eos_token_id"))
    pad, end = (number if isinstance(number, int) else 0 for number in special)
    embeddings: Any = model.get_input_embeddings()
    words = torch.tensor([n for n in range(len(embeddings.weight)) if n not in (pad, end)])

    def draw(tokens: int) -> Tensor:
        return words[torch.randint(len(words), (batch, tokens), generator=generator)]

    last = length - 1 - 2 * torch.arange(batch)[:, None]
    place = torch.arange(length)
    # BART's classifier looks for the end of each sentence.
    ids = draw(length).where(place < last, end).where(place <= last, pad)
    types = min(2, getattr(config, "type_vocab_size", None) or 2)
    every = {
        "input_ids": ids,
        "attention_mask": (place <= last).long(),
        "token_type_ids": (place % types).expand(batch, length).contiguous(),
        "decoder_input_ids": draw(target),
    }
    return {name: every[name].to(model.device) for name in names}


@contextmanager
def _at_rest(model: PreTrainedModel) -> Iterator[None]:
    """The model in evaluation mode, keeping nothing for tokens that never follow, for a while."""
    training = [module for module in model.modules() if module.training]
    configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    caching = [c for c in configs.values() if getattr(c, "use_cache", False)]
    replaced = "forward" in vars(model)
    try:
        model.eval()
        for config in caching:
            config.use_cache = False
        yield
    finally:
        for module in training:
            module.training = True
        for config in caching:
            config.use_cache = True
        if not replaced:  # Transformers' exporter leaves one behind, which a copy would share
            vars(model).pop("forward", None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence libraries that report each step, each other's deprecations and untried versions."""
    disabled, said = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(said), redirect_stderr(said):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _translate(model: PreTrainedModel, names: Sequence[str]) -> bytes:
    """The content of a model's ONNX file.

    Raises:
        UsageError: it cannot be translated.
    """
    import onnx_ir
    from transformers.exporters import OnnxConfig, OnnxExporter

    dynamic = torch.export.Dim.DYNAMIC
    flags = {"return_dict": True, "output_attentions": False, "output_hidden_states": False}
    try:
        with _quiet():
            inputs: dict[str, Any] = {**_sample(model, names, *_TRACED), **flags}
            config = OnnxConfig(
                dynamic=True,
                dynamic_shapes={name: {0: dynamic, 1: dynamic} for name in names},
                optimize=False,  # see _tidy
            )
            exported = OnnxExporter().export(model, inputs, config=config)
            program = exported.components["model"].program
            _tidy(program, {name for name, _ in model.named_parameters(remove_duplicate=False)})
            return onnx_ir.to_proto(program).SerializeToString()
    except Exception as error:  # four libraries have their say here
        raise UsageError(
            f"{type(model).__name__} cannot be exported to ONNX ({_reason(error)}); mend "
            "that, or give a model of another architecture"
        ) from error


def _tidy(program: Any, parameters: set[str]) -> None:
    """Optimize an ONNX graph in place, and leave in it what its user is to see."""
    import onnx_ir
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass
    from onnxscript.optimizer import optimize_ir

    graph = program.graph
    # The parts of a tuple have a dot in their names: what is kept for tokens that never follow.
    graph.outputs[:] = [value for value in graph.outputs if "." not in value.name]

    def should_fold(node: Any) -> bool | None:
        # Transposed beforehand, the weights would lose their names, and shared ones be there twice.
        inputs = [value for value in node.inputs if value is not None]
        return False if any(v.is_initializer() and v.name in parameters for v in inputs) else None

    optimize_ir(program, should_fold=should_fold)
    ClearMetadataAndDocStringPass()(program)  # traces of the stack, larger than a small model
    axes: dict[str, str] = {}
    for value in graph.inputs:
        sequence = "decoder_sequence" if value.name.startswith("decoder_") else "sequence"
        axes |= zip(map(str, value.shape), ("batch", sequence), strict=True)
    for value in (*graph.inputs, *(value for node in graph for value in node.outputs)):
        if value.shape is not None:
            value.shape = onnx_ir.Shape([axes.get(str(size), size) for size in value.shape])


def _write(path: Path, content: bytes) -> None:
    """Write a new file, and wait until it is on disk."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _reason(error: BaseException) -> str:
    """The first line of what an error came from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _compare(model: PreTrainedModel, path: Path, batches: Sequence[dict[str, Tensor]]) -> float:
    """The largest difference between the outputs of the file and of the model.

    Raises:
        UsageError: it is more than rounding, or ONNX Runtime refuses the file.
    """
    import onnxruntime

    kind = type(model).__name__
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors alone
    largest = 0.0
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        found = [session.run(names, {n: t.cpu().numpy() for n, t in b.items()}) for b in batches]
    except Exception as error:  # its errors have no base class of their own
        raise UsageError(
            f"ONNX Runtime does not run the {kind} as exported ({_reason(error)}); {_REMEDY}"
        ) from error
    for batch, arrays in zip(batches, found, strict=True):
        outputs = model(**batch, return_dict=True)
        for name, array in zip(names, arrays, strict=True):
            expected = outputs[name].cpu()
            difference = (torch.from_numpy(array).double() - expected.double()).abs().max().item()
            allowed = torch.finfo(model.dtype).eps ** 0.5 * expected.abs().max().item()
            if not difference <= allowed:  # NaN is no rounding either
                raise UsageError(
                    f"the {kind} as exported to ONNX computes other {name}, off by "
                    f"{difference:.2g} of at most {expected.abs().max().item():.2g}; {_REMEDY}"
                )
            largest = max(largest, difference)
    return largest


_REMEDY = "export it in float32 (model.float()), or give a model of another architecture"
