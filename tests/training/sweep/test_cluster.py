"""Ray: the same bits as in this process, whatever is lost on the way."""

import os
import re
import signal
import socket
import sys
from types import SimpleNamespace

import pytest

from lowland.errors import RunError, SettingError
from lowland.training.sweep import cluster
from lowland.training.sweep.attempts import packed
from lowland.training.sweep.cluster import Ray
from lowland.training.sweep.job import News
from tests.fakes import TROUBLED_STEP

from .engines import Ear, job, metrics_of, steps_of

SMALL = {"object_store_memory": 100 * 2**20, "include_dashboard": False}


@pytest.fixture
def ray():
    return pytest.importorskip("ray", reason="Ray is not installed")


@pytest.mark.slow
def test_it_trains_as_here_and_survives_its_workers(ray, tmp_path, expected, capfd):
    troubles = {1: "killed once", 2: "killed", 3: "refuse"}
    ear = Ear()
    Ray()([job(tmp_path, seed, trouble=troubles.get(seed, "none")) for seed in range(4)], ear)
    assert not ray.is_initialized()
    ends = ear.ends()
    assert ends.pop("2") == "the worker process crashed twice"
    assert ends.pop("3") == r"there are no data\nat all"
    assert ends == {"0": "", "1": ""}
    assert ear.news["0"][-1].steps == 20
    assert [metrics_of(tmp_path, seed) for seed in (0, 1)] == expected[:2]
    assert steps_of(tmp_path, 1) == [[*range(TROUBLED_STEP)], [*range(21)]]
    assert not list(tmp_path.glob(".*"))
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("handled", [False, True])
def test_sigterm_waits_for_ray_to_return(handled):
    def handle(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, handle if handled else signal.SIG_DFL)
    try:
        with cluster._terminable(signal.getsignal(signal.SIGTERM)) as check:
            check()
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(KeyboardInterrupt if handled else RunError):
                check()
            check()
        assert signal.getsignal(signal.SIGTERM) == (handle if handled else signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.fixture
def machines(ray, monkeypatch):
    """A cluster whose head trains nothing."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(os.path.abspath, sys.path)))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **SMALL})
    try:
        yield machines
    finally:
        machines.shutdown()


@pytest.mark.slow
def test_runs_of_a_lost_node_go_on_elsewhere(machines, tmp_path, expected, monkeypatch):
    nodes, look = [machines.add_node(num_cpus=2, **SMALL)], cluster._Sweep._pass_on

    def lose_the_node_once_both_are_held(sweep):
        look(sweep)
        if len(nodes) == 1 and len(list(tmp_path.glob("marks/*.once"))) == 2:
            machines.remove_node(nodes[0], allow_graceful=False)
            nodes.append(machines.add_node(num_cpus=2, **SMALL))

    monkeypatch.setattr(cluster._Sweep, "_pass_on", lose_the_node_once_both_are_held)
    ear, held = Ear(), {"pause": 0.1, "trouble": "held once"}
    Ray(machines.address)([job(tmp_path, seed, **held if seed < 2 else {}) for seed in range(5)], ear)
    assert len(nodes) == 2
    assert ear.ends() == dict.fromkeys("01234", "")
    assert [metrics_of(tmp_path, seed) for seed in range(5)] == expected
    for seed in (0, 1):
        before, then = steps_of(tmp_path, seed)
        assert before == [*range(len(before))]
        assert then == [*range(then[0], 21)]
        assert 0 < then[0] <= len(before) < 21  # from a checkpoint
    for seed in (2, 3, 4):
        assert steps_of(tmp_path, seed) == [[*range(21)]]


def test_a_node_that_does_not_share_the_files_is_named(ray, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_SIGHT_SECONDS", 0.0)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "node"))
    box = SimpleNamespace(put=SimpleNamespace(remote=lambda content: None))
    kind, text, last = cluster._train(packed(job(tmp_path, 0), 0.0), tmp_path / "token", box, 0, 1)
    assert (kind, last) == ("error", News())
    place = f"{socket.gethostname()} doesn't see {tmp_path}"
    assert text == f"the node {place}: --out must lie on a filesystem that all nodes share"
    assert not (tmp_path / "0").exists()


@pytest.mark.slow
def test_an_address_without_a_cluster_is_refused(ray, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_ANSWER_SECONDS", 5.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(RunError, match=f"^no Ray cluster answers at {address}: something else listens there$"):
            Ray(address)([job(tmp_path, 0)], Ear())
    for nowhere in (address, "nowhere.invalid:6379", "nonsense", "127.0.0.1:99999"):
        with pytest.raises(RunError, match=f"^no Ray cluster answers at {nowhere}: ."):
            Ray(nowhere)([job(tmp_path, 0)], Ear())


def test_it_says_how_to_install_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        SettingError, match=re.escape("--engine ray needs Ray; in a clone of Lowland: pip install '.[ray]'")
    ):
        Ray()
