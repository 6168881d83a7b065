"""Two processes must come to what one does: data parallel, sharded, and across checkpoints."""

import os
import subprocess
import sys
from pathlib import Path

import accelerated
import processes
import pytest
import torch
from loops import same

pytestmark = [
    # What torch says where a checkpoint is written or read without a process group.
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning"),
]
TESTS = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each of two processes came to; checkpoints of one process and of two beside it."""
    folder = tmp_path_factory.mktemp("two")
    for name in processes.SHARDED_CHECKPOINTS:
        processes.save_sharded(folder / f"one-{name}", name)
    launch(["torch.distributed.run", "--nproc-per-node=2", "--standalone"], "processes.py", folder)
    ranks = [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]
    return folder, ranks


def launch(launcher, script, folder):
    command = [sys.executable, "-m", *launcher, str(TESTS / script), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-6000:]


def assert_same(ours, theirs):
    for key in ("step", "sparsity", "nonzero"):
        assert ours[key] == theirs[key], key
    assert same(ours["masks"], theirs["masks"])
    for key in ("weights", "scores"):
        assert ours[key].keys() == theirs[key].keys()
        for name, tensor in theirs[key].items():
            # A sigmoid's last bit depends on where a row lies in memory.
            torch.testing.assert_close(ours[key][name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("key", processes.SCENARIOS, ids=" ".join)
def test_two_processes_equal_one(results, key):
    one = processes.scenario(*key)
    for rank in results[1]:
        for way in ("ddp", "fsdp"):
            if (way, *key) in rank:
                assert_same(rank[way, *key], one)


@pytest.mark.parametrize("name", processes.PRUNED_BEFORE)
@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_masks_to_start_from(results, way, name):
    one = processes.pruned_before(name)
    for rank in results[1]:
        assert_same(rank["pruned before", way, name], one)


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_ranks_with_different_batches_agree(results, way):
    first, second = (rank["different", way] for rank in results[1])
    assert_same(first, second)
    assert first["nonzero"] == 384 - round(0.7 * 384)


def test_a_model_that_is_sharded_under_its_pruner(results):
    one = processes.scenario("movement", "linear", "global")
    for rank in results[1]:
        assert_same(rank["before sharding"], one)


@pytest.mark.parametrize("name", processes.SHARDED_CHECKPOINTS)
def test_checkpoints_cross_from_two_to_one_and_back(results, name):
    folder, ranks = results
    whole = processes.scenario(name, "linear", "global")
    assert_same(processes.resume_sharded(folder / f"two-{name}", name), whole)
    for rank in ranks:
        assert_same(rank["resumed by two", name], whole)


def test_accelerate_and_the_trainer(tmp_path):
    # A CPU's processes are started as several GPUs' are; the script says cpu=True.
    launcher = ["accelerate.commands.launch", "--multi_gpu", "--num_processes=2"]
    launch(launcher, "accelerated.py", tmp_path)
    ranks = [torch.load(tmp_path / f"accelerated{rank}.pt") for rank in (0, 1)]
    one = processes.scenario("movement", "linear", "global")
    for rank in ranks:
        assert rank["processes"] == 2
        assert_same(rank[True], one)  # the pruner before accelerator.prepare
        assert_same(rank[False], one)  # and after
        assert same(rank["resumed"], rank["whole"])
        assert same(rank["masks"], ranks[0]["masks"])
        assert same(rank["whole"], ranks[0]["whole"])
    weights, masks = accelerated.train(tmp_path / "trainer", resume=True)  # in one process
    assert sum(int((~mask).sum()) for mask in masks.values()) == round(0.75 * 4096)
    assert not any(weights[name][~mask].any() for name, mask in masks.items())
