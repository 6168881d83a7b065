"""What a result was made with: packages, code, hardware."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

import prunella

PACKAGES = ("torch", "transformers", "datasets", "accelerate", "torchmetrics", "numpy")


def environment() -> dict[str, Any]:
    """Versions, the commit of this code (None outside a checkout) and the hardware."""
    return {
        "python": platform.python_version(),
        # Its own version also where it runs from a checkout that was never installed.
        "packages": {"prunella": prunella.__version__}
        | {name: _version(name) for name in PACKAGES},
        "commit": commit(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": PartialState().num_processes,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of the checkout this code is in, with a plus sign if it was changed since."""
    here = Path(prunella.__file__).parent
    try:
        tracked = _git(here, "ls-files", "--error-unmatch", "__init__.py")
        head = _git(here, "rev-parse", "HEAD") if tracked else ""
        return head + ("+" if _git(here, "status", "--porcelain", ".") else "") or None
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    return done.stdout.strip()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
