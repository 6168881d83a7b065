"""How a run went is kept beside its result, the same whether or not it was broken off."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from folders import assert_refused, matrices_of, result_of
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from prunella import PINS, Constant, Pruner, flops
from prunella.cli import main
from prunella.experiments.trace import POINTS, SIZE, Sample

STEPS = 24


def _run(bert: Path, sst2: Path, output: Path, *flags: str) -> int:
    fixed = f"--model {bert} --data {sst2} --task glue/sst2 --max-steps {STEPS} --batch-size 8"
    ramp = "--sparsity 0.6 --begin 11 --end 18 --every 2 --check-every 6"
    return main(["prune", *fixed.split(), *ramp.split(), "--output", str(output), *flags])


def _trace(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "trace.json").read_text(encoding="utf-8"))


def _numbers(text: str, kind: type[np.generic]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def _kept(sample: dict[str, Any]) -> np.ndarray:
    return np.unpackbits(_numbers(sample["kept"], np.uint8))[: sample["size"]].astype(bool)


@pytest.fixture(scope="module")
def run(bert: Path, sst2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trace") / "run"
    assert _run(bert, sst2, folder, "--regularize", "self", "--snapshot-every", "20") == 0
    return folder


def test_selections_add_up_to_what_is_pruned(run: Path) -> None:
    trace, total = _trace(run), result_of(run)["parameters"]["prunable"]["total"]
    assert [entry["step"] for entry in trace["selections"]] == [12, 14, 16, 18]
    pruned = 0
    for entry in trace["selections"]:
        pruned += entry["pruned"] - entry["regrown"]
        assert entry["sparsity"] == pytest.approx(pruned / total, abs=1e-9)
        assert 0 < entry["threshold"] < 1
    assert pruned == round(0.6 * total)
    assert [entry["step"] for entry in trace["log"]] == list(range(1, STEPS + 1))
    assert all(np.isfinite(entry["loss"]) for entry in trace["log"])


def test_matrices_and_histogram_are_those_of_the_file(run: Path) -> None:
    trace, weights = _trace(run), matrices_of(run)
    assert {m["name"]: m["nonzero"] for m in trace["matrices"]} == {
        name: int(np.count_nonzero(weight)) for name, weight in weights.items()
    }
    every = np.concatenate([weight.ravel() for weight in weights.values()])
    edges, counts = trace["weights"]["edges"], trace["weights"]["counts"]
    assert sum(counts) == np.count_nonzero(every)
    inner = every[(every != 0) & (np.abs(every) < edges[-1])]
    expected, _ = np.histogram(inner, edges)
    assert np.abs(expected - counts)[1:-1].max() <= 2  # float32 at a bin's edge


def test_the_sample_shows_weights_before_and_after(run: Path, bert: Path) -> None:
    sample, weights, first = _trace(run)["sample"], matrices_of(run), matrices_of(bert)
    drawn = Sample.of({name: weight.shape for name, weight in weights.items()})
    after = drawn.values({name: torch.from_numpy(weight) for name, weight in weights.items()})
    before = drawn.values({name: torch.from_numpy(weight) for name, weight in first.items()})
    assert (_kept(sample) == (after != 0)).all()
    assert np.allclose(_numbers(sample["after"], np.float16), after[:POINTS], atol=1e-3)
    assert np.allclose(_numbers(sample["before"], np.float16), before[:POINTS], atol=1e-3)
    assert abs(_kept(sample).mean() - 0.4) < 0.02


def test_scores_and_threshold_are_those_the_masks_came_from(run: Path) -> None:
    trace = _trace(run)
    scores = _numbers(trace["sample"]["score"], np.float32)
    kept = _kept(trace["sample"])[:POINTS]
    assert ((scores >= trace["selections"][-1]["threshold"]) == kept).all()


def test_a_run_that_was_broken_off_has_the_same_trace(
    run: Path, bert: Path, sst2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags, step = (
        ["--regularize", "self", "--snapshot-every", "20"],
        (transformers.Trainer.training_step),
    )

    def breaks_off(self: transformers.Trainer, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 15:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(transformers.Trainer, "training_step", breaks_off)
        assert _run(bert, sst2, tmp_path / "resumed", *flags) == 130
    assert _run(bert, sst2, tmp_path / "resumed", *flags, "--resume") == 0
    assert _trace(tmp_path / "resumed") == _trace(run)


def test_what_training_held(run: Path) -> None:
    """The snapshot of step 20 is as sparse as the model; the embeddings are shared with it."""
    result = result_of(run)
    held, counts = result["held"], result["parameters"]
    assert held["teacher"] == 0 and held["model"] == counts["model"]["total"]
    head = counts["model"]["nonzero"] - counts["backbone"]["nonzero"]
    assert counts["backbone"]["nonzero"] <= held["snapshot"] < counts["backbone"]["nonzero"] + head


def test_dense_runs_have_losses_and_weights(bert: Path, sst2: Path, tmp_path: Path) -> None:
    assert _run(bert, sst2, tmp_path / "dense", "--criterion", "dense") == 0
    trace, result = _trace(tmp_path / "dense"), result_of(tmp_path / "dense")
    assert trace["selections"] == [] and trace["sample"]["score"] is None
    assert len(trace["log"]) == STEPS and _kept(trace["sample"]).all()
    assert result["flops"]["dense"] == result["flops"]["sparse"] and result["held"]["snapshot"] == 0


def test_a_learning_rate_that_stays(bert: Path, sst2: Path, tmp_path: Path) -> None:
    flags = "--lr-schedule constant --warmup 0.25 --lr 1e-4"
    assert _run(bert, sst2, tmp_path / "run", *flags.split()) == 0
    rates = [entry["lr"] for entry in _trace(tmp_path / "run")["log"]]
    assert rates == pytest.approx([1e-4 * min(step / 6, 1) for step in range(STEPS)])


def test_matrix_by_matrix_there_is_no_one_threshold(bert: Path, sst2: Path, tmp_path: Path) -> None:
    assert _run(bert, sst2, tmp_path / "run", "--scope", "matrix") == 0
    assert [e["threshold"] for e in _trace(tmp_path / "run")["selections"]] == [None] * 4


def test_masks_selected_at_every_step_are_noted_now_and_then(
    bert: Path, sst2: Path, tmp_path: Path
) -> None:
    assert _run(bert, sst2, tmp_path / "run", "--criterion", "pins-released") == 0
    steps = [entry["step"] for entry in _trace(tmp_path / "run")["selections"]]
    assert steps == [12, 14, 16, 18, 20, 22]


# --- the sample ---------------------------------------------------------------------------------


def test_a_sample_is_of_names_and_shapes_alone() -> None:
    shapes = {"a.weight": (40, 50), "b.weight": (7, 3)}
    one, other = Sample.of(shapes), Sample.of(dict(reversed(shapes.items())))
    numbers = {name: torch.arange(float(np.prod(s))).view(s) for name, s in shapes.items()}
    assert one.key == other.key != Sample.of({**shapes, "b.weight": (3, 7)}).key
    assert (one.values(numbers) == other.values(numbers)).all()
    from_a = one.values({**numbers, "b.weight": -torch.ones(7, 3)}) >= 0
    assert abs(from_a.mean() - 2000 / 2021) < 4 * (0.0103 * 0.9897 / SIZE) ** 0.5


# --- the pruner's side --------------------------------------------------------------------------


def test_whoever_looks_at_selections_sees_scores_and_earlier_masks() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    pruner = Pruner(model, optimizer, PINS(window=1), Constant(0.5, begin=2, end=5, every=2))
    seen = []

    def look(scores: Any, before: Any) -> None:
        lowest = min(float(scores[n][m].min()) for n, m in pruner.masks.items())
        highest = max(float(scores[n][~m].max()) for n, m in pruner.masks.items() if not m.all())
        seen.append((pruner.step, lowest >= highest, sum(int(m.sum()) for m in before.values())))

    pruner.on_selection = look
    for _ in range(8):
        optimizer.zero_grad()
        model(torch.randn(16, 8)).square().sum().backward()
        optimizer.step()
    assert seen == [(4, True, 96), (5, True, 48)]


# --- arithmetic ---------------------------------------------------------------------------------


def _bert(attention: str) -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        attn_implementation=attention,
    )
    return BertForSequenceClassification(config).eval()


def test_operations_are_those_of_the_products() -> None:
    tokens, model = 10, _bert("eager")
    model.bert.encoder.layer[0].intermediate.dense.weight.data[:4] = 0
    ids = torch.arange(tokens)[None]
    counted = flops.count(model, lambda: model(ids))
    linears = 2 * (4 * 8 * 8 + 2 * 8 * 16) * tokens
    attention = 2 * (2 * 8 * tokens * tokens)
    head = 8 * 8 + 8 * 2  # the pooler and the classifier see one token
    assert counted["dense"] == 2 * (linears + attention + head)
    assert counted["sparse"] == counted["dense"] - 2 * 4 * 8 * tokens


def test_a_view_of_a_parameter_as_input() -> None:
    """As DeBERTa's table of relative positions."""
    layer, table = nn.Linear(4, 3, bias=False), nn.Embedding(8, 4)
    model = nn.ModuleList([layer, table])
    assert flops.count(model, lambda: layer(table.weight[:5]))["dense"] == 2 * 5 * 4 * 3
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_shared_layer_counts_as_often_as_it_is_used() -> None:
    layer = nn.Linear(4, 4, bias=False)
    layer.weight.data[0, 0] = 0
    counted = flops.count(layer, lambda: layer(layer(torch.ones(3, 4))))
    assert counted == {"dense": 2 * 2 * 3 * 16, "sparse": 2 * 2 * 3 * 15}


