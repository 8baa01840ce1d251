"""Server of a checkpoint over openpi's websocket protocol: the GPU host needs no ROS."""

from __future__ import annotations

import hmac
import http
import ipaddress
import threading
import time
from typing import Any

import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.sync.server import Server, ServerConnection, serve

from sf_policy_node.contract import Contract
from sf_policy_node.motion.types import Join
from sf_policy_node.session.continuation import Continuation
from sf_policy_node.session.predictor import ActionPolicy
from sf_policy_node.vla.remote.own_server import own_metadata
from sf_policy_node.vla.remote.wire import pack, unpack

_MAX_OBSERVATION = 64 * 1024 * 1024  # bytes


class ServeError(ValueError):
    """The server cannot be started; the message names the option and the cure."""


class OpenpiServer:
    """Answers observations over openpi's websocket protocol; subclasses implement ``reply``.

    Args:
        metadata: sent to a client at the handshake.
        host: address to listen on. Any address but loopback needs a token.
        port: 0 takes a free one, see ``port``.
        token: required as ``Authorization: Api-Key TOKEN``; empty requires none.

    Raises:
        ServeError: there is no token although others can reach the address, or the address is in
            use.
    """

    def __init__(
        self,
        metadata: dict[str, Any],
        host: str = "127.0.0.1",
        port: int = 8000,
        token: str = "",
    ) -> None:
        if not token and not is_loopback(host):
            raise ServeError(
                f"--host {host}: others can reach it, so a token is needed; give --token-file FILE,"
                " or serve on 127.0.0.1"
            )
        self._token, self._metadata = token, pack(metadata)
        try:
            self._server: Server = serve(
                self._answer,
                host,
                port,
                compression=None,
                max_size=_MAX_OBSERVATION,
                process_request=self._admit,
            )
        except OSError as error:
            raise ServeError(
                f"--host {host} --port {port}: cannot listen there ({error.strerror or error});"
                " choose another port"
            ) from None

    @property
    def port(self) -> int:
        """Port on which it listens."""
        return self._server.socket.getsockname()[1]

    def serve_forever(self) -> None:
        """Answer until :meth:`close`."""
        self._server.serve_forever()

    def close(self) -> None:
        """Close all connections."""
        self._server.shutdown()

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        if request.path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        given = request.headers.get("Authorization", "")
        if self._token and not hmac.compare_digest(
            given.encode(), f"Api-Key {self._token}".encode()
        ):
            return connection.respond(
                http.HTTPStatus.UNAUTHORIZED, "Authorization: Api-Key TOKEN is missing or wrong\n"
            )
        return None

    def _answer(self, connection: ServerConnection) -> None:
        try:
            connection.send(self._metadata)
            while True:
                frame = connection.recv()
                begin = time.perf_counter()
                try:
                    reply = self._reply_to(frame)
                except (
                    ValueError
                ) as error:  # the client's error: report it, and wait for the next observation
                    connection.send(" ".join(str(error).split()))
                    continue
                reply["server_timing"] = {"infer_ms": 1e3 * (time.perf_counter() - begin)}
                connection.send(pack(reply))
        except ConnectionClosed:
            return
        except Exception as error:
            connection.send(f"{type(error).__name__}: {' '.join(str(error).split())}")
            connection.close(CloseCode.INTERNAL_ERROR, "internal error, see the frame before")
            raise

    def _reply_to(self, frame: bytes | str) -> dict[str, Any]:
        if isinstance(frame, str):
            raise ValueError("an observation is a binary msgpack frame, got text")
        found = unpack(frame)
        if not isinstance(found, dict):
            raise ValueError(
                "an observation is a mapping with images, state and prompt, got a"
                f" {type(found).__name__}"
            )
        return self.reply(found)

    def reply(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Return the reply; it must have ``actions`` (H, A).

        Raises:
            ValueError: the observation cannot be used; the client receives the message.
        """
        raise NotImplementedError


class PolicyServer(OpenpiServer):
    """Serves one policy; requests of several connections are answered one after the other.

    Args:
        policy: predicts chunks; for example a ``vla.policy.Policy``.
        host, port, token: see :class:`OpenpiServer`.
    """

    def __init__(
        self,
        policy: ActionPolicy,
        contract: Contract,
        host: str = "127.0.0.1",
        port: int = 8000,
        token: str = "",
    ) -> None:
        self._policy, self._contract = policy, contract
        self._lock = threading.Lock()
        self._join = Join(getattr(policy, "join", Join.BLEND))
        metadata = own_metadata(contract, policy.policy_id, self._join)
        super().__init__(metadata, host, port, token)

    def reply(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Return the chunk; see :class:`OpenpiServer`."""
        images, state, prompt, more = self._observation(observation)
        with self._lock:
            begin = time.perf_counter()
            chunk = self._policy.predict(images, state, prompt, **more)
            took = time.perf_counter() - begin
        return {"actions": np.asarray(chunk, np.float64), "policy_timing": {"infer_ms": 1e3 * took}}

    def _observation(
        self, found: dict[str, Any]
    ) -> tuple[dict[str, np.ndarray], np.ndarray, str, dict[str, Any]]:
        images, state, prompt = (found.get(key) for key in ("images", "state", "prompt"))
        names = self._contract.camera_names
        if not isinstance(images, dict) or any(
            not isinstance(images.get(name), np.ndarray) for name in names
        ):
            raise ValueError(
                f"images: needs an array (H, W, 3) uint8 RGB for each of {', '.join(names)}"
            )
        joints = self._contract.command_joints
        state = state if isinstance(state, np.ndarray) else None
        if state is None or state.shape != (len(joints),) or not np.isfinite(state).all():
            raise ValueError(
                f"state: needs {len(joints)} finite values in rad and m: {', '.join(joints)}"
            )
        if not isinstance(prompt, str):
            raise ValueError("prompt: needs the instruction as text")
        return (
            {name: images[name] for name in names},
            state.astype(float),
            prompt,
            self._continuation(found.get("continuation")),
        )

    def _continuation(self, found: Any) -> dict[str, Any]:
        if self._join is not Join.RTC:
            return {}
        if found is None:
            return {"continuation": None}
        rows, delay = (
            found.get(key) if isinstance(found, dict) else None for key in ("rows", "delay_rows")
        )
        action = self._contract.action
        if (
            not isinstance(rows, np.ndarray)
            or rows.ndim != 2
            or rows.shape[1] != len(action.names)
            or len(rows) > action.horizon
            or not np.isfinite(rows).all()
            or type(delay) is not int
            or not 0 <= delay <= len(rows)
        ):
            raise ValueError(
                f"continuation: needs rows (n, {len(action.names)}) of at most {action.horizon},"
                " and delay_rows up to n"
            )
        return {"continuation": Continuation(rows.astype(float), delay)}


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server that listens on the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
