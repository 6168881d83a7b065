"""Nothing is lost: runs that are killed, stopped or starved of disk go on unharmed."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from folders import assert_refused

from prunella.cli import main
from prunella.hf.checkpoints import check, latest

STEPS = 12


@pytest.fixture(scope="module")
def report(bert: Path, sst2: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``killed.py`` saw."""
    script = Path(__file__).with_name("killed.py")
    folder = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, script, bert, sst2, folder],
        capture_output=True,
        text=True,
        timeout=900,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_run_killed_at_any_moment_ends_as_if_it_had_not_been(report: dict[str, Any]) -> None:
    """Weights, predictions, and of the last checkpoint masks, scores, optimizer, snapshot, RNG."""
    killed = report["killed"]
    assert len(killed) >= 20
    for part in ("half", "optimizer.pt", "os.rename", "shutil.rmtree", "step", "result.json"):
        assert any(part in moment for moment in killed)
    assert any("os.rename" in moment and "checkpoint-4" in moment for moment in killed)
    for moment, after in killed.items():
        assert after["killed"] == -9, moment
        assert after["resumed"] == 0 and after["differences"] == [], (moment, after["log"])


def test_ctrl_c_ends_the_step_and_says_how_to_go_on(report: dict[str, Any]) -> None:
    after = report["interrupted"]
    assert after["status"] == 130
    assert "stopping after this step; once more stops at once" in after["log"]
    assert re.search(
        r"^prunella: stopped; continue with: prunella prune --config \S+ --resume$",
        after["log"],
        re.M,
    )
    assert "resuming movement after step 6" in after["log"]
    assert after["differences"] == []


def test_a_full_disk_is_one_clear_line(report: dict[str, Any]) -> None:
    after = report["full"]
    assert after["status"] == 1
    (line,) = re.findall(r"^prunella: .*", after["log"], re.M)
    assert "the checkpoint at step 4 could not be written" in line
    assert after["differences"] == []


# --- what cannot be resumed ---------------------------------------------------------------------


def _run(bert: Path, data: Path, output: Path, *flags: str) -> int:
    fixed = f"--model {bert} --data {data} --task glue/sst2 --output {output} --max-steps {STEPS}"
    settings = "--criterion magnitude --batch-size 8 --check-every 4 --every 2"
    return main(["prune", *fixed.split(), *settings.split(), *flags])


@pytest.fixture
def broken_off(
    bert: Path, sst2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """A run that broke off after its checkpoints of steps 4 and 8."""

    def broken_off(*flags: str, data: Path = sst2) -> Path:
        import transformers

        with monkeypatch.context() as patch:
            step = transformers.Trainer.training_step

            def stops(self: transformers.Trainer, *args: Any, **kwargs: Any) -> Any:
                if self.state.global_step == 9:
                    raise KeyboardInterrupt
                return step(self, *args, **kwargs)

            patch.setattr(transformers.Trainer, "training_step", stops)
            assert _run(bert, data, tmp_path / "out", *flags) == 130
        return tmp_path / "out.partial" / "magnitude"

    return broken_off


def test_a_run_in_progress_is_not_overwritten_by_accident(
    broken_off: Callable[..., Path], bert: Path, sst2: Path, tmp_path: Path, capfd: Any
) -> None:
    folder = broken_off()
    capfd.readouterr()
    assert _run(bert, sst2, tmp_path / "out") == 2
    assert_refused(capfd, ["out.partial", "--resume", "--overwrite"])
    assert latest(folder) == folder / "checkpoint-8"
    assert _run(bert, sst2, tmp_path / "out", "--overwrite") == 0
    assert "resuming magnitude" not in capfd.readouterr().out


def test_other_settings_are_named(
    broken_off: Callable[..., Path], bert: Path, sst2: Path, tmp_path: Path, capfd: Any
) -> None:
    broken_off()
    capfd.readouterr()
    assert _run(bert, sst2, tmp_path / "out", "--resume", "--sparsity", "0.7", "--seed", "3") == 2
    assert_refused(capfd, ["--sparsity 0.8, not 0.7", "--seed 0, not 3", "--overwrite"])
    assert _run(bert, sst2, tmp_path / "out", "--resume") == 0
    assert "resuming magnitude after step 8" in capfd.readouterr().out


def test_other_data_are_named(
    broken_off: Callable[..., Path], bert: Path, sst2: Path, tmp_path: Path, capfd: Any
) -> None:
    data = shutil.copytree(sst2, tmp_path / "data")
    broken_off(data=data)
    with (data / "dev.tsv").open("a") as file:
        file.write("good\t1\n")
    capfd.readouterr()
    assert _run(bert, data, tmp_path / "out", "--resume") == 2
    assert_refused(capfd, ["data changed", "dev", "40"])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda c: _flip(c / "optimizer.pt"), ["optimizer.pt", "SHA-256"]),
        (lambda c: (c / "scheduler.pt").unlink(), ["lost", "scheduler.pt"]),
        (lambda c: (c / "manifest.json").write_text("{"), ["manifest.json", "no readable"]),
        (lambda c: (c / "manifest.json").write_text('{"format": 9, "files": {}}'), ["format 9"]),
    ],
)
def test_a_damaged_checkpoint_is_named(
    damage: Callable[[Path], object],
    words: list[str],
    broken_off: Callable[..., Path],
    bert: Path,
    sst2: Path,
    tmp_path: Path,
    capfd: Any,
) -> None:
    folder = broken_off()
    damage(folder / "checkpoint-8")
    capfd.readouterr()
    assert _run(bert, sst2, tmp_path / "out", "--resume") == 2
    assert_refused(capfd, ["checkpoint-8", *words])
    shutil.rmtree(folder / "checkpoint-8")  # as the message says
    assert _run(bert, sst2, tmp_path / "out", "--resume") == 0
    assert "resuming magnitude after step 4" in capfd.readouterr().out