def test_zeros_of_attention_and_experts_count_by_the_vectors_they_are_given() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    attention.in_proj_weight.data[8:16] = 0  # the keys'
    attention.out_proj.weight.data[0] = 0
    x, memory = torch.ones(1, 3, 8), torch.ones(1, 5, 8)
    counted = flops.count(attention, lambda: attention(x, memory, memory))
    assert counted["dense"] == 2 * (2 * 64 * 3 + 2 * 64 * 5 + 2 * 8 * 3 * 5)
    assert counted["sparse"] == counted["dense"] - 2 * (64 * 5 + 8 * 3)
    config = transformers.MixtralConfig(
        **{"hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 1, "vocab_size": 9},
        **{"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 4},
        **{"num_local_experts": 3, "num_experts_per_tok": 3},  # all are asked
    )
    model = transformers.MixtralForCausalLM(config).eval()
    model.set_attn_implementation("eager")
    model.set_experts_implementation("eager")
    before = flops.count(model, lambda: model(torch.arange(5)[None]))
    model.model.layers[0].mlp.experts.down_proj.data[1] = 0
    after = flops.count(model, lambda: model(torch.arange(5)[None]))
    assert before["dense"] == before["sparse"] == after["dense"]
    assert after["sparse"] == after["dense"] - 2 * 48 * 5


# --- trackers -----------------------------------------------------------------------------------


def test_trackers_that_are_not_there(
    bert: Path, sst2: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert _run(bert, sst2, tmp_path / "run", "--report-to", "tensorbored") == 2
    assert_refused(capfd, ["--report-to tensorbored", "no tracker that is installed", "pip"])
    assert not (tmp_path / "run").exists()


def test_a_tracker_is_told_loss_and_sparsity(
    bert: Path, sst2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, float]] = []

    class Tracker(transformers.TrainerCallback):
        def on_log(self, *args: Any, logs: dict[str, float], **kwargs: Any) -> None:
            seen.append(dict(logs))

    module = transformers.integrations.integration_utils
    monkeypatch.setitem(module.INTEGRATION_TO_CALLBACK, "trackio", Tracker)
    monkeypatch.setattr(module, "is_trackio_available", lambda: True)
    monkeypatch.setattr("prunella.experiments.places.find_spec", lambda name: name)
    assert _run(bert, sst2, tmp_path / "run", "--report-to", "trackio") == 0
    losses = [logs for logs in seen if "loss" in logs]
    assert len(losses) == STEPS and losses[-1]["sparsity"] == pytest.approx(0.6, abs=1e-3)
