"""The sparse runtime beside torch, MKL's sparse product, ONNX Runtime and OpenVINO.

    pip install 'prunella[bench]'
    python benchmarks/runtime.py CASE [CASE ...] [--json FILE] [--model DIR ...]

Models are random, of BERT-base's, MiniLM's or GPT-2 small's shapes, unless --model names
checkpoints; every linear layer of an encoder or decoder block has the same fraction of zeros. All
contenders run on --threads threads and take turns; times are medians.

Cases: engines (end to end, against all), linears, curve (over sparsities), shapes (batches and
lengths), mixed (sentences of several lengths), decode (GPT-2, token by token), load.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    logging,
)

import prunella
from prunella.bitmask import encode
from prunella.prunable import find_prunable
from prunella.runtime import bench
from prunella.runtime.checkpoint import size
from prunella.runtime.engine import Matrix
from prunella.runtime.linear import footprint

MINILM = {
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}
SHAPES = [(768, 768)] * 4 + [(3072, 768), (768, 3072)]  # a layer of BERT-base
Row = dict[str, Any]
Call = Callable[[], Any]


def prune(model: PreTrainedModel, sparsity: float) -> PreTrainedModel:
    """Zero a random part of every prunable matrix."""
    with torch.no_grad():
        for prunable in find_prunable(model)[0].values():
            weight = prunable.parameter
            weight.masked_fill_(torch.rand_like(weight) < sparsity, 0)
    return model.eval()


def bert(sparsity: float, **shape: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    return prune(BertForSequenceClassification(BertConfig(**shape)), sparsity)


def saved(model: PreTrainedModel) -> Path:
    folder = Path(tempfile.mkdtemp(dir=TEMPORARY.name))
    prunella.save(model, folder)
    return folder


def pair(folder: Path) -> dict[str, Any]:
    return {kind: prunella.load(folder, kind) for kind in ("dense", "sparse")}


def measure(calls: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Median milliseconds of each."""
    with torch.inference_mode():
        times = bench.alternate(calls, bench.ROUNDS, seconds)
    return {name: 1000 * median(spent) for name, spent in times.items()}


def tokens(batch: int, length: int) -> Tensor:
    return torch.randint(1000, 30000, (batch, length), generator=torch.Generator().manual_seed(0))


# --- cases ---------------------------------------------------------------------------------------


def engines(options: argparse.Namespace) -> list[Row]:
    """Classifiers, of BERT-base's shapes at 90 % or given, with 1 × 128 tokens on all engines."""
    models = {"BERT-base, 90 %": saved(bert(0.9))}
    for folder in options.model or []:
        models[folder.name] = folder
        models[f"BERT-base, masks of {folder.name}"] = saved(_masked_as(folder))
    return [_on_all_engines(name, folder, options) for name, folder in models.items()]