def test_a_foreign_checkpoint_is_not_taken_for_one(
    broken_off: Callable[..., Path], bert: Path, sst2: Path, tmp_path: Path, capfd: Any
) -> None:
    folder = broken_off()
    (folder / "checkpoint-11").mkdir()
    (folder / "checkpoint-11" / "trainer_state.json").write_text("{}")
    assert latest(folder) == folder / "checkpoint-8"
    check(folder / "checkpoint-8")
    assert _run(bert, sst2, tmp_path / "out", "--resume") == 0
    assert "resuming magnitude after step 8" in capfd.readouterr().out


def test_two_processes_do_not_share_a_folder(
    broken_off: Callable[..., Path], bert: Path, sst2: Path, tmp_path: Path, capfd: Any
) -> None:
    folder = broken_off()
    capfd.readouterr()
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for flag in ("--resume", "--overwrite"):
            assert _run(bert, sst2, tmp_path / "out", flag) == 2
            assert_refused(capfd, ["another process", "out.partial"])
    assert latest(folder) == folder / "checkpoint-8"


def test_resuming_nothing_begins_and_resuming_what_is_done_shows_it(
    bert: Path, sst2: Path, tmp_path: Path, capfd: Any
) -> None:
    assert _run(bert, sst2, tmp_path / "out", "--resume") == 0
    first = capfd.readouterr().out
    assert "resuming magnitude" not in first
    before = (tmp_path / "out" / "sparse.safetensors").stat().st_mtime_ns
    assert _run(bert, sst2, tmp_path / "out", "--resume") == 0
    again = capfd.readouterr().out
    assert "finished already" in again and first.splitlines()[-1] in again
    assert (tmp_path / "out" / "sparse.safetensors").stat().st_mtime_ns == before
    assert _run(bert, sst2, tmp_path / "out", "--resume", "--seed", "1") == 2
    assert_refused(capfd, ["--seed 0, not 1"])


def test_without_an_output_the_last_run_that_fits_goes_on(
    broken_off: Callable[..., Path],
    bert: Path,
    sst2: Path,
    tmp_path: Path,
    capfd: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = broken_off().parent
    Path("runs").mkdir()
    folder.rename("runs/glue-sst2-magnitude-0.8-seed0.partial")
    fixed = f"--model {bert} --data {sst2} --task glue/sst2 --max-steps {STEPS} --resume"
    settings = "--criterion magnitude --batch-size 8 --check-every 4 --every 2"
    assert main(["prune", *fixed.split(), *settings.split()]) == 0
    assert "resuming magnitude after step 8" in capfd.readouterr().out
    assert [path.name for path in Path("runs").iterdir()] == ["glue-sst2-magnitude-0.8-seed0"]


@pytest.mark.parametrize("flag", ["--resume", "--overwrite"])
@pytest.mark.parametrize("place", ["out", "out.partial"])
def test_folders_of_others_are_left_alone(
    place: str, flag: str, bert: Path, sst2: Path, tmp_path: Path, capfd: Any
) -> None:
    (tmp_path / place / "magnitude").mkdir(parents=True)
    (tmp_path / place / "thesis.txt").write_text("precious")
    assert _run(bert, sst2, tmp_path / "out", flag) == 2
    assert_refused(capfd, [place, "no result of a run", "--output"])
    assert (tmp_path / place / "thesis.txt").read_text() == "precious"
    assert _run(bert, sst2, sst2.parent, flag) == 2
    assert_refused(capfd, ["holds the input", "--output"])


def test_without_an_output_a_finished_run_is_not_done_again(
    bert: Path, sst2: Path, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fixed = f"--model {bert} --data {sst2} --task glue/sst2 --resume"
    flags = f"{fixed} --max-steps 2 --criterion dense"
    assert main(["prune", *flags.split()]) == 0
    assert "nothing to resume" in capfd.readouterr().out
    assert main(["prune", *flags.split()]) == 0
    assert "finished already" in capfd.readouterr().out
    assert [path.name for path in Path("runs").iterdir()] == ["glue-sst2-dense-0.8-seed0"]
