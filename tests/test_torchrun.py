"""One run of the command by several processes, and by another number of them when it goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from folders import predictions_of, result_of, zeros_of

from prunella.cli import main

PROCESSES = 2


def _flags(bert: Path, sst2: Path, output: Path) -> list[str]:
    data = f"prune --model {bert} --task glue/sst2 --data {sst2} --batch-size 8 --max-steps 24"
    ramp = "--sparsity 0.6 --begin 4 --end 15 --every 2 --check-every 6 --regularize self"
    return [*data.split(), *ramp.split(), "--criterion", "movement", "--output", str(output)]


def _torchrun(*command: str) -> subprocess.CompletedProcess[str]:
    launcher = f"torch.distributed.run --standalone --nproc-per-node {PROCESSES}"
    return subprocess.run(
        [sys.executable, "-m", *launcher.split(), *command],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def run(bert: Path, sst2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two processes, in one go, the dense twin too."""
    output = tmp_path_factory.mktemp("torchrun") / "run"
    done = _torchrun("-m", "prunella", *_flags(bert, sst2, output), "--baseline")
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("dev accuracy") == 1  # the first process tells, the other is quiet
    return output


def test_two_processes_leave_one_result(run: Path) -> None:
    result = result_of(run)
    assert result["environment"]["processes"] == PROCESSES
    assert result["parameters"]["prunable"] == {"nonzero": 6554, "total": 16384}
    assert zeros_of(run) == 16384 - 6554
    assert result["steps"] == result["baseline"]["steps"] == 24
    assert len(predictions_of(run)) == 2 * 40
    losses = [entry["loss"] for entry in json.loads((run / "trace.json").read_text())["log"]]
    assert len(losses) == 24
    assert not run.with_name("run.partial").exists()


def test_one_of_two_processes_writes_the_levels(bert: Path, sst2: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    where = f"prune --model {bert} --task glue/sst2 --data {sst2} --batch-size 8 --max-steps 24"
    climb = "--levels 0.3 --levels 0.5 --levels 0.6 --begin 3 --every 1 --max-drop 0.9"
    command = [*where.split(), *climb.split(), "--criterion", "magnitude", "--output", str(output)]
    done = _torchrun("-m", "prunella", *command)
    assert done.returncode == 0, done.stderr[-4000:]
    assert result_of(output)["max_drop"]["delivered"] == 0.6
    assert {path.name: zeros_of(path) for path in (output / "levels").iterdir()} == {
        f"{level}": round(level * 16384) for level in (0.3, 0.5, 0.6)
    }


def test_one_process_goes_on_where_two_stopped(
    bert: Path, sst2: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Masks, scores, dormant weights and the snapshot are the run's, not the processes'."""
    flags = _flags(bert, sst2, tmp_path / "run")
    script = Path(__file__).with_name("broken_off.py")
    assert _torchrun(str(script), "13", *flags).returncode != 0
    capfd.readouterr()
    assert main([*flags, "--resume"]) == 0
    assert "resuming movement after step 12" in capfd.readouterr().out
    result = result_of(tmp_path / "run")
    assert result["environment"]["processes"] == 1
    assert zeros_of(tmp_path / "run") == 16384 - 6554
    steps = [e["step"] for e in json.loads((tmp_path / "run/trace.json").read_text())["log"]]
    assert steps == list(range(1, 25))


def test_a_batch_that_cannot_be_shared(bert: Path, sst2: Path, tmp_path: Path) -> None:
    done = _torchrun("-m", "prunella", *_flags(bert, sst2, tmp_path / "run"), "--batch-size", "9")
    assert done.returncode != 0
    assert "--batch-size 9 cannot be shared evenly by 2 processes" in done.stderr
    assert not any(tmp_path.iterdir())
