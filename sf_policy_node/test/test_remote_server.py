"""Tests of our policy server: same chunks as in process, authorization, errors."""

import threading

import numpy as np
import pytest
import torch
from motion_cases import HOME, contract_for, sim_arm
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from sf_policy_node.contract import ActionSpace
from sf_policy_node.motion.types import Join
from sf_policy_node.perception.robot_state import state_names
from sf_policy_node.session.continuation import Continuation
from sf_policy_node.session.predictor import PolicyUnavailable
from sf_policy_node.vla.nano import Nano, NanoConfig
from sf_policy_node.vla.normalisation import Normalisation
from sf_policy_node.vla.policy import Policy
from sf_policy_node.vla.remote.links import OpenpiLink, ServerError
from sf_policy_node.vla.remote.mapping import MappingError
from sf_policy_node.vla.remote.policy import TOKEN_VARIABLE, load_remote
from sf_policy_node.vla.remote.serve import main as serve
from sf_policy_node.vla.remote.server import PolicyServer, ServeError
from sf_policy_node.vla.remote.wire import pack, unpack
from sf_policy_node.vla.text import TEXT_SIZE

RNG = np.random.default_rng(0)
IMAGES = {name: RNG.integers(0, 256, (240, 320, 3), dtype=np.uint8) for name in ("scene", "wrist")}


class Words:
    """A mock of the text encoder, which takes seconds to load."""

    def encode(self, texts):
        return np.stack(
            [np.random.default_rng(len(text)).normal(size=TEXT_SIZE) for text in texts]
        ).astype(np.float32)


def tiny(head="regression", contract=None):
    contract = contract or sim_arm()
    torch.manual_seed(0)
    rng, states = np.random.default_rng(1), len(state_names(contract))
    model = Nano(
        NanoConfig(
            cameras=2,
            state_size=states,
            action_size=4,
            horizon=8,
            image_size=32,
            width=32,
            layers=2,
            head=head,
        )
    )
    chunks = 0.01 * rng.normal(size=(20, 8, 4))
    statistics = Normalisation.from_data(
        rng.normal(size=(20, states)),
        chunks,
        rng.normal(size=(20, TEXT_SIZE)),
        contract.columns.action.grippers,
    )
    statistics.action.std[-1] = 0.01  # untrained: an opening near one half
    return Policy(model, contract, statistics, policy_id="tiny@0", device="cpu", encoder=Words())


@pytest.fixture
def served():
    started = []

    def start(policy=None, **options):
        policy = policy or tiny()
        server = PolicyServer(policy, policy.contract, port=0, **options)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        started.append((server, thread))
        return server

    yield start
    for server, thread in started:
        server.close()
        thread.join()


def test_a_served_checkpoint_predicts_as_in_process(served):
    served_policy, here = tiny(), tiny()
    policy = load_remote(f"openpi://127.0.0.1:{served(served_policy).port}", sim_arm())
    policy.warm_up()
    assert policy.policy_id.startswith("tiny@0@openpi://") and policy.join is Join.BLEND
    found = policy.predict(IMAGES, HOME, "pick the red cube")
    assert found == pytest.approx(here.predict(IMAGES, HOME, "pick the red cube"), abs=1e-12)
    network, model = policy.latency
    assert network > 0 and model > 0
    policy.close()


def test_a_flow_policy_receives_the_steps_to_continue(served):
    served_policy, here = tiny("flow"), tiny("flow")
    policy = load_remote(f"openpi://127.0.0.1:{served(served_policy).port}", sim_arm())
    assert policy.join is Join.RTC
    rows = 0.01 * RNG.normal(size=(5, 4))
    rows[:, -1] = 0.5
    for each in (served_policy, here):  # the first gradient takes seconds on a busy machine
        each.predict(IMAGES, HOME, "go", continuation=Continuation(rows, 2))
    for continuation in (None, Continuation(rows, 2)):
        found = policy.predict(IMAGES, HOME, "go", continuation=continuation)
        assert found == pytest.approx(
            here.predict(IMAGES, HOME, "go", continuation=continuation), abs=1e-12
        )
    assert found[:2] == pytest.approx(rows[:2], abs=1e-6)
    policy.close()


