"""A policy in another process behind the interface of a local one."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping as MappingType
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.types import Join
from sf_policy_node.session.continuation import Continuation
from sf_policy_node.session.latency import Latencies
from sf_policy_node.session.predictor import PolicyUnavailable
from sf_policy_node.vla.remote.address import SCHEMES, is_remote
from sf_policy_node.vla.remote.links import Link, OftLink, OpenpiLink, ServerError
from sf_policy_node.vla.remote.mapping import Mapping, MappingError, load_mapping
from sf_policy_node.vla.remote.own_server import check_own, is_own, own_mapping
from sf_policy_node.vla.remote.translation import Translation

TOKEN_VARIABLE = "SF_POLICY_TOKEN"
_PAUSE_S = (0.25, 4.0)  # between two attempts to connect: first and longest
_WINDOW = 100


def make_link(address: str, token: str = "") -> Link:
    """Return the link to ``openpi://HOST[:PORT]`` or ``oft://HOST[:PORT]``, not yet connected.

    Raises:
        MappingError: it is not such an address.
    """
    parts = urlsplit(address)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if not is_remote(address) or not host or parts.path.strip("/") or parts.query or parts.username:
        raise MappingError(
            f"policy {address}: not an address; write openpi://HOST:8000 or oft://HOST:8777"
        )
    port = port or SCHEMES[parts.scheme]
    return OpenpiLink(host, port, token) if parts.scheme == "openpi" else OftLink(host, port)


class RemotePolicy:
    """Requests chunks from a server. Not thread-safe.

    After a lost connection, calls raise :class:`PolicyUnavailable`. The next call reconnects, at
    intervals that grow from 0.25 to 4 s. A server that comes back with other metadata is refused.
    """

    def __init__(
        self,
        link: Link,
        contract: Contract,
        mapping: Mapping | None = None,
        source: str = "mapping",
    ) -> None:
        """Connect and check that the server fits the robot.

        Args:
            mapping: of the server's keys; None for a server of this package, whose metadata define
                them.
            source: name of the mapping's file, for messages.

        Raises:
            PolicyUnavailable: no server answers.
            ServerError, MappingError: the server or the mapping does not fit the robot.
        """
        self._link, self._contract = link, contract
        self._metadata = link.open(mapping.first_timeout_s if mapping else 10.0)
        self._own = mapping is None
        if mapping is None:
            if not is_own(self._metadata):
                link.close()
                raise MappingError(
                    f"{link.address}: this server does not declare its keys and units; write a"
                    " mapping (sf_policy_node/doc/remote.md) and give it as parameter mapping"
                )
            check_own(self._metadata, contract, link.address)
            mapping, source = own_mapping(contract), link.address
        _check_metadata(mapping.metadata, self._metadata, link.address)
        self._mapping, self._translation = mapping, Translation(contract, mapping, source)
        self.policy_id = f"{self._metadata.get('policy_id', 'policy')}@{link.address}"
        self.join = Join(self._metadata.get("join", Join.BLEND)) if self._own else Join.BLEND
        self._connected, self._answered = True, False
        self._pause_s, self._again_at, self._problem = _PAUSE_S[0], 0.0, ""
        self._network, self._model = Latencies(_WINDOW), Latencies(_WINDOW)

    @property
    def device(self) -> str:
        """Address of the server, and median latencies over the last 100 replies."""
        network, model = (each.percentiles()[0] for each in (self._network, self._model))
        if not network:
            return self._link.address
        split = (
            f"network {1e3 * network:.1f} ms, model {1e3 * model:.1f} ms"
            if model
            else f"reply {1e3 * network:.1f} ms"
        )
        return f"{self._link.address} ({split})"

    @property
    def latency(self) -> tuple[float, float]:
        """Median latencies over the last 100 replies [s].

        Of network and packing, and of the model (0 where not reported).
        """
        return self._network.percentiles()[0], self._model.percentiles()[0]

    def warm_up(self) -> None:
        """Request one chunk for black images, so that the server compiles its model now.

        The reply is checked like any other: wrong units, order and gripper values are found before
        the arm moves.
        """
        images = {
            camera.name: np.zeros((camera.height, camera.width, 3), np.uint8)
            for camera in self._contract.cameras
        }
        joints: list[float] = []
        for arm in self._contract.arms.values():
            joints += [0.5 * (joint.lower + joint.upper) for joint in arm.joints]
            joints += arm.gripper.to_joints(1.0) if arm.gripper else []
        self.predict(images, np.array(joints), "warm up")
        self._network, self._model = Latencies(_WINDOW), Latencies(_WINDOW)

    def predict(
        self,
        images: MappingType[str, np.ndarray],
        joint_positions: np.ndarray,
        instruction: str,
        *,
        continuation: Continuation | None = None,
    ) -> np.ndarray:
        """Request the next chunk; arguments and result as for ``vla.policy.Policy.predict``.

        Raises:
            PolicyUnavailable: the connection is lost or the reply is late; the next call
                reconnects.
            ValueError: the server reports an error, or its chunk does not fit the contract.
        """
        self._connect()
        observation = self._translation.observation(images, joint_positions, instruction)
        if continuation is not None and len(continuation.rows):
            rows = np.asarray(continuation.rows, np.float64)
            observation["continuation"] = {"rows": rows, "delay_rows": int(continuation.delay_rows)}
        timeout_s = self._mapping.timeout_s if self._answered else self._mapping.first_timeout_s
        begin = time.perf_counter()
        try:
            reply = self._link.exchange(observation, timeout_s)
        except (PolicyUnavailable, ServerError) as error:
            self._connected, self._problem = False, str(error)
            raise
        total = time.perf_counter() - begin
        self._answered = True
        model = _model_s(reply, total)
        self._network.add(total - model)
        self._model.add(model)
        return self._translation.chunk(reply)

    def close(self) -> None:
        """Disconnect."""
        self._link.close()

    def _connect(self) -> None:
        if self._connected:
            return
        now = time.monotonic()
        if now < self._again_at:
            raise PolicyUnavailable(self._problem)
        try:
            metadata = self._link.open(self._mapping.timeout_s)
        except PolicyUnavailable as error:
            self._problem = str(error)
            self._pause_s = min(2 * self._pause_s, _PAUSE_S[1])
            self._again_at = time.monotonic() + self._pause_s
            raise
        if metadata != self._metadata:
            self._link.close()
            raise ServerError(
                f"{self._link.address}: another policy answers than before the connection was lost;"
                " configure the node again"
            )
        self._connected, self._pause_s = True, _PAUSE_S[0]


def load_remote(address: str, contract: Contract, mapping: str = "") -> RemotePolicy:
    """Connect to a policy server.

    Args:
        mapping: path of a mapping; empty for a server of this package.

    Raises:
        PolicyUnavailable, ServerError, MappingError: the message names the cure.
    """
    link = make_link(address, os.environ.get(TOKEN_VARIABLE, ""))
    return RemotePolicy(
        link, contract, load_mapping(mapping) if mapping else None, mapping or "mapping"
    )


def _check_metadata(wanted: dict[str, Any], found: dict[str, Any], address: str) -> None:
    for key, value in wanted.items():
        there = found.get(key, "absent")
        there = there.tolist() if isinstance(there, (np.ndarray, np.generic)) else there
        if there != value:
            raise MappingError(
                f"{address}: its metadata says {key}: {there}, the mapping expects {value};"
                " start that policy, or correct metadata"
            )


def _model_s(reply: Any, total: float) -> float:
    """Return the model's latency [s] from openpi's timing; 0 where it is missing or implausible."""
    for key in ("policy_timing", "server_timing"):
        timing = reply.get(key) if isinstance(reply, dict) else None
        value = timing.get("infer_ms") if isinstance(timing, dict) else None
        if isinstance(value, (int, float, np.number)) and 0 <= 1e-3 * value <= total:
            return 1e-3 * float(value)
    return 0.0
