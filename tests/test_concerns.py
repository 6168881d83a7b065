"""What is odd is said: nothing left of a matrix, models at chance, shares that claim too much."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from folders import result_of

from prunella import cli, tasks
from prunella.cli import main
from prunella.experiments import concerns
from prunella.figures import percent
from prunella.prunable import SCOPES, Count
from prunella.report import findings, tables
from prunella.summary import Summary
from prunella.tasks.classification import Classification
from prunella.tasks.multilabel import Multilabel


@pytest.mark.parametrize(
    ("share", "digits", "text"),
    [
        (0.9999, 1, "99.9%"),
        (0.99999, 2, "99.99%"),
        (1 - 1e-12, 2, "99.99%"),
        (1.0, 2, "100.00%"),
        (0.8999, 1, "89.9%"),
        (0.8999, 2, "89.99%"),
        (13107 / 16384, 1, "80.0%"),  # as near to 0.8 as whole weights allow
        (1 - 0.07, 2, "93.00%"),
        (1e-9, 2, "<0.01%"),
        (0.0004, 1, "<0.1%"),
        (0.0, 1, "0.0%"),
        (0.123, 0, "12%"),
    ],
)
def test_no_share_claims_more_than_holds(share: float, digits: int, text: str) -> None:
    assert percent(share, digits) == text


def test_nor_does_any_table() -> None:
    summary = str(Summary(9, {"prunable": Count(1, 10**6), "model": Count(10**6 - 1, 10**6)}))
    assert "100.00%" not in summary and "99.99%" in summary and "<0.01%" in summary
    assert tables.shown(0.99999, "percent") == findings.percent(0.99999) == "99.999 %"
    run = {"parameters": {}, "sparsity": {}, "metrics": {}, "size_bytes": 1, "seconds": 1}
    for scope in SCOPES:
        run["parameters"][scope] = {"nonzero": 1, "total": 10**6}  # type: ignore[index]
        run["sparsity"][scope] = 1 - 1e-6  # type: ignore[index]
    table = cli._table({**run, "config": {"criterion": "pins"}})
    cells = list(table.columns[1].cells)
    assert cells.count("99.99%") == 3 and "100.00%" not in cells


def test_what_is_pruned_whole_is_named_by_layers_and_matrices() -> None:
    names = [f"encoder.layer.{n}.{part}.weight" for n in range(3) for part in ("up", "down")]
    matrices = {name: torch.zeros(2, 2) if ".1." in name else torch.ones(2, 2) for name in names}
    matrices[names[0]] = torch.zeros(2, 2)
    gone = concerns.empty(matrices)
    assert gone == [names[0], names[2], names[3]]
    assert concerns.of_matrices(names, gone, True) == [
        "pruned whole, nothing is left of the layer encoder.layer.1",
        f"pruned whole, nothing is left of the matrix {names[0]}",
    ]
    assert concerns.of_matrices(names, gone[:1], False) == [
        f"all zero, without any pruning, are the matrix {names[0]}"
    ]
    assert concerns.of_matrices(names, [], True) == []
    stack = torch.ones(3, 2, 2)
    stack[1] = 0
    assert concerns.empty({"experts": stack, "gone": torch.zeros(3, 2, 2)}) == [
        "experts[1]",
        "gone",
    ]


def test_metrics_that_are_no_numbers() -> None:
    found = concerns.of_metrics({"dev": {"x": math.nan, "y": 1.0}}, {}, "y", False)
    assert found == ["the x on dev is nan: there is nothing to compare"]


def _best(task: Any, records: list[dict[str, Any]], labels: Any = ()) -> dict[str, float] | None:
    return concerns.trivial(task, records, labels, task.metrics[0])


def test_every_metric_has_its_trivial_value_or_none() -> None:
    two = Classification("t", lambda _: None, ("n", "y"), ("accuracy", "f1", "mcc"), False)  # type: ignore[arg-type]
    rows = [{"label": int(n < 7), "logits": [0.0, 1.0]} for n in range(10)]
    assert _best(two, rows) == pytest.approx({"accuracy": 0.7, "f1": 14 / 17, "mcc": 0.0})
    graded = tasks.get("glue/stsb")
    assert _best(graded, [{"label": n / 2, "logits": [n]} for n in range(6)]) == {
        "pearson": 0.0,
        "spearman": 0.0,
    }
    tags = {"labels": ["O", "B-PER", "O", "O"], "predictions": ["O"] * 4}
    best = _best(tasks.get("ner/conll2003"), [tags])
    assert best is not None and best["f1"] == 0 and best["accuracy"] == 0.75
    answer = {"id": "1", "prediction": "a cat", "score": 1.0}
    asked = [answer | {"answers": ["cat"]}, answer | {"answers": []}]
    best = _best(tasks.get("qa/squad_v2"), [one | {"no_answer": 0.0} for one in asked])
    assert best is not None and best["f1"] == 0.5
    best = _best(tasks.get("qa/squad"), asked[:1])
    assert best is not None and set(best.values()) == {0.0}
    text = {"source": "a", "prediction": "the cat sat", "references": ["the cat sat"]}
    best = _best(tasks.get("d2t/e2e"), [text])
    assert best is not None and set(best.values()) == {0.0}
    several = Multilabel("m", lambda _: None, ("a", "b"), False)  # type: ignore[arg-type, return-value]
    rows = [{"labels": [1, int(n < 1)], "said": [0, 0], "logits": [0.0, 0.0]} for n in range(4)]
    best = _best(several, rows)
    assert best is not None and best["micro_f1"] == pytest.approx(8 / 9)  # a for all
    words = tasks.language("lm/causal", None)
    records = [{"nll": 8.0, "tokens": 4}]
    assert _best(words, records, [[5, 5, 6, 6, -100]]) == {"perplexity": pytest.approx(2.0)}
    assert _best(words, records) is None


def test_at_chance_is_not_better_than_one_answer_for_all() -> None:
    trivial = {"dev": {"accuracy": 0.5}}
    for value, odd in ((0.4, 1), (0.5, 1), (0.51, 0)):
        assert (
            len(concerns.of_metrics({"dev": {"accuracy": value}}, trivial, "accuracy", False))
            == odd
        )
    trivial = {"dev": {"perplexity": 50.0}}
    for value, odd in ((60.0, 1), (50.0, 1), (40.0, 0)):
        found = concerns.of_metrics({"dev": {"perplexity": value}}, trivial, "perplexity", True)
        assert len(found) == odd


def test_a_run_says_what_is_odd(
    bert: Path, sst2: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A single weight is left, and the dense twin cannot learn."""
    flags = ["--model", str(bert), "--task", "glue/sst2", "--data", str(sst2), "--max-steps", "3"]
    flags += ["--criterion", "magnitude", "--sparsity", "0.99995", "--lr", "1e-12", "--baseline"]
    assert main(["prune", *flags, "--output", str(tmp_path / "out")]) == 0
    said = capfd.readouterr().out
    result = result_of(tmp_path / "out")
    assert result["parameters"]["prunable"]["nonzero"] == 1
    assert result["trivial"] == {"dev": {"accuracy": 0.5}}
    assert len(result["empty"]) == 11
    found = " | ".join(result["warnings"])
    assert "pruned whole, nothing is left of the layer" in found
    assert "at chance on dev: its accuracy of" in found
    assert "no better than the 0.5000 of one and the same answer to every row" in found
    assert "all 40 predictions on dev are the same: " in found
    assert result["baseline"]["empty"] == []
    assert [one.split(" on")[0] for one in result["baseline"]["warnings"]][:1] == ["at chance"]
    assert "Beware, the dense twin: at chance on dev" in said
    assert "Beware, magnitude: pruned whole" in said
    assert "sparsity, prunable" in said and "100.00%" not in said
    assert main(["info", str(tmp_path / "out")]) == 0
    told = capfd.readouterr().out.partition("all zero, nothing is left of: ")[2]
    assert {*told.splitlines()[0].split(", ")} == {*result["empty"]}
    assert json.loads((tmp_path / "out" / "result.json").read_text())


def test_a_good_run_says_nothing(
    bert: Path, sst2: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model", str(bert), "--task", "glue/sst2", "--data", str(sst2), "--batch-size", "8"]
    flags += ["--max-steps", "30", "--lr", "1e-3", "--criterion", "dense"]
    assert main(["prune", *flags, "--output", str(tmp_path / "out")]) == 0
    result = result_of(tmp_path / "out")
    assert result["metrics"]["dev"]["accuracy"] > 0.7 and result["warnings"] == []
    assert "Beware" not in capfd.readouterr().out
