"""The kernels of processors that this machine emulates, where a cross-compiler is installed.

On Debian: ``apt-get install g++-aarch64-linux-gnu qemu-user-static``.
"""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NATIVE = HERE.parent / "src" / "prunella" / "runtime" / "native"
FLAGS = "-std=c++17 -O3 -fno-math-errno -fno-trapping-math -ffp-contract=fast -fopenmp -static"
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"


@pytest.mark.skipif(
    platform.machine() == "aarch64" or not (shutil.which(COMPILER) and shutil.which(EMULATOR)),
    reason=f"needs {COMPILER} and {EMULATOR}",
)
def test_neon(tmp_path: Path) -> None:
    sources = ["matrix", "dispatch", "team", "portable", "neon"]
    files = [HERE / "native" / "check.cpp", *(NATIVE / f"{name}.cpp" for name in sources)]
    program = tmp_path / "check"
    subprocess.run(
        [COMPILER, *FLAGS.split(), "-DPRUNELLA_ARM", f"-I{NATIVE}", *files, "-o", program],
        check=True,
    )
    done = subprocess.run([EMULATOR, program], capture_output=True, text=True, timeout=300)
    assert done.stdout == "neon: 0 wrong\nportable: 0 wrong\n"
