"""Which flags were given, and what refusals call them."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from transformers.integrations import integration_utils

import prunella
from prunella import UsageError, names, tasks
from prunella.criteria import CRITERIA
from prunella.experiments import places
from prunella.experiments.config import LISTS, RunConfig
from prunella.experiments.flags import in_flags, read


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


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--task nope", ["--task 'nope'", "glue/sst2"]),
        ("--criterion pnis", ["--criterion 'pnis'", "pins"]),
        ("--report-to tensorbored", ["--report-to tensorbored", "tensorboard, "]),
        ("--report-to wandb", ["--report-to wandb", "needs wandb"]),
        ("--data no.csv --task classification", ["--data no.csv", "No such file"]),
        ("--distill-data ./no", ["--distill-data ./no", "No such file"]),
        ("--model ./no", ["--model ./no", "no folder"]),
        ("--teacher ./no", ["--teacher ./no", "no folder"]),
        ("--masks-from ./no --no-baseline", ["--masks-from ./no", "no folder"]),
    ],
)
def test_what_is_not_there_is_said_before_anything_is_imported(
    flags: str, words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(places, "find_spec", lambda name: None if name == "wandb" else object)
    origin = [] if "--m" in flags else ["--model", "bert"]
    distilled = ["--regularize", "distill"] if "distill" in flags or "teacher" in flags else []
    distilled += ["--teacher", "b"] if "--distill-data" in flags else []
    config = read([*origin, *distilled, *flags.split()])
    with pytest.raises(UsageError) as error:
        config.check()
        places.check(config)
    line = in_flags(str(error.value))
    assert [word for word in words if word not in line] == []


def test_nothing_heavy_is_imported_for_an_answer(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom prunella.cli import main\n"
        "assert main(['prune', '--task', 'nope']) == main(['prune', '--model', './no']) == 2\n"
        "assert main(['--version']) == 0\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'numpy'} & {*sys.modules}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"


def test_names_are_those_that_there_are() -> None:
    assert {*names.TASKS} == {*tasks.TASKS, *tasks.OWN} and {*names.CRITERIA} == {*CRITERIA}
    assert {*names.TRACKERS} == {*integration_utils.INTEGRATION_TO_CALLBACK}


def test_the_package_gives_all_that_it_names() -> None:
    homes = [name for inside in prunella._PLACES.values() for name in inside]
    assert sorted(homes) == sorted(prunella.__all__)
    assert all(getattr(prunella, name) is not None for name in prunella.__all__)
    assert prunella.masks.Masks and {*prunella.__all__} <= {*dir(prunella)}
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        prunella.lod  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Prunner'"):
        exec("from prunella import Prunner")
