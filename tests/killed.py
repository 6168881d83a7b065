"""Runs of ``prunella prune`` that are killed at every kind of moment, and resumed.

    python tests/killed.py MODEL DATA FOLDER

Started by ``test_resume.py``. Everything is imported once; each run is a fork of this process,
which has not trained anything itself. Prints a JSON object: what happened at each point.
"""

import gc
import json
import os
import random
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from prunella.cli import main
from prunella.experiments import run as experiments  # noqa: F401 - imported before forking
from prunella.experiments import study
from prunella.hf import checkpoints

MOMENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"}

Act = Callable[[str], None]


def flags(output: Path, *more: str) -> list[str]:
    fixed = f"--model {MODEL} --data {DATA} --task glue/sst2 --output {output}"
    settings = (
        "--criterion movement --regularize self --snapshot-every 3 --max-steps 12 --every 2 "
        "--batch-size 22 --lr 1e-3 --check-every 4"
    )
    return ["prune", *fixed.split(), *settings.split(), *more]


def forked(output: Path, act: Act, *more: str, before: Callable[[], None] = lambda: None) -> int:
    """Exit status of a run in a process of its own, negative where a signal ended it.

    ``act`` is told of every moment at which something is written, renamed or removed.
    """
    child = os.fork()
    if child == 0:
        log = os.open(f"{output}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        try:
            watch(output, act)
            before()
            status = main(flags(output, *more))
        except BaseException as error:
            print(repr(error), flush=True)
            status = 99
        sys.stdout.flush()
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def watch(output: Path, act: Act) -> None:
    """Tell of moments: those that the interpreter announces, and files half written."""

    here = (str(output), f"{output}/", f"{output}.partial", f"{output}.replaced")  # not .log, .last

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        path = str(arguments[0]) if event in MOMENTS else ""
        if event in ("os.remove", "os.rmdir") and arguments[1] not in (None, -1):
            path = f"{os.readlink(f'/proc/self/fd/{arguments[1]}')}/{path}"
        if path not in here and not path.startswith(here[1:]):
            return
        if event != "open" or "w" in str(arguments[1]):
            act(f"{event} {Path(path).relative_to(output.parent)}")

    sys.addaudithook(hook)
    save = torch.save

    def half(state: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        save(state, file, *args, **kwargs)
        whole = Path(file).read_bytes()
        Path(file).write_bytes(whole[: len(whole) // 2])
        act(f"half {Path(file).relative_to(output.parent)}")
        Path(file).write_bytes(whole)

    torch.save = half
    step = transformers.Trainer.training_step

    def training_step(self: transformers.Trainer, *args: Any, **kwargs: Any) -> Any:
        act(f"step {self.state.global_step}")
        return step(self, *args, **kwargs)

    transformers.Trainer.training_step = training_step  # type: ignore[method-assign]
    keep = study.keep

    def remember(model: Any, tokenizer: Any, folder: Path) -> None:
        """Set the last checkpoint aside, which is removed when the model is saved."""
        last = checkpoints.latest(folder.parent)
        if last is not None:
            shutil.copytree(last, f"{output}.last", dirs_exist_ok=True)
        keep(model, tokenizer, folder)

    study.keep = remember


def differences(one: Path, other: Path) -> list[str]:
    """What two finished runs do not share, of what they left and of their last checkpoints."""
    odd = [
        name
        for name in ("sparse.safetensors", "predictions.jsonl", "config.json")
        if (one / name).read_bytes() != (other / name).read_bytes()
    ]
    ours, theirs = (json.loads((path / "result.json").read_text()) for path in (one, other))
    for volatile in ("seconds", "speed", "config"):
        ours.pop(volatile), theirs.pop(volatile)
    odd += ["result.json"] * (ours != theirs)
    last, others = Path(f"{one}.last"), Path(f"{other}.last")
    for name in ("model.safetensors", "regularizers.safetensors"):
        odd += [f"last {name}"] * ((last / name).read_bytes() != (others / name).read_bytes())
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        states = [torch.load(path / name, weights_only=False) for path in (last, others)]
        odd += [f"last {name}"] * (not same(*states))
    if list(one.parent.glob(f"{one.name}.partial")):
        odd.append("the folder in progress is left")
    return odd


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, Sequence) and not isinstance(one, str):
        return len(one) == len(other) and all(map(same, one, other))
    return bool((one == other) if not hasattr(one, "all") else (one == other).all())


def kill_at(number: int) -> Act:
    """A moment, counted from 0, at which the process dies without notice."""
    seen = iter(range(10**9))

    def act(moment: str) -> None:
        if next(seen) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return act


def interrupt_at(number: int) -> Act:
    """Ctrl-C in the middle of a step."""
    return lambda moment: (
        os.kill(os.getpid(), signal.SIGINT) if moment == f"step {number}" else None
    )


def chosen(moments: list[str]) -> list[int]:
    """The writing, renaming and removal of everything that matters, and a few more moments."""
    kinds: dict[str, int] = {}
    for number, moment in enumerate(moments):
        event, _, path = moment.partition(" ")
        kinds.setdefault(f"{event} {Path(path).name.rpartition('-')[0] or Path(path).name}", number)
    matter = [n for k, n in kinds.items() if k.startswith(("half", "os.rename", "shutil", "step"))]
    matter += [n for n, moment in enumerate(moments) if ".removed" in moment][2:5]
    rest = sorted(set(range(len(moments))) - set(matter))
    return sorted({*matter, *random.Random(0).sample(rest, 8)})


def resumed(output: Path, reference: Path) -> dict[str, Any]:
    status = forked(output, lambda moment: None, "--resume")
    log = Path(f"{output}.log").read_text()
    odd = differences(output, reference) if status == 0 else [log[-600:]]
    shutil.rmtree(output, ignore_errors=True)
    return {"resumed": status, "differences": odd, "log": log}


def full_disk() -> None:
    """No file may grow beyond 60 kB; the optimizer's state is larger."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))


def everything() -> dict[str, Any]:
    reference, moments = FOLDER / "reference", FOLDER / "moments"

    def note(moment: str) -> None:
        descriptor = os.open(moments, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, f"{moment}\n".encode())
        os.close(descriptor)

    assert forked(reference, note) == 0, Path(f"{reference}.log").read_text()
    found = moments.read_text().splitlines()
    report: dict[str, Any] = {"moments": found, "killed": {}}
    for number in chosen(found):
        output = FOLDER / f"run{number}"
        status = forked(output, kill_at(number))
        report["killed"][f"{number} {found[number]}"] = {"killed": status} | resumed(
            output, reference
        )
    output = FOLDER / "interrupted"
    status = forked(output, interrupt_at(5))
    report["interrupted"] = {"status": status} | resumed(output, reference)
    output = FOLDER / "full"
    status = forked(output, lambda moment: None, before=full_disk)
    report["full"] = {"status": status} | resumed(output, reference)
    return report


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.fsync = lambda descriptor: None  # a process is killed, not the machine
    gc.freeze()  # every training asks for a collection
    MODEL, DATA, FOLDER = (Path(argument) for argument in sys.argv[1:])
    print(json.dumps(everything()))
