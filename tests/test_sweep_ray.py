"""Sweeps on a Ray cluster whose nodes are all on this machine."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from folders import assert_refused

from prunella.cli import main
from prunella.experiments import jobs, process, scheduler

pytest.importorskip("ray", reason="of the extra ray")

from ray._private.state import available_resources_per_node
from ray.cluster_utils import Cluster

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Ray's own processes and logs
]
IMITATION = Path(__file__).resolve().parent / "imitation.py"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    quick = {"health_check_period_ms": 200, "health_check_failure_threshold": 2}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": quick}
    made = Cluster(initialize_head=True, head_node_args=head)
    nodes = [made.add_node(num_cpus=2) for _ in range(2)]
    made.nodes = {node.node_id: node for node in nodes}
    yield made
    made.shutdown()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs, "COMMAND", (str(IMITATION),))
    monkeypatch.setattr(scheduler, "commit", lambda: None)


def sweep(text: str, *flags: str) -> int:
    Path("s.yaml").write_text(text, encoding="utf-8")
    return main(["sweep", "s.yaml", *flags])


WAITING = "resources: {cpus: 2}\ngrid: [{prefix: wait}]"


def calls() -> list[dict[str, Any]]:
    path = Path("runs/s/calls.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def listening() -> int:
    """Runs that have come so far that a signal has them write a checkpoint."""
    return sum("100000" in log.read_text() for log in Path("runs/s").glob("*.log"))


def when(true: Callable[[], bool], then: Callable[[], object]) -> Thread:
    """Does something while the sweep goes on."""

    def wait() -> None:
        limit = time.monotonic() + 60
        while not true() and time.monotonic() < limit:
            time.sleep(0.05)
        then()

    thread = Thread(target=wait)
    thread.start()
    return thread


def test_a_node_that_is_lost(cluster, capfd):
    def lose() -> None:
        free = available_resources_per_node()
        (busy,) = (name for name in cluster.nodes if not free.get(name, {}).get("CPU"))
        cluster.remove_node(cluster.nodes[busy], allow_graceful=False)

    lost = when(lambda: listening() == 1, lose)
    again = when(lambda: len(calls()) == 2, Path("runs/s/go").touch)
    assert sweep(WAITING, "--ray", cluster.address) == 0
    lost.join()
    again.join()
    out = capfd.readouterr().out
    assert "nodes: 3, room for runs at a time: 2" in out
    assert "again" in out and "1 run: 1 done" in out
    assert [call["resumed"] for call in calls()] == ["nothing", "regular"]
    assert {call["OMP_NUM_THREADS"] for call in calls()} == {"2"}
    assert {call["CUDA_VISIBLE_DEVICES"] for call in calls()} == {""}


def test_a_sweep_that_is_stopped(cluster, capfd):
    stopped = when(lambda: listening() == 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert sweep(WAITING, "--ray", cluster.address) == 130
    stopped.join()
    assert "1 run: 1 broken off; go on with: prunella sweep" in capfd.readouterr().err
    Path("runs/s/go").touch()
    assert sweep(WAITING, "--ray", cluster.address) == 0
    assert [call["resumed"] for call in calls()] == ["nothing", "asked for"]


def test_a_node_that_does_not_see_the_folder(cluster, capfd, monkeypatch):
    monkeypatch.setattr(process, "PATIENCE", 0.0)
    monkeypatch.setattr(process, "_says", lambda *claim: False)
    assert sweep("grid: [{seed: 0}]", "--ray", cluster.address) == 2
    err = capfd.readouterr().err
    assert "does not see the folder" in err and "--output" in err
    assert not calls()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense"])
def test_no_cluster(address, capfd):
    assert sweep("grid: [{seed: 0}]", "--ray", address) == 2
    assert_refused(capfd, [f"no Ray cluster answers at {address}", "ray start --head"])