def test_only_loopback_needs_no_token(served, monkeypatch):
    for host in ("0.0.0.0", "192.168.0.7", "::", "robot.local"):
        with pytest.raises(
            ServeError, match=f"--host {host}: others can reach it, so a token is needed"
        ):
            PolicyServer(tiny(), sim_arm(), host=host)
    server = served(token="secret")
    for token in ("", "secre", "secret2", "sécret"):
        with pytest.raises(
            (ServerError, ValueError),
            match=r"refuses the connection \(401\); give its token|header",
        ):
            OpenpiLink("127.0.0.1", server.port, token).open(5.0)
    monkeypatch.setenv(TOKEN_VARIABLE, "secret")
    load_remote(f"openpi://127.0.0.1:{server.port}", sim_arm()).close()


def test_health_needs_no_token_and_a_used_port_gives_one_sentence(served):
    server = served(token="secret")
    with pytest.raises(InvalidStatus) as refusal:
        connect(f"ws://127.0.0.1:{server.port}/healthz", proxy=None)
    assert refusal.value.response.status_code == 200 and refusal.value.response.body == b"OK\n"
    with pytest.raises(
        ServeError, match=f"--port {server.port}: cannot listen there .*choose another port"
    ):
        PolicyServer(tiny(), sim_arm(), port=server.port)


def test_a_policy_for_another_contract_is_refused_with_the_difference(served):
    server = served()
    with pytest.raises(
        MappingError,
        match=r"trained for another contract .*action.space: joint_position here, ee_delta there",
    ):
        load_remote(f"openpi://127.0.0.1:{server.port}", contract_for(ActionSpace.JOINT_POSITION))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"images": {"scene": IMAGES["scene"]}},
            "images: needs an array .* for each of scene, wrist",
        ),
        (
            {"images": {"scene": IMAGES["scene"], "wrist": IMAGES["wrist"][..., :2]}},
            r"camera wrist: got \(240, 320, 2\) uint8",
        ),
        ({"images": {name: image / 255.0 for name, image in IMAGES.items()}}, "float64, needs"),
        ({"state": HOME[:3]}, "state: needs 7 finite values in rad and m: joint1"),
        ({"state": HOME * np.nan}, "state: needs 7 finite values"),
        ({"state": HOME.tolist()}, "state: needs 7 finite values"),
        ({"prompt": 5}, "prompt: needs the instruction as text"),
    ],
)
def test_an_unusable_observation_gives_one_sentence_and_the_next_is_used(served, change, reason):
    link = OpenpiLink("127.0.0.1", served().port)
    link.open(5.0)
    sound = {"images": IMAGES, "state": HOME, "prompt": "go"}
    with pytest.raises(ServerError, match=reason):
        link.exchange(sound | change, 5.0)
    link.open(5.0)
    assert link.exchange(sound, 5.0)["actions"].shape == (8, 4)
    link.close()


def test_invalid_frames_get_an_error_message(served):
    with connect(f"ws://127.0.0.1:{served().port}", proxy=None) as client:
        assert unpack(client.recv())["server"] == "sf_policy_node"
        for frame, reason in (
            (b"\xc1", "not a msgpack message"),
            ("text", "is a binary msgpack frame"),
            (pack([1]), "got a list"),
        ):
            client.send(frame)
            assert reason in client.recv()


def test_a_failing_model_is_reported_and_ends_the_connection(served):
    policy = tiny()
    server = served(policy)
    policy.predict = lambda *_, **__: 1 / 0
    remote = load_remote(f"openpi://127.0.0.1:{server.port}", sim_arm())
    with pytest.raises(ServerError, match="reports an error: ZeroDivisionError: division by zero"):
        remote.predict(IMAGES, HOME, "go")


def test_a_server_that_ends_is_a_lost_link(served):
    server = served()
    remote = load_remote(f"openpi://127.0.0.1:{server.port}", sim_arm())
    server.close()
    with pytest.raises(PolicyUnavailable, match="the connection was lost"):
        remote.predict(IMAGES, HOME, "go")


def test_the_command_refuses_in_one_sentence(tmp_path, capsys):
    assert serve([str(tmp_path / "none")]) == 1
    assert "no such checkpoint directory" in capsys.readouterr().err
    (tmp_path / "token").write_text("\n")
    assert serve([str(tmp_path), "--token-file", str(tmp_path / "token")]) == 1
    assert "is empty; write the token into it" in capsys.readouterr().err
