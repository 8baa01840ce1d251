"""Tests of LIBERO's protocol with a mock of its environment and our server."""

import json
import sys
import threading
import types
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from sf_policy_node.vla.remote.server import ServeError
from sf_training.evaluation.libero_server import Arguments, LiberoPolicy, LiberoServer

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "sf_policy_node/test"))
sys.path.insert(0, str(ROOT / "sf_training/config/libero"))
import libero_client as client  # noqa: E402
import pi0_cases  # noqa: E402


class Environment:
    """A mock environment that records actions.

    The goal is reached at the step that the initial state names.
    """

    made: ClassVar[list] = []

    def __init__(self, bddl_file_name, camera_heights, camera_widths):
        self.bddl, self.seeds, self.actions, self.closed = bddl_file_name, [], [], False
        self.size = (camera_heights, camera_widths)
        Environment.made.append(self)

    def seed(self, number):
        self.seeds.append(number)

    def reset(self):
        self.actions.append([])

    def set_init_state(self, state):
        self.goal = state
        return self._seen()

    def step(self, action):
        self.actions[-1].append(action)
        return self._seen(), 0.0, len(self.actions[-1]) >= self.goal, {}

    def close(self):
        self.closed = True

    def _seen(self):
        scene = np.zeros((*self.size, 3), np.uint8)
        scene[0, 0] = 255  # must arrive in the last corner
        return {
            "agentview_image": scene,
            "robot0_eye_in_hand_image": scene,
            "robot0_eef_pos": np.array([0.1, 0.2, 0.3]),
            "robot0_eef_quat": np.array([0.0, 0.0, np.sin(0.2), np.cos(0.2)]),
            "robot0_gripper_qpos": np.array([0.04, -0.04]),
        }


@pytest.fixture
def libero(monkeypatch):
    """Install a mock of the LIBERO package.

    It has two tasks whose goals take 15 steps, 40 steps and for ever.
    """
    Environment.made = []

    class Suite:
        n_tasks = 2

        def get_task(self, number):
            return types.SimpleNamespace(
                language=f"task {number}", problem_folder="folder", bddl_file=f"{number}.bddl"
            )

        def get_task_init_states(self, number):
            return [15, 40, 10**6]

    inner = types.ModuleType("libero.libero")
    inner.benchmark = types.SimpleNamespace(get_benchmark_dict=lambda: {"libero_spatial": Suite})
    inner.get_libero_path = lambda name: f"/libero/{name}"
    environments = types.ModuleType("libero.libero.envs")
    environments.OffScreenRenderEnv = Environment
    for name, module in {
        "libero": types.ModuleType("libero"),
        "libero.libero": inner,
        "libero.libero.envs": environments,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(client.MAX_STEPS, "libero_spatial", 50)


class Recorder:
    """A policy that records its observations and counts upwards."""

    def __init__(self, horizon=8):
        self.asked, self.horizon = [], horizon

    def actions(self, images, state, prompt):
        self.asked.append((images, state, prompt))
        return np.tile(np.arange(self.horizon)[:, None] / 100.0, (1, 7))


@pytest.fixture
def served():
    started = []

    def start(policy):
        server = LiberoServer(policy, "policy", "127.0.0.1", 0)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        started.append((server, thread))
        return f"ws://127.0.0.1:{server.port}", server

    yield start
    for server, thread in started:
        server.close()
        thread.join(5)


def test_the_protocol_equals_openvla_oft(libero, served, tmp_path, capsys):
    policy = Recorder()
    address, _ = served(policy)
    out = tmp_path / "out.jsonl"
    words = ["--server", address, "--out", str(out), "--trials", "3"]
    assert client.main(words) == 0
    assert (
        "libero_spatial: 4 of 6 succeeded, 66.7% (95 %: 30.0% to 90.3%)" in capsys.readouterr().out
    )
    env = Environment.made[0]
    assert env.seeds == [0] and env.size == (256, 256) and env.closed
    assert env.bddl == "/libero/bddl_files/folder/0.bddl"
    first = env.actions[0]
    assert len(first) == 15 and first[:10] == [[0.0] * 6 + [-1.0]] * 10
    np.testing.assert_allclose([row[0] for row in first[10:]], np.arange(5) / 100)
    assert len(env.actions[2]) == 10 + 50  # stopped at the limit
    third = [row[0] for row in env.actions[2][10:]]
    np.testing.assert_allclose(third[:17], [*np.arange(8) / 100, *np.arange(8) / 100, 0.0])
    images, state, prompt = policy.asked[0]
    assert prompt == "task 0" and images["scene"][-1, -1].tolist() == [255] * 3
    np.testing.assert_allclose(state, [0.1, 0.2, 0.3, 0.0, 0.0, 0.4, 0.04, -0.04], atol=1e-9)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["steps"] for row in rows[:3]] == [5, 30, 50]
    # A second run has no work left; one with other settings is refused.
    count = len(policy.asked)
    assert client.main(words) == 0 and len(policy.asked) == count
    with pytest.raises(SystemExit, match=r"holds results with .*choose another file"):
        client.main([*words, "--open-loop", "4"])


