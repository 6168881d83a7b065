"""Takes the place of ``prunella prune`` where a sweep is tested: a run that costs nothing.

    python imitation.py --config FILE --resume

Keeps the same folders, locks and signals. What it is to do is in the setting ``prefix``: "fail",
"crash" (as where memory runs out), "wait" (for the file ``go`` beside its folder), or nothing.
"""

import fcntl
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import yaml


def main(file: str, *flags: str) -> int:
    config = yaml.safe_load(Path(file).read_text())
    output = Path(config["output"])
    partial = output.with_name(f"{output.name}.partial")
    about = output.parent / "calls.jsonl"
    if (output / "result.json").exists() and flags == ("--resume",) and not partial.exists():
        print("this run is finished already")
        return 0
    partial.mkdir(parents=True, exist_ok=True)
    with (partial / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("prunella: another process is at work")
            return 2
        checkpoint = partial / "checkpoint"
        resumed = checkpoint.read_text() if checkpoint.exists() else "nothing"
        call = {"name": output.name, "flags": flags, "resumed": resumed}
        names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
        call |= {name: os.environ.get(name) for name in names}
        with about.open("a") as calls:
            print(json.dumps(call), file=calls, flush=True)
        (partial / "settings.json").write_text(json.dumps(config))
        return carry_out(config, output, partial)


def carry_out(config: dict, output: Path, partial: Path) -> int:
    wish = config["prefix"]
    if wish == "fail" and not (output.parent / "mended").exists():
        print("prunella: this value is bad; give a better one", file=sys.stderr)
        shutil.rmtree(partial)
        return 2
    if wish == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    steps = 0
    while wish == "wait" and steps < 3000 and not (output.parent / "go").exists():
        steps += 1
        if steps == 1:
            (partial / "checkpoint").write_text("regular")
        print(f"pins  {steps}/100000  loss 0.5", flush=True)
        time.sleep(0.01)
        if asked:
            (partial / "checkpoint").write_text("asked for")
            print("prunella: stopped; continue with --resume", file=sys.stderr)
            return 130
    if config["teacher"] and not (Path(config["teacher"]) / "model.safetensors").exists():
        print(f"prunella: the teacher {config['teacher']} has no model", file=sys.stderr)
        return 2
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    for name in ("model.safetensors", "config.json", "trace.json", "predictions.jsonl"):
        (output / name).write_text("")
    result = {
        "config": config,
        "task": {"metric": "accuracy"},
        "metrics": {"holdout": {"accuracy": 0.5}, "dev": {"accuracy": 0.75}},
        "seconds": 100.0,
        "environment": {"commit": os.environ.get("COMMIT")},
    }
    (output / "result.json").write_text(json.dumps(result))
    shutil.rmtree(partial)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[2:]))
