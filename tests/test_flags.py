"""Which flags were given, and what refusals call them."""

from dataclasses import fields
from pathlib import Path

import pytest

from prunella.experiments.config import LISTS, RunConfig
from prunella.experiments.flags import read


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "f.yaml"
    path.write_text("prune: [query, key]\nlevels: [0.5, 0.6]\nmax_drop: 0.1\nreport_to: [wandb]\n")
    return str(path)


@pytest.mark.parametrize(
    "flags",
    [
        ["--output", "prune"],
        ["--text-column", "levels"],
        ["--label-column", "report_to", "--pair-column", "--prune".removeprefix("--")],
        ["--label-column=-1", "--text-column", "-2"],
        ["--no-truncate", "--output=prune"],
        ["--prefix=--prune", "--text_column", "prune"],
    ],
)
def test_a_value_is_no_flag(file: str, flags: list[str]) -> None:
    for arguments in (["--config", file, *flags], [*flags, f"--config={file}"]):
        config = read(arguments)
        assert config.prune == ("query", "key") and config.levels == (0.5, 0.6)
        assert config.report_to == ("wandb",)


def test_a_flag_that_is_given_replaces_the_list_of_the_file(file: str) -> None:
    config = read(["--prune", "value", "--config", file, "--levels=0.7", "--text-column", "config"])
    assert config.prune == ("value",) and config.levels == (0.7,)
    assert config.report_to == ("wandb",) and config.text_column == "config"


def test_every_flag_takes_what_is_its_own(file: str) -> None:
    """The value of any flag may be the name of a list, whose own values then stay."""
    for field in fields(RunConfig):
        if str(field.type) in ("str", "str | None"):
            flag = f"--{field.name.replace('_', '-')}"
            assert getattr(read([flag, "prune", "--config", file]), field.name) == "prune"
            assert read([flag, "prune", "--config", file]).prune == ("query", "key")
    assert {*LISTS} <= {field.name for field in fields(RunConfig)}
