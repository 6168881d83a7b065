"""How fast a checkpoint runs, its engine beside torch, and whether both say the same."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from prunella.errors import UsageError
from prunella.runtime import engine, files
from prunella.runtime.checkpoint import load, size
from prunella.runtime.folder import fetched
from prunella.runtime.linear import computed_densely, footprint, matrices_of

ROUNDS = 50  # measurements of each model, at most
SECONDS = 20.0  # for all of them
TURN, TURN_SECONDS = 10, 1.0  # measurements in a row


def bench(
    model: str | Path,
    *,
    batch: int = 1,
    length: int = 128,
    decode: int = 0,
    threads: int = 0,
    seconds: float = SECONDS,
    rounds: int = ROUNDS,
) -> dict[str, Any]:
    """Measure a checkpoint, loaded sparse and dense; the two take turns, call by call.

    Dense is torch at its best: Transformers' default attention (SDPA), inference mode, warmed up.

    Args:
        model: a checkpoint folder, or a name on the hub.
        batch: sequences at a time.
        length: tokens of each, all different and none of them padding.
        decode: instead of one pass over the sequences, this many steps that each add one token to
            them, with a cache of keys and values; latency is then that of a step.
        threads: of torch and the engine; 0 leaves torch's number.
        seconds: how long to measure, at most.
        rounds: measurements of each, about, if there is time.

    Returns:
        what ``prunella bench --json`` writes: ``latency_ms`` (medians), ``spread_ms`` (quartiles),
        ``tokens_per_second``, ``load_seconds``, ``memory_bytes``, each with ``dense`` and
        ``sparse``; ``speedup``, ``max_abs_diff`` of the first output, what was measured, and which
        sparse weights torch computes with all the same (``computed_densely``, by form).

    Raises:
        UsageError: see ``load``; a number that makes no sense, or does not fit the model.
    """
    for name, value, least in (
        ("batch", batch, 1),
        ("length", length, 1),
        ("decode", decode, 0),
        ("threads", threads, 0),
        ("seconds", seconds, 0),
    ):
        if value < least:
            raise UsageError(f"{name} is {value}; it must be at least {least}")
    folder = fetched(model)
    with _threads(threads):
        models, loading = {}, {}
        for kind in ("dense", "sparse"):
            started = time.perf_counter()
            models[kind] = load(folder, kind)
            models[kind].float()  # as the sparse one, whatever is on disk
            loading[kind] = time.perf_counter() - started
        inputs = inputs_of(models["dense"], batch, length, decode)
        with torch.inference_mode():
            try:
                steps = {kind: _step(models[kind], inputs, decode) for kind in models}
                first = {kind: step() for kind, step in steps.items()}
            except UsageError:
                raise
            except Exception as error:  # models read other things than tokens, or not any
                raise UsageError(
                    f"{type(models['dense']).__name__} cannot be run on {batch} × {length} random "
                    f"tokens ({error}); ask for fewer, or measure it with your own inputs"
                ) from error
            times = alternate(steps, rounds, seconds)
        per = max(decode, 1)
        latency = {kind: 1000 * median(spent) / per for kind, spent in times.items()}
        return {
            "model": str(model),
            "architecture": type(models["dense"]).__name__,
            "batch": batch,
            "length": length,
            "decode": decode,
            "threads": torch.get_num_threads(),
            "engine": engine.variant(),
            "sparse_matrices": len(matrices_of(models["sparse"])),
            "computed_densely": computed_densely(models["sparse"]),
            "latency_ms": latency,
            "spread_ms": {kind: _quartiles(spent, per) for kind, spent in times.items()},
            "rounds": len(times["dense"]),
            "tokens_per_second": {
                kind: batch * (1 if decode else length) * 1000 / ms for kind, ms in latency.items()
            },
            "speedup": latency["dense"] / latency["sparse"],
            "max_abs_diff": float((first["dense"] - first["sparse"]).abs().max()),
            "load_seconds": loading,
            "memory_bytes": {kind: footprint(m) for kind, m in models.items()},
            "file_bytes": size(folder),
            "torch": torch.__version__,
            "machine": platform.processor() or platform.machine(),
        }


def alternate(
    calls: Mapping[str, Callable[[], object]], rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Seconds of calls that take turns, until each was measured so often or time is over.

    In a turn a call is repeated for a while; the first time is not counted, when caches, and
    threads that other libraries left spinning, are not as they are in steady use.

    Args:
        calls: what to measure, by name.
        rounds: measurements of each, about.
        seconds: how long all may take; every call gets two turns whatever this says.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    end, turns = time.perf_counter() + seconds, 0
    while turns < 2 or (time.perf_counter() < end and len(next(iter(times.values()))) < rounds):
        turns += 1
        for name, call in calls.items():
            call()
            start = now = time.perf_counter()
            for _ in range(TURN):
                call()
                before, now = now, time.perf_counter()
                times[name].append(now - before)
                if now - start > TURN_SECONDS:
                    break
    return times


def table(result: Mapping[str, Any]) -> Table:
    """What was measured, for people."""
    out = Table(box=None, header_style="bold", pad_edge=False)
    out.add_column(f"{result['architecture']}, {result['batch']} × {result['length']} tokens")
    for name in ("dense", "sparse"):
        out.add_column(name, justify="right")

    def row(name: str, key: str, form: str, scale: float = 1.0) -> None:
        out.add_row(
            name, *(format(result[key][kind] * scale, form) for kind in ("dense", "sparse"))
        )

    row("latency of a step, ms" if result["decode"] else "latency, ms", "latency_ms", ".2f")
    spread = (result["spread_ms"][kind] for kind in ("dense", "sparse"))
    out.add_row("half of them within", *(f"{low:.2f}-{high:.2f}" for low, high in spread))
    row("tokens a second", "tokens_per_second", ",.0f")
    row("in memory, MB", "memory_bytes", ",.1f", 1e-6)
    row("loading, s", "load_seconds", ".2f")
    out.add_row("speed-up", "", f"{result['speedup']:.2f}×")
    out.add_row("largest difference", "", f"{result['max_abs_diff']:.1e}")
    out.add_row("threads, engine", str(result["threads"]), result["engine"] or "none: dense")
    out.add_row("matrices it holds", "", str(result["sparse_matrices"]))
    for form, weights in result["computed_densely"].items():
        out.add_row(f"sparse, but computed densely: {form}", "", f"{weights:,}")
    return out


def write(result: Mapping[str, Any], path: Path) -> None:
    """Write a result as JSON, whole or not at all."""
    with files.whole(path) as new:
        new.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def inputs_of(model: Any, batch: int, length: int, decode: int = 0) -> dict[str, Tensor]:
    """Random tokens that a model reads, none of them padding.

    Raises:
        UsageError: it takes fewer, or reads other things than tokens.
    """
    config = model.config
    longest = getattr(config, "max_position_embeddings", None) or 0
    if 0 < longest < length + decode:
        raise UsageError(
            f"length + decode is {length + decode}, but the model takes {longest} tokens; ask for "
            "fewer"
        )
    if not hasattr(config, "vocab_size"):
        raise UsageError(f"{type(model).__name__} has no vocabulary; bench runs models of text")
    if decode and not (model.can_generate() and not config.is_encoder_decoder):
        raise UsageError(
            f"{type(model).__name__} does not write text token by token; leave decode at 0"
        )
    low = 1 if getattr(config, "pad_token_id", None) == 0 else 0
    noise = torch.Generator().manual_seed(0)
    ids = torch.randint(low, config.vocab_size, (batch, length), generator=noise)
    end = getattr(config, "eos_token_id", None)
    if isinstance(end, int):
        ids[ids == end], ids[:, -1] = low, end  # some heads read at the end's place
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    return inputs


def _step(model: Any, inputs: Mapping[str, Tensor], decode: int) -> Callable[[], Tensor]:
    """One measurement: a pass, or some steps from a cache that is there already."""
    if not decode:
        return lambda: _first(model(**inputs))
    prompt = model(**inputs, use_cache=True)
    token = inputs["input_ids"][:, -1:]

    def steps() -> Tensor:
        cache = prompt.past_key_values
        for _ in range(decode):
            out = model(input_ids=token, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
        cache.crop(-decode)
        return _first(out)

    return steps


def _first(output: Any) -> Tensor:
    return next(value for value in output.to_tuple() if isinstance(value, Tensor))


def _quartiles(spent: list[float], per: int) -> list[float]:
    low, _, high = quantiles(spent, n=4)
    return [1000 * low / per, 1000 * high / per]
