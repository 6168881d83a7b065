"""Little data and few steps: the defaults fit themselves to the run, or it is refused by a flag."""

import re
from pathlib import Path

import pytest
import torch
from folders import assert_refused, flags_in, result_of, zeros_of
from torch import nn

from prunella import L0, PINS, PLATON, Magnitude, Pruner, UsageError
from prunella.cli import main
from prunella.criteria import CRITERIA
from prunella.experiments import build
from prunella.experiments.build import SCHEDULES
from prunella.experiments.config import LEARNED, WINDOWED, RunConfig
from prunella.experiments.flags import in_flags

PRUNABLE = 16384


def _pruner(config: RunConfig, steps: int) -> Pruner:
    model = nn.Sequential(nn.Linear(4, 5))
    optimizer = torch.optim.AdamW(model.parameters())
    return Pruner(model, optimizer, **build.pruning(config, steps=steps), total_steps=steps)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_takes_every_number_of_steps(criterion: str) -> None:
    for schedule in SCHEDULES:
        config = RunConfig(criterion=criterion, schedule=schedule)  # type: ignore[arg-type]
        for steps in range(1, 61):
            try:
                pruner = _pruner(config, steps)
            except UsageError as error:  # two steps are too few where masks move to the end
                assert steps == 1 or (steps == 2 and criterion.endswith("released"))
                assert "max-steps" in flags_in(in_flags(str(error)))
                continue
            first, last = pruner.schedule.first_update(), pruner.schedule.final_update()
            assert pruner.criterion.evidence <= first <= last < steps
            assert pruner.schedule.sparsity(last) == 0.8
            assert first > 0 or steps == 1


@pytest.mark.parametrize("steps", [12, 20, 60])
def test_levels_take_few_steps(steps: int) -> None:
    config = RunConfig(max_drop=0.1, levels=(0.5, 0.8))
    pruner = _pruner(config, steps)
    assert pruner.criterion.evidence <= pruner.schedule.first_update()
    with pytest.raises(UsageError) as error:
        _pruner(config, 6)
    assert {"max-steps", "levels", "begin"} <= flags_in(in_flags(str(error.value)))


def test_a_criterion_fits_where_it_must_and_no_further() -> None:
    assert PINS().fitted(4) == PINS(window=4) and PLATON().fitted(0) == PLATON(window=1)
    assert PINS().fitted(400) == PINS() and PINS(signed=True).fitted(4) == PINS(signed=True)
    assert L0().fitted(4) == L0() and Magnitude().fitted(0) == Magnitude()


def test_what_is_given_stays() -> None:
    assert _pruner(RunConfig(window=3), 20).criterion == PINS(window=3)
    with pytest.raises(UsageError, match=r"step 10.*step 4; .*window=10"):
        _pruner(RunConfig(window=10), 6)
    with pytest.raises(UsageError, match=r"window=3 is for platon.*not for magnitude"):
        build.pruning(RunConfig(criterion="magnitude", window=3))
    with pytest.raises(UsageError, match=r"no evidence.*selected at step 0"):
        _pruner(RunConfig(schedule="oneshot", begin=0), 20)
    with pytest.raises(UsageError, match=r"l0 has learned nothing at step 0.*warmup=0"):
        _pruner(RunConfig(criterion="l0", schedule="oneshot", begin=0), 20)
    assert _pruner(RunConfig(criterion="l0", schedule="oneshot", begin=0, warmup=0), 20)


def test_the_settings_know_which_criteria_have_a_window() -> None:
    windowed = [name for name, made in CRITERIA.items() if made().fitted(1) != made()]
    assert sorted(windowed) == sorted(WINDOWED)
    assert all(CRITERIA[name]().dormant or CRITERIA[name]().gated for name in LEARNED)


@pytest.mark.parametrize(("rows", "steps", "window"), [(20, 3, 2), (25, 3, 2), (60, 6, 4)])
def test_a_tiny_table(
    rows: int,
    steps: int,
    window: int,
    bert: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    lines = [f"{('bad', 'good')[n % 2]} thing {n},{'ny'[n % 2]}" for n in range(rows)]
    (tmp_path / "tiny.csv").write_text("\n".join(["text,label", *lines]))
    flags = ["--model", str(bert), "--task", "classification", "--data", str(tmp_path / "tiny.csv")]
    assert main(["prune", *flags, "--epochs", "3", "--output", str(tmp_path / "out")]) == 0
    said = " ".join(capfd.readouterr().out.split())
    assert f"by pins; pins averages {window} steps in place of 10, for so soon" in said
    result = result_of(tmp_path / "out")
    assert result["steps"] == steps and zeros_of(tmp_path / "out") == round(0.8 * PRUNABLE)
    assert f"window={window}," in result["pruned_by"]["criterion"]
    assert re.match(r"Cubic\(final=0.8, begin=\d, end=\d, ", result["pruned_by"]["schedule"])


def test_one_step_is_too_short(
    bert: Path, sst2: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model", str(bert), "--task", "glue/sst2", "--data", str(sst2)]
    assert main(["prune", *flags, "--max-steps", "1", "--output", str(tmp_path / "out")]) == 2
    assert_refused(capfd, ["a run of 1 steps", "--max-steps", "--begin and --end"])