def _masked_as(folder: Path) -> PreTrainedModel:
    """BERT-base's shapes with the masks of a smaller pruned BERT, tiled, its layers in turn."""
    model = bert(0.0)
    others = list(find_prunable(prunella.load(folder, "dense"))[0].values())
    own = find_prunable(model)[0].values()
    with torch.no_grad():
        for i, prunable in enumerate(own):
            weight, mask = prunable.parameter, others[i % len(others)].parameter != 0
            times = [side // part for side, part in zip(weight.shape, mask.shape, strict=True)]
            weight.masked_fill_(~mask.repeat(*times), 0)
    return model


def _on_all_engines(name: str, folder: Path, options: argparse.Namespace) -> Row:
    onnx = Path(tempfile.mkdtemp(dir=TEMPORARY.name))
    prunella.export(folder, onnx, "onnx")
    model = onnx / "model.onnx"
    contenders: dict[str, tuple[Callable[..., Call], Any]] = {
        "dense": (_torch, (folder, "dense")),
        "sparse": (_torch, (folder, "sparse")),
        "onnxruntime": (_onnxruntime, (model, options.threads)),
        "openvino": (_openvino, (model, options.threads)),
    }
    # In processes of their own: threads that one leaves spinning would slow the next.
    context = multiprocessing.get_context("spawn")
    ends, told = {}, {}
    times: dict[str, list[float]] = {engine: [] for engine in contenders}
    for engine, (make, arguments) in contenders.items():
        ends[engine], other = context.Pipe()
        work = (other, make, arguments, options.threads)
        context.Process(target=_contend, args=work, daemon=True).start()
        told[engine] = ends[engine].recv()
    for _ in range(3):
        for engine, end in ends.items():
            end.send(options.seconds / 3)
            times[engine] += end.recv()
    for end in ends.values():
        end.send(None)
    ms = {engine: 1000 * median(spent) for engine, spent in times.items()}
    return {
        "model": name,
        **{f"{engine}, ms": value for engine, value in ms.items()},
        "dense / sparse": ms["dense"] / ms["sparse"],
        "better of the two / sparse": min(ms["onnxruntime"], ms["openvino"]) / ms["sparse"],
        "largest difference": max(float(np.abs(x - told["dense"]).max()) for x in told.values()),
    }


def _contend(end: Connection, make: Callable[..., Call], arguments: Any, threads: int) -> None:
    torch.set_num_threads(threads)
    logging.set_verbosity_error()
    with torch.inference_mode():
        call = make(*arguments)
        end.send(np.asarray(call()))
        while seconds := end.recv():
            end.send(bench.alternate({"": call}, bench.ROUNDS, seconds)[""])


def _torch(folder: Path, kind: Any) -> Call:
    model, ids = prunella.load(folder, kind), tokens(1, 128)
    return lambda: model(ids, attention_mask=torch.ones_like(ids)).logits


def _onnxruntime(path: Path, threads: int) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = _feed([port.name for port in session.get_inputs()])
    return lambda: session.run(None, given)[0]


def _openvino(path: Path, threads: int) -> Call:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    given = _feed([port.any_name for port in model.inputs])
    model.reshape({name: list(array.shape) for name, array in given.items()})  # its best
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(model, "CPU", {**hints, "INFERENCE_NUM_THREADS": str(threads)})
    request = compiled.create_infer_request()
    return lambda: request.infer(given)[0]


def _feed(names: list[str]) -> dict[str, Any]:
    ids = tokens(1, 128).numpy()
    values = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    return {name: values.get(name, np.zeros_like(ids)) for name in names}


def linears(options: argparse.Namespace) -> list[Row]:
    """The linear layers of one layer of BERT-base alone, 128 tokens."""
    return [_products(sparsity, options) for sparsity in (0.0, 0.2, 0.5, 0.8, 0.9, 0.95)]


def _products(sparsity: float, options: argparse.Namespace) -> Row:
    weights = [_matrix(shape, sparsity) for shape in SHAPES]
    inputs = [torch.randn(128, shape[1]) for shape in SHAPES]
    matrices = [Matrix(encode(weight)) for weight in weights]
    csr = [weight.to_sparse_csr() for weight in weights]
    columns = [x.T.contiguous() for x in inputs]  # as MKL likes them
    panels = [x.view(2, 64, -1).mT.contiguous() for x in inputs]  # as encoders have them
    calls: dict[str, list[Call]] = {
        "dense": [
            partial(nn.functional.linear, x, w) for x, w in zip(inputs, weights, strict=True)
        ],
        "torch CSR": [partial(torch.matmul, w, x) for w, x in zip(csr, columns, strict=True)],
        "sparse": [partial(m.linear, x, None) for m, x in zip(matrices, inputs, strict=True)],
        "in panels": [partial(m.product, x) for m, x in zip(matrices, panels, strict=True)],
    }
    ms = measure({name: partial(_each, some) for name, some in calls.items()}, options.seconds)
    nonzero = sum(matrix.nonzero for matrix in matrices)
    return {
        "sparsity": sparsity,
        **{f"{name}, ms": value for name, value in ms.items()},
        "dense / sparse": ms["dense"] / ms["sparse"],
        "dense / in panels": ms["dense"] / ms["in panels"],
        "CSR / sparse": ms["torch CSR"] / ms["sparse"],
        "GFLOP/s in panels": 2 * nonzero * 128 / ms["in panels"] / 1e6,
    }


def _each(calls: list[Call]) -> None:
    for call in calls:
        call()


def _matrix(shape: tuple[int, int], sparsity: float) -> Tensor:
    return torch.randn(shape).masked_fill_(torch.rand(shape) < sparsity, 0)


def curve(options: argparse.Namespace) -> list[Row]:
    """BERT-base's shapes end to end, 1 × 128 tokens, over sparsities."""
    rows = []
    for sparsity in (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97):
        folder = saved(bert(sparsity))
        ms = measure(_passes(pair(folder), tokens(1, 128)), options.seconds)
        rows.append({"sparsity": sparsity, **_compared(ms)})
    return rows


def shapes(options: argparse.Namespace) -> list[Row]:
    """BERT-base's and MiniLM's shapes at 90 %, over batches and lengths."""
    rows = []
    for name, shape in (("BERT-base", {}), ("MiniLM", MINILM)):
        models = pair(saved(bert(0.9, **shape)))
        for batch in (1, 8, 32):
            for length in (16, 128, 384):
                ms = measure(_passes(models, tokens(batch, length)), options.seconds)
                rows.append({"model": name, "batch": batch, "length": length, **_compared(ms)})
    return rows


def mixed(options: argparse.Namespace) -> list[Row]:
    """Sixteen sentences of 8 to 128 tokens in one batch, and the same without padding."""
    models = pair(saved(bert(0.9)))
    lengths = torch.linspace(8, 128, 16).int()
    ids = tokens(16, 128)
    mask = (torch.arange(128) < lengths[:, None]).long()
    full = measure(_passes(models, ids), options.seconds)
    padded = measure(_passes(models, ids, mask), options.seconds)
    share = float(mask.float().mean())
    return [
        {"batch": "16 × 128 tokens", "tokens that are not padding": 1.0, **_compared(full)},
        {"batch": "8 to 128 tokens", "tokens that are not padding": share, **_compared(padded)},
    ]


def _passes(
    models: dict[str, Any], ids: Tensor, mask: Tensor | None = None
) -> dict[str, Callable[[], object]]:
    return {
        kind: lambda model=model: model(ids, attention_mask=mask)[0]  # type: ignore[misc]
        for kind, model in models.items()
    }


def _compared(ms: dict[str, float]) -> Row:
    return {
        **{f"{name}, ms": value for name, value in ms.items()},
        "dense / sparse": ms["dense"] / ms["sparse"],
    }


def decode(options: argparse.Namespace) -> list[Row]:
    """GPT-2 small's shapes at 90 %: a token at a time after 64, with a cache."""
    torch.manual_seed(0)
    folder = saved(prune(GPT2LMHeadModel(GPT2Config()), 0.9))
    told = bench.bench(folder, length=64, decode=16, threads=options.threads, seconds=60)
    models = pair(folder)
    layers = {kind: _linears(model) for kind, model in models.items()}
    ms = measure(
        {
            kind: lambda some=some: [layer(x) for layer, x in some]  # type: ignore[misc]
            for kind, some in layers.items()
        },
        options.seconds,
    )
    allowed = footprint(models["dense"]) / footprint(models["sparse"])
    return [
        {
            "pruned linears, dense, ms": ms["dense"],
            "pruned linears, sparse, ms": ms["sparse"],
            "their ratio": ms["dense"] / ms["sparse"],
            "a token, dense, ms": told["latency_ms"]["dense"],
            "a token, sparse, ms": told["latency_ms"]["sparse"],
            "ratio": told["speedup"],
            "ratio of bytes": allowed,
            "share of it": told["speedup"] / allowed,
        }
    ]


def _linears(model: Any) -> list[tuple[nn.Module, Tensor]]:
    layers = []
    for block in model.transformer.h:
        for layer in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj):
            rows = getattr(layer, "in_features", None) or layer.weight.shape[0]
            layers.append((layer, torch.randn(1, 1, rows)))
    return layers


