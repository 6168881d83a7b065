"""Recordings of the released implementations, where they are at hand."""

import os
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(
    os.environ.get("PRUNELLA_GOLDEN", Path(__file__).resolve().parents[2] / "shared" / "golden")
)


def recording(name):
    """The arrays of one recording; without them the test is skipped."""
    path = FOLDER / f"{name}.npz"
    if not path.exists():
        pytest.skip("no golden recordings here; set PRUNELLA_GOLDEN")
    return np.load(path)
