"""The sparse runtime beside torch, MKL's sparse product, ONNX Runtime and OpenVINO.

    pip install 'prunella[bench]'
    python benchmarks/runtime.py CASE [CASE ...] [--json FILE] [--model DIR ...]

Models are random, of BERT-base's, MiniLM's or GPT-2 small's shapes, unless --model names
checkpoints; every linear layer of an encoder or decoder block has the same fraction of zeros. All
contenders run in one process on --threads threads and take turns; times are medians.

Cases: engines (end to end, against all), linears, curve (over sparsities), shapes (batches and
lengths), mixed (sentences of several lengths), decode (GPT-2, token by token), load.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping
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
    if options.model:
        return [_on_all_engines(folder.name, folder, options) for folder in options.model]
    return [_on_all_engines("BERT-base, 90 %", saved(bert(0.9)), options)]


def _on_all_engines(name: str, folder: Path, options: argparse.Namespace) -> Row:
    ids = tokens(1, 128)
    onnx = Path(tempfile.mkdtemp(dir=TEMPORARY.name))
    prunella.export(folder, onnx, "onnx")
    feed = {"input_ids": ids.numpy(), "attention_mask": np.ones_like(ids.numpy())}
    calls = {
        **_passes(pair(folder), ids, torch.ones_like(ids)),
        "onnxruntime": _onnxruntime(onnx / "model.onnx", feed, options.threads),
        "openvino": _openvino(onnx / "model.onnx", feed, options.threads),
    }
    with torch.inference_mode():
        told = {engine: np.asarray(call()) for engine, call in calls.items()}
    ms = measure(calls, options.seconds)
    return {
        "model": name,
        **{f"{engine}, ms": value for engine, value in ms.items()},
        "dense / sparse": ms["dense"] / ms["sparse"],
        "better of the two / sparse": min(ms["onnxruntime"], ms["openvino"]) / ms["sparse"],
        "largest difference": max(float(np.abs(x - told["dense"]).max()) for x in told.values()),
    }


def _onnxruntime(path: Path, feed: dict[str, Any], threads: int) -> Callable[[], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = {
        i.name: feed.get(i.name, np.zeros_like(feed["input_ids"])) for i in session.get_inputs()
    }
    return lambda: session.run(None, given)[0]


def _openvino(path: Path, feed: dict[str, Any], threads: int) -> Callable[[], object]:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    names = [port.any_name for port in model.inputs]
    given = {name: feed.get(name, np.zeros_like(feed["input_ids"])) for name in names}
    model.reshape({name: list(array.shape) for name, array in given.items()})  # its best
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(model, "CPU", {**hints, "INFERENCE_NUM_THREADS": str(threads)})
    request = compiled.create_infer_request()
    return lambda: request.infer(given)[0]


def linears(options: argparse.Namespace) -> list[Row]:
    """The linear layers of one layer of BERT-base alone, 128 tokens."""
    return [_products(sparsity, options) for sparsity in (0.0, 0.2, 0.5, 0.8, 0.9, 0.95)]


def _products(sparsity: float, options: argparse.Namespace) -> Row:
    weights = [_matrix(shape, sparsity) for shape in SHAPES]
    inputs = [torch.randn(128, shape[1]) for shape in SHAPES]
    matrices = [Matrix(encode(weight)) for weight in weights]
    csr = [weight.to_sparse_csr() for weight in weights]
    columns = [x.T.contiguous() for x in inputs]  # as MKL likes them
    ms = measure(
        {
            "dense": lambda: list(map(nn.functional.linear, inputs, weights)),
            "torch CSR": lambda: list(map(torch.matmul, csr, columns)),
            "sparse": lambda: [m.linear(x, None) for m, x in zip(matrices, inputs, strict=True)],
        },
        options.seconds,
    )
    nonzero = sum(matrix.nonzero for matrix in matrices)
    return {
        "sparsity": sparsity,
        **{f"{name}, ms": value for name, value in ms.items()},
        "dense / sparse": ms["dense"] / ms["sparse"],
        "CSR / sparse": ms["torch CSR"] / ms["sparse"],
        "GFLOP/s": 2 * nonzero * 128 / ms["sparse"] / 1e6,
    }


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
    """BERT-base's shapes at 90 %: on disk, in memory, and how long loading takes (median of 5)."""
    folder, dense = saved(bert(0.9)), Path(tempfile.mkdtemp(dir=TEMPORARY.name))
    prunella.export(folder, dense, "dense")
    seconds: dict[str, list[float]] = {"sparse": [], "dense": []}
    for _ in range(5):
        for kind, where in (("sparse", folder), ("dense", dense)):
            started = time.perf_counter()
            model = prunella.load(where, kind)  # type: ignore[arg-type]
            # Files that are only mapped are not read yet.
            sum(float(p.sum()) for p in model.parameters())
            seconds[kind].append(time.perf_counter() - started)
    memory = {kind: footprint(model) for kind, model in pair(folder).items()}
    disk = {
        "sparse": (folder / "sparse.safetensors").stat().st_size,
        "dense": (dense / "model.safetensors").stat().st_size,
    }
    return [
        {
            "": kind,
            "file, MB": disk[kind] / 1e6,
            "in memory, MB": memory[kind] / 1e6,
            "loading and touching all, s": median(seconds[kind]),
        }
        for kind in ("dense", "sparse")
    ]


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
    parser.add_argument("--model", type=Path, action="append", help="for engines: a checkpoint")
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