def load(options: argparse.Namespace) -> list[Row]:
    """BERT-base's shapes at 90 %: on disk, in memory, loading and until a first answer; 7 times.

    Once with the file in the system's memory, where a dense one is mapped and not read, and once
    after having it dropped from there.
    """
    folders = {"sparse": saved(bert(0.9)), "dense": Path(tempfile.mkdtemp(dir=TEMPORARY.name))}
    prunella.export(folders["sparse"], folders["dense"], "dense")
    return [_loaded(kind, folders[kind]) for kind in ("dense", "sparse")]


def _loaded(kind: Any, folder: Path) -> Row:
    row: Row = {"": kind, "file, MB": size(folder) / 1e6}
    row["in memory, MB"] = footprint(prunella.load(folder, kind)) / 1e6
    for state in ("cached", "not cached"):
        spent = [_until_answer(kind, folder, state) for _ in range(7)]
        row[f"loading, file {state}, ms"] = median(loading for loading, _ in spent)
        row[f"to the first answer, file {state}, ms"] = median(answer for _, answer in spent)
    return row


def _until_answer(kind: Any, folder: Path, state: str) -> tuple[float, float]:
    """Milliseconds until a model is loaded, and until it gave an answer."""
    if state == "not cached":
        _drop(folder)
    started = time.perf_counter()
    model = prunella.load(folder, kind)
    loaded = time.perf_counter()
    with torch.inference_mode():
        model(tokens(1, 128))
    return 1000 * (loaded - started), 1000 * (time.perf_counter() - started)


def _drop(folder: Path) -> None:
    """Have the system forget the content of files (Linux)."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


CASES = {case.__name__: case for case in (engines, linears, curve, shapes, mixed, decode, load)}
TEMPORARY = tempfile.TemporaryDirectory()


def _cell(value: Any) -> str:
    if isinstance(value, str) or (isinstance(value, int) and value < 1e6):
        return str(value)
    return f"{value:.2g}" if 0 < abs(value) < 0.01 else f"{value:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="+", choices=CASES, metavar="CASE")
    parser.add_argument("--model", type=Path, action="append", help="for engines: a pruned BERT")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each measurement")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    results = {}
    for name in options.cases:
        torch.manual_seed(0)
        rows = results[name] = CASES[name](options)
        print(f"\n{name}\n\n| {' | '.join(rows[0])} |\n{'|---' * len(rows[0])}|")
        for row in rows:
            print(f"| {' | '.join(map(_cell, row.values()))} |", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
