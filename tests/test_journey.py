"""The whole journey of data: a person records twenty episodes, throws some away, mends a label;
they are checked, trained on, replayed.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from journey.person import Person

from sf_bringup.arm_client import ArmClient
from sf_bringup.graph import find_robot
from sf_bringup.graph_process import GraphProcess
from sf_msgs.msg import RecorderStatus
from sf_msgs.srv import EndEpisode, LabelEpisode, StartEpisode
from sf_policy_node.contract import load_contract
from sf_policy_node.ros_testing import PATIENCE_S
from sf_policy_node.vla.policy import Policy
from sf_training.data.episode_reader import EpisodeReader, find_episodes
from sf_training.recording.recorder_client import RecorderClient

pytestmark = [pytest.mark.ros, pytest.mark.slow]
EPISODES = 20
DISCARDED = (4, 11)  # the person was not content
MISTAKEN = 7  # called a failure, and then found to be none
CUBE_S = 25.0  # simulated, for one cube
CONTRACT = load_contract(find_robot("sim_arm"))


class Session:
    """A person at the arm, and a recorder beside them."""

    def __init__(self, client: ArmClient) -> None:
        self.client, node = client, client._node
        self.person = Person(node, CONTRACT, seed=5)
        self.recorder = RecorderClient(node)
        self.services = {
            kind: node.create_client(kind, f"/recorder/{name}")
            for kind, name in (
                (StartEpisode, "start_episode"),
                (EndEpisode, "end_episode"),
                (LabelEpisode, "label_episode"),
            )
        }

    def call(self, kind, **fields):
        assert self.services[kind].wait_for_service(20.0)
        answer = self.client._answer(
            self.services[kind].call_async(kind.Request(**fields)), kind.__name__
        )
        assert answer.success, answer.message
        return answer

    def record(self, number: int) -> EndEpisode.Response:
        """One episode, from a new scene to its end."""
        scene = self.client.reset(960_000 + number, cubes=2)
        self.call(StartEpisode, instruction=f"pick the {scene.target} cube")
        self.client.wait_until(
            lambda: self.recorder.status.state == RecorderStatus.RECORDING,
            PATIENCE_S,
            "no recording",
        )
        begin = self.client.simulated_time
        self.person.take(scene.target)

        def over() -> bool:
            lifted = any(
                each.lifted for each in self.client.task.objects if each.name == scene.target
            )
            return lifted or self.client.simulated_time - begin > CUBE_S

        self.client.wait_until(over, 10 * CUBE_S, "the person did not get the cube up")
        self.client.let_pass(0.3)
        self.person.let_go()
        outcome = (
            "discarded" if number in DISCARDED else "failure" if number == MISTAKEN else "success"
        )
        return self.call(EndEpisode, outcome=outcome)


def run(*words: object, timeout: float = 300.0) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "sf_training", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.mark.timeout(1200)
def test_twenty_episodes_from_the_persons_hand_to_a_policy_and_back_to_the_arm(
    ros_domain, tmp_path
):
    bags = tmp_path / "episodes"
    words = ["robot:=sim_arm", "policy:=none", f"record:={bags}"]
    with GraphProcess(words, tmp_path / "graph.log") as graph:
        client = ArmClient(CONTRACT, alive=graph.check)
        try:
            client.wait_for_arm(PATIENCE_S)
            client.wait_for_executor(PATIENCE_S)
            session = Session(client)
            client.wait_until(
                lambda: (
                    session.recorder.status and session.recorder.status.state == RecorderStatus.IDLE
                ),
                PATIENCE_S,
                "no recorder",
            )
            ends = [session.record(number) for number in range(EPISODES)]
            session.call(
                LabelEpisode,
                episode=ends[MISTAKEN].episode,
                outcome="success",
                note="it was up, only late",
            )

            episodes = {reader.name: reader for reader in map(EpisodeReader, find_episodes(bags))}
            assert len(episodes) == EPISODES
            outcomes = [episodes[Path(end.episode).name].outcome for end in ends]
            assert [
                number for number, outcome in enumerate(outcomes) if outcome == "discarded"
            ] == list(DISCARDED)
            assert outcomes.count("success") == EPISODES - len(DISCARDED)
            assert run("verify", bags).returncode == 0

            again = run(
                "replay",
                ends[0].episode,
                "--speed",
                1.0,
                "--approach",
                0.3,
                "--yes",
                "--report",
                tmp_path / "replay.json",
            )
            assert again.returncode == 0, again.stdout + again.stderr
            assert json.loads((tmp_path / "replay.json").read_text())
        finally:
            client.close()

    checked = run("lint", bags, "--out", tmp_path / "lint/report.html")
    assert checked.returncode in (
        0,
        1,
    ), checked.stderr  # 1: a finding, such as a gap on a busy machine
    assert (tmp_path / "lint/report.html").stat().st_size > 10_000

    small = ("--steps", 10, "--width", 32, "--layers", 2, "--teacher", "none")
    every = ("--verdicts", "PASS", "WARN", "FAIL")  # a busy computer loses messages
    trained = run("train", "--data", bags, "--out", tmp_path / "nano", *small, *every)
    assert trained.returncode == 0, trained.stderr
    assert f"{EPISODES - len(DISCARDED)} episodes" in trained.stdout
    assert Policy.load(tmp_path / "nano", contract=CONTRACT, device="cpu").policy_id.startswith(
        "nano@"
    )
