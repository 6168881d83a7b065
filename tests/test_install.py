"""Installing the package where there is a C++ compiler, and where there is none."""

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

HERE = Path(__file__).parent.parent

USE = """
import warnings
import torch
from torch import nn
import prunella
from prunella.runtime import sparsify, variants

layers = [nn.Linear(20, 20) for _ in range(2)]
for layer in layers:
    nn.init.zeros_(layer.weight)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    kinds = [type(sparsify(nn.Sequential(layer))[0]).__name__ for layer in layers]
print(prunella.__file__)
print(bool(variants()), *kinds, sum("no engine" in str(w.message) for w in said))
"""


@pytest.mark.parametrize("compiler", [True, False])
def test_install(compiler: bool, tmp_path: Path) -> None:
    environment = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1")
    if not compiler:
        environment["CXX"] = str(tmp_path / "no compiler")
    pip = [sys.executable, "-m", "pip"]
    subprocess.run(
        [*pip, "wheel", "-q", "--no-deps", "-w", tmp_path, HERE],
        env=environment,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = ZipFile(wheel).namelist()
    assert "prunella/runtime/checkpoint.py" in names and "prunella/py.typed" in names
    assert not [name for name in names if name.endswith((".cpp", ".hpp", ".inl"))]
    assert any("_native." in name and name.endswith(".so") for name in names) == compiler

    target = tmp_path / "installed"
    subprocess.run(
        [*pip, "install", "-q", "--no-deps", "--target", target, wheel],
        check=True,
        capture_output=True,
    )
    # Without the packages' site hooks: those of an editable installation would come first.
    paths = [str(target), *(path for path in sys.path if path.endswith("site-packages"))]
    done = subprocess.run(
        [sys.executable, "-S", "-c", USE],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(paths)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    where, told = done.stdout.splitlines()
    assert Path(where).is_relative_to(target)
    kind = "SparseLinear" if compiler else "Linear"
    assert told == f"{compiler} {kind} {kind} {0 if compiler else 1}"