def test_a_missing_or_wrong_server_gives_one_sentence(libero, served, tmp_path):
    out = ["--out", str(tmp_path / "out.jsonl")]
    with pytest.raises(SystemExit, match=r"no answer .*libero-serve"):
        client.main([*out, "--server", "ws://127.0.0.1:1", "--timeout", "2"])
    address, _ = served(Recorder(horizon=4))
    with pytest.raises(SystemExit, match="sent 4 actions, --open-loop is 8; lower it"):
        client.main([*out, "--server", address])
    address, server = served(Recorder())
    link = client.Server(address)
    asked = client.observation(Environment("b", 8, 8)._seen(), "go")
    with pytest.raises(client.ServerGone, match="observation/state: needs 8 finite values"):
        link.actions(
            client.observation(Environment("b", 8, 8)._seen(), "go")
            | {"observation/state": np.zeros(3)}
        )
    server.close()
    with pytest.raises(client.ServerGone, match="finished episodes are kept"):
        link.actions(asked)


def test_an_address_that_others_can_reach_is_refused_without_naming_a_missing_option():
    with pytest.raises(ServeError, match=r"--host 0\S+: .*; serve on 127") as refused:
        LiberoServer(Recorder(), "policy", "0.0.0.0", 0)
    assert "--token-file" not in str(refused.value)


@pytest.mark.parametrize("kind", ["openvla_oft", "pi05"])
def test_published_policies_predict_actions(kind, tmp_path):
    part = {"q01": [-1.0] * 8, "q99": [1.0] * 8, "mean": [0.0] * 8, "std": [1.0] * 8}
    action = {name: value[:7] for name, value in part.items()}
    if kind == "openvla_oft":
        import oft_cases

        folder = oft_cases.write_published(tmp_path, head=False, proprio=False)
        values = {
            "libero_spatial_no_noops": {
                "proprio": part,
                "action": action | {"mask": [True] * 6 + [False]},
            }
        }
        (folder / "dataset_statistics.json").write_text(json.dumps(values))
    else:
        folder = pi0_cases.write_openpi(tmp_path, pi05=True)
        (folder / "norm_stats.json").write_text(
            json.dumps({"norm_stats": {"state": part, "actions": action}})
        )
    policy = LiberoPolicy(Arguments(weights=folder, kind=kind, device="cpu"), text_tokens=120)
    image = np.zeros((256, 256, 3), np.uint8)
    chunk = policy.actions({"scene": image, "wrist": image}, np.zeros(8), "pick up the bowl")
    assert chunk.shape == ((8 if kind == "openvla_oft" else pi0_cases.HORIZON), 7)
    assert np.isfinite(chunk).all()
    if kind == "openvla_oft":
        assert set(np.unique(chunk[:, 6])) <= {-1.0, 0.0, 1.0} and np.abs(chunk[:, :6]).max() < 9
