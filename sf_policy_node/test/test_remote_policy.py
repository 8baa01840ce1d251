"""Tests of remote policies on faulty servers: a valid chunk, or none and the reason."""

import socket
import threading

import numpy as np
import pytest
from faulty_servers import (
    chunk,
    cut,
    drip,
    drop_mid_message,
    encoded,
    json_array,
    oft_server,
    openpi_server,
)
from motion_cases import HOME, sim_arm
from session_cases import Stage

from sf_policy_node.session.instruction_run import Termination
from sf_policy_node.session.predictor import PolicyUnavailable
from sf_policy_node.session.status import PolicyState
from sf_policy_node.vla.remote import policy as policy_module
from sf_policy_node.vla.remote.address import is_remote
from sf_policy_node.vla.remote.links import ServerError
from sf_policy_node.vla.remote.mapping import Mapping, MappingError
from sf_policy_node.vla.remote.policy import RemotePolicy, load_remote, make_link

IMAGES = {name: np.zeros((240, 320, 3), np.uint8) for name in ("scene", "wrist")}
COLUMNS = ["x", "y", "z", {"name": "gripper", "open": 1.0, "closed": 0.0}]


def mapping(**changes):
    keys = {
        "images": {"scene": "observation/image"},
        "state": {"observation/state": ["joint1"]},
        "space": "ee_delta",
        "step_s": 0.1,
    }
    return Mapping(
        **{**keys, "columns": COLUMNS, "timeout_s": 5.0, "first_timeout_s": 5.0, **changes}
    )


def good(*_):
    return encoded({"actions": chunk()})


def ask(policy, text="pick the red cube"):
    return policy.predict(IMAGES, HOME, text)


def remote(server, **changes):
    return RemotePolicy(
        make_link(f"openpi://127.0.0.1:{server.port}"), sim_arm(), mapping(**changes)
    )


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(policy_module, "_PAUSE_S", (0.0, 0.0))


def test_a_chunk_comes_from_openpis_protocol_with_its_timing():
    def timed(connection, frame):
        return encoded({"actions": chunk(), "policy_timing": {"infer_ms": 0.001}})

    with openpi_server(timed, {"reset_pose": [0.0]}) as server:
        policy = remote(server)
        policy.warm_up()
        assert np.array_equal(ask(policy), chunk())
        network, model = policy.latency
        assert (
            model == pytest.approx(1e-6)
            and network > 0
            and "network" in policy.device
            and "model" in policy.device
        )
        assert (
            len(server.seen) == 2
            and b"observation/image" in server.seen[1]
            and b"pick the red cube" in server.seen[1]
        )
        policy.close()
        policy.close()


