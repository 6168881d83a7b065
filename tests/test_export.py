"""What goes along with a checkpoint's weights, what stays, and what is never replaced unasked."""

import json
import os
import shutil

import families
import pytest
import torch
from folders import assert_refused
from safetensors.torch import save_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

import prunella
from prunella import UsageError
from prunella.cli import main

RUN = ("result.json", "prunella.yaml", "trace.json", "predictions.jsonl", "predictions.jsonl.gz")


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    families.save("bert", folder)
    return folder


def put(folder, *names, text="x"):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def files_of(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("form", ["sparse", "dense"])
def test_all_that_belongs_to_the_model_goes_along(source, tmp_path, form):
    modules = [{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}, {"path": "3_Normalize"}]
    put(source, "modules.json", text=json.dumps(modules))
    along = {
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/pytorch_model.bin",  # of the part itself
        "additional_chat_templates/tool.jinja",
        "tokenizer_parts/de/vocab.txt",
        "README.md",
    }
    own = files_of(source) - {"model.safetensors"}
    put(source, *along)
    (source / "3_Normalize").mkdir()
    left = (
        *RUN,
        "levels/0.5/sparse.safetensors",
        "levels/0.5/config.json",
        "checkpoint-500/model.safetensors",
        "checkpoint-500/optimizer.pt",
        "onnx/model.onnx",
        "tf_model.h5",
        "flax_model.msgpack",
        "pytorch_model.bin",
        "openvino_model.xml",
        "openvino_model.bin",
        ".git/config",
        ".gitattributes",
        ".cache/huggingface/x.lock",
    )
    put(source, *left)
    put(tmp_path, "elsewhere/merges.txt", "blob")
    (source / "linked").symlink_to(tmp_path / "elsewhere")
    (source / "linked.txt").symlink_to(tmp_path / "blob")
    (source / "dangling").symlink_to(tmp_path / "nowhere")
    (source / "up").symlink_to(tmp_path)
    (source / "tokenizer_parts" / "up").symlink_to(source)
    out = tmp_path / "out"
    prunella.export(source, out, form)
    weights = "sparse.safetensors" if form == "sparse" else "model.safetensors"
    expected = own | along | {weights, "modules.json", "linked/merges.txt", "linked.txt"}
    assert files_of(out) == expected
    assert (out / "3_Normalize").is_dir() and not any(path.is_symlink() for path in out.rglob("*"))
    assert prunella.load(out, "dense").num_parameters() > 0


def test_a_target_inside_the_source_is_not_copied_into_itself(source):
    for _ in range(2):
        prunella.export(source, source / "small", "sparse", overwrite=True)
        assert not (source / "small" / "small").exists()


HELD = {
    "weights": ["sparse.safetensors"],
    "pickled": ["pytorch_model.bin"],
    "shards": ["model-00001-of-00002.safetensors"],
    "onnx": ["model.onnx"],
    "a config": ["config.json"],
    "a run": ["result.json"],
    "a folder of the same name": ["1_Pooling/config.json"],
}


@pytest.mark.parametrize("held", HELD)
def test_nothing_is_lost_unasked(source, tmp_path, held, capfd):
    put(source, "1_Pooling/config.json")
    out = tmp_path / "out"
    put(out, *HELD[held], "notes.txt")
    before = files_of(out)
    assert main(["export", str(source), str(out)]) == 2
    assert_refused(capfd, [HELD[held][0].split("/")[0], "--overwrite"])
    with pytest.raises(UsageError, match="overwrite=True"):
        prunella.export(source, out, "dense")
    assert files_of(out) == before
    assert main(["export", str(source), str(out), "--overwrite"]) == 0
    assert files_of(out) == {
        *files_of(source) - {"model.safetensors"},
        "sparse.safetensors",
        "notes.txt",
    }
    assert prunella.load(out, "dense")


def test_a_folder_without_a_model_is_exported_to(source, tmp_path):
    put(tmp_path / "out", "notes.txt", ".git/config")
    prunella.export(source, tmp_path / "out", "sparse")
    assert {"notes.txt", ".git/config", "sparse.safetensors"} <= files_of(tmp_path / "out")


def test_saving_replaces_the_same_model_and_no_other(source, tmp_path):
    model = AutoModelForMaskedLM.from_pretrained(source)
    out = tmp_path / "out"
    model.save_pretrained(out)
    for _ in range(2):
        prunella.save(model, out)
    again = prunella.load(out, "dense")
    prunella.save(again, out)
    others = [
        families.build("roberta", AutoModelForMaskedLM),
        families.build("bert", families.AutoModelForCausalLM),
    ]
    for other in others:
        with pytest.raises(UsageError, match=r"another model .sparse.safetensors.*overwrite=True"):
            prunella.save(other, out)
    (out / "config.json").unlink()
    with pytest.raises(UsageError, match="another model"):
        prunella.save(model, out)
    prunella.save(others[0], out, overwrite=True)
    assert prunella.load(out, "dense").config.model_type == "roberta"
    assert {path.name for path in out.glob("*.safetensors")} == {"sparse.safetensors"}


def test_a_result_never_tells_of_another_model(source, tmp_path):
    model = AutoModelForMaskedLM.from_pretrained(source)
    prunella.save(model, tmp_path / "out")
    put(tmp_path / "out", *RUN)
    with pytest.raises(UsageError, match="result of a run"):
        prunella.save(model, tmp_path / "out")
    prunella.save(model, tmp_path / "out", overwrite=True)
    assert not files_of(tmp_path / "out") & {*RUN}


def test_files_are_replaced_by_folders_and_folders_by_files(source, tmp_path):
    put(source, "a/b")
    put(source, "c")
    put(tmp_path / "out", "a", "c/d")
    prunella.export(source, tmp_path / "out", "sparse", overwrite=True)
    assert {"a/b", "c"} <= files_of(tmp_path / "out")


# --- folders among a run's files -----------------------------------------------------------------


@pytest.fixture
def templated(bert, tmp_path):
    """A model whose tokenizer has several chat templates, which are saved in a folder."""
    folder = tmp_path / "templated"
    shutil.copytree(bert, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = {"default": "{{ messages }}", "tool": "{{ tools }}"}
    tokenizer.save_pretrained(folder)
    assert (folder / "additional_chat_templates" / "tool.jinja").is_file()
    return folder


@pytest.mark.parametrize("flags", ["--criterion dense", "--criterion magnitude --save dense"])
def test_a_tokenizer_with_folders_is_delivered(templated, sst2, tmp_path, flags):
    out = tmp_path / "out"
    fixed = ["--model", str(templated), "--data", str(sst2), "--task", "glue/sst2"]
    steps = ["--max-steps", "10", "--batch-size", "4", "--check-every", "5", "--output", str(out)]
    assert main(["prune", *fixed, *steps, *flags.split()]) == 0
    assert set(AutoTokenizer.from_pretrained(out).chat_template) == {"default", "tool"}
    assert (out / "result.json").is_file()


def test_a_tokenizer_with_folders_is_kept_at_every_level(templated, sst2, tmp_path):
    out = tmp_path / "out"
    fixed = ["--model", str(templated), "--data", str(sst2), "--task", "glue/sst2"]
    steps = ["--max-steps", "30", "--batch-size", "4", "--output", str(out), "--save", "dense"]
    assert main(["prune", *fixed, *steps, "--criterion", "magnitude", "--max-drop", "0.9"]) == 0
    levels = sorted((out / "levels").iterdir())
    assert levels and all((level / "additional_chat_templates").is_dir() for level in levels)


def test_an_unlinkable_file_is_copied(source, tmp_path, monkeypatch):
    from prunella.runtime.companions import copy_along, link_or_copy

    def refuse(*_):
        raise OSError("other device")

    put(source, "folder/file")
    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "out").mkdir()
    copy_along(source.iterdir(), tmp_path / "out", link_or_copy)
    assert files_of(tmp_path / "out") == files_of(source)


def test_safetensors_of_other_names_go_along(source, tmp_path):
    save_file({"x": torch.zeros(1)}, source / "head.safetensors")
    prunella.export(source, tmp_path / "out", "sparse")
    assert (tmp_path / "out" / "head.safetensors").is_file()