GARBAGE = {
    "noise": (lambda *_: b"\xc1\xff" * 50, "the reply cannot be read: not a msgpack message"),
    "text": (
        lambda *_: "Traceback (most recent call last):\n  File x\nKeyError: 'observation/wrist'\n",
        "reports an error: KeyError",
    ),
    "silence in text": (lambda *_: "", "reports an error: no text"),
    "number": (lambda *_: encoded(5), "no 'actions'"),
    "other shape": (lambda *_: encoded({"actions": chunk(3)}), "at least 8 rows"),
    "nan": (lambda *_: encoded({"actions": chunk() * np.nan}), "holds nan"),
    "too long": (lambda *_: b"\x00" * (17 * 1024 * 1024), "the connection was lost"),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_an_invalid_reply_is_refused_and_the_next_valid_one_accepted(name):
    response, reason = GARBAGE[name]
    replies = [response]
    with openpi_server(lambda *given: (replies.pop() if replies else good)(*given)) as server:
        policy = remote(server)
        with pytest.raises(ValueError, match=reason):
            ask(policy)
        assert np.array_equal(ask(policy), chunk())
        policy.close()


def test_a_link_that_breaks_during_a_message_is_restored():
    replies = [drop_mid_message]
    with openpi_server(lambda *given: (replies.pop() if replies else good)(*given)) as server:
        policy = remote(server)
        with pytest.raises(PolicyUnavailable, match="the connection was lost"):
            ask(policy)
        assert np.array_equal(ask(policy), chunk()) and server.connections == 2
        policy.close()


def test_a_late_reply_is_not_mistaken_for_the_next_one():
    late = [True]

    def response(connection, frame):
        if late.pop() if late else False:
            server.release.wait(30.0)
            return encoded({"actions": 9.0 * chunk()})
        return good()

    with openpi_server(response) as server:
        policy = remote(server, timeout_s=0.2, first_timeout_s=0.2)
        with pytest.raises(PolicyUnavailable, match=r"no reply within 0.2 s"):
            ask(policy)
        server.release.set()
        policy._mapping = mapping()  # on a slow machine
        assert np.array_equal(ask(policy), chunk())
        policy.close()


def test_a_server_that_does_not_read_blocks_nothing():
    """The frame is larger than all buffers, so sending blocks."""
    stuck = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept():
            from websockets.server import ServerProtocol

            connection, _ = listener.accept()
            protocol = ServerProtocol()
            protocol.receive_data(connection.recv(65536))
            (request,) = protocol.events_received()
            protocol.send_response(protocol.accept(request))
            protocol.send_binary(encoded({}))
            for data in protocol.data_to_send():
                connection.sendall(data)
            stuck.wait(30.0)
            connection.close()

        thread = threading.Thread(target=accept)
        thread.start()
        link = make_link(f"openpi://127.0.0.1:{listener.getsockname()[1]}")
        link.open(5.0)
        with pytest.raises(PolicyUnavailable, match=r"no reply within 0.3 s"):
            link.exchange({"image": np.zeros(60_000_000, np.uint8)}, 0.3)
        stuck.set()
        thread.join()


def test_no_server_and_another_server_are_distinguished(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(
        PolicyUnavailable, match=rf"openpi://127.0.0.1:{port}: cannot be reached \(.*refused"
    ):
        load_remote(f"openpi://127.0.0.1:{port}", sim_arm())
    with (
        oft_server(lambda *_: [1]) as server,
        pytest.raises(
            ServerError, match=r"the server refuses the connection|no openpi policy server"
        ),
    ):
        load_remote(f"openpi://127.0.0.1:{server.server_port}", sim_arm())
    for greeting, reason in (
        (b"\xc1", "no openpi policy server answers there"),
        (encoded([1]), "its metadata is a list"),
    ):
        with openpi_server(good, greeting) as server, pytest.raises(ServerError, match=reason):
            remote(server)


def test_a_foreign_server_needs_a_mapping_and_expected_metadata():
    with openpi_server(good, {"robot": "other", "reset_pose": np.zeros(2)}) as server:
        with pytest.raises(
            MappingError, match="does not declare its keys and units; write a mapping"
        ):
            load_remote(f"openpi://127.0.0.1:{server.port}", sim_arm())
        with pytest.raises(
            MappingError,
            match="metadata says robot: other, the mapping expects mine; start that policy",
        ):
            remote(server, metadata={"robot": "mine"})
        remote(server, metadata={"robot": "other", "reset_pose": [0.0, 0.0]}).close()


def test_another_policy_behind_the_same_address_is_refused():
    with openpi_server(lambda connection, _: connection.close(), {"policy": "a"}) as server:
        policy = remote(server)
        with pytest.raises(PolicyUnavailable):
            ask(policy)
        server.metadata = {"policy": "b"}
        with pytest.raises(ServerError, match="another policy answers than before"):
            ask(policy)


@pytest.mark.parametrize(
    "address",
    [
        "openpi://",
        "openpi://host:port",
        "http://host:1",
        "openpi://host:8000/path",
        "oft://user@host:1",
        "openpi://host:8000?a=b",
    ],
)
def test_an_invalid_address_is_refused(address):
    with pytest.raises(
        MappingError, match="not an address; write openpi://HOST:8000 or oft://HOST:8777"
    ):
        make_link(address)


def test_addresses_are_distinguished_from_paths():
    assert (
        is_remote("openpi://h:1")
        and is_remote("oft://h")
        and not is_remote("/out/nano")
        and not is_remote("nano")
    )
    assert (
        make_link("oft://h").address == "oft://h:8777"
        and make_link("openpi://[::1]:9").address == "openpi://::1:9"
    )


def oft(server, **changes):
    keys = {
        "images": {"scene": "full_image", "wrist": "wrist_image"},
        "prompt": "instruction",
        "actions": "",
    }
    return RemotePolicy(
        make_link(f"oft://127.0.0.1:{server.server_port}"), sim_arm(), mapping(**keys, **changes)
    )


def test_a_chunk_comes_from_oft_as_a_list_of_arrays():
    with oft_server(lambda *_: [json_array(row) for row in chunk()]) as server:
        policy = oft(server)
        policy.warm_up()
        assert np.array_equal(ask(policy), chunk())
        path, body = server.seen[-1]
        assert path == "/act" and body["instruction"] == "pick the red cube"
        assert (
            body["full_image"]["shape"] == [240, 320, 3]
            and body["full_image"]["dtype"] == "|u1"
            and "__numpy__" in body["wrist_image"]
        )
        policy.close()


OFT_GARBAGE = {
    "error": (lambda *_: "error", ServerError, "reports 'error'; read its log"),
    "not found": (
        lambda handler, _: handler.send_error(404),
        ServerError,
        "answers 404 to POST /act",
    ),
    "cut off": (cut, PolicyUnavailable, "the connection was lost"),
    "no table": (lambda *_: {"detail": 1}, ValueError, "not a table of numbers"),
    "half a chunk": (
        lambda *_: [json_array(row) for row in chunk(4)],
        ValueError,
        "at least 8 rows",
    ),
}


@pytest.mark.parametrize("name", OFT_GARBAGE)
def test_an_invalid_oft_reply_is_refused_and_the_next_valid_one_accepted(name):
    response, kind, reason = OFT_GARBAGE[name]
    replies = [response]
    with oft_server(
        lambda *given: replies.pop()(*given) if replies else [json_array(row) for row in chunk()]
    ) as server:
        policy = oft(server)
        with pytest.raises(kind, match=reason):
            ask(policy)
        assert np.array_equal(ask(policy), chunk())
        policy.close()


def test_a_reply_that_arrives_byte_by_byte_times_out():
    with (
        oft_server(drip) as server,
        pytest.raises(PolicyUnavailable, match=r"no reply within 0.3 s"),
    ):
        ask(oft(server, first_timeout_s=0.3))


def test_a_session_waits_for_a_lost_server_and_continues():
    with openpi_server(good) as server:
        stage = Stage(remote(server))
        run = stage.session.begin("pick the red cube")
        stage.advance(0.5)
        before = len(stage.chunks)
        assert before and stage.session.status().state is PolicyState.RUNNING
        server.stop()
        stage.advance(0.4)
        stage.until(lambda: stage.session.status().state is PolicyState.WAITING, "the wait")
        stage.advance(1.0)
        status = stage.session.status()
        assert (
            len(stage.chunks) == before
            and f"openpi://127.0.0.1:{server.port}: " in status.reason
            and run.ended is None
        )
        server.start()
        stage.until(lambda: (stage.advance(0.1), len(stage.chunks) > before)[1], "chunks again")
        assert stage.session.status().state is PolicyState.RUNNING
        stage.session.close()


def test_a_permanently_lost_server_ends_the_instruction_with_the_reason():
    with openpi_server(good) as server:
        stage = Stage(remote(server))
        run = stage.session.begin("pick the red cube")
        stage.advance(0.5)
        server.stop()
        for _ in range(70):
            stage.advance(0.1)
            stage.session.check_time()
        assert run.termination is Termination.NO_OBSERVATION and "cannot be reached" in run.message
        stage.session.close()
        server.start()


def test_a_server_error_ends_the_instruction():
    with openpi_server(lambda *_: "RuntimeError: out of memory") as server:
        stage = Stage(remote(server))
        run = stage.session.begin("pick the red cube")
        stage.see()
        stage.until(lambda: run.termination, "the end")
        assert (
            run.termination is Termination.ERROR
            and "reports an error: RuntimeError: out of memory" in run.message
        )
        stage.session.close()
