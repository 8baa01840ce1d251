"""Clients of policy servers: openpi's websocket and OpenVLA-OFT's ``POST /act``.

A link never returns a late reply: any failure in an exchange closes the connection, so the next
reply belongs to the next request.
"""

from __future__ import annotations

import http.client
import socket
import threading
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Any, Protocol

from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidStatus,
    WebSocketException,
)
from websockets.sync.client import ClientConnection, connect

from sf_policy_node.session.predictor import PolicyUnavailable
from sf_policy_node.vla.remote.wire import WireError, from_json, pack, to_json, unpack

_CONNECT_S = 3.0
_CLOSE_S = 0.5
_MAX_REPLY = 16 * 1024 * 1024  # bytes


class ServerError(ValueError):
    """The server reports an error, or its answer is not a reply.

    The message quotes it.
    """


class _Deadline:
    """Shuts a socket down after some seconds.

    Neither a server that does not read nor one that sends byte by byte holds the caller longer.

    Attributes:
        passed: whether the deadline shut the socket down.
    """

    def __init__(self, connected: socket.socket, seconds: float) -> None:
        self.passed = False
        self._socket, self._timer = connected, threading.Timer(seconds, self._pass)
        self._timer.daemon = True

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _pass(self) -> None:
        self.passed = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


class Link(Protocol):
    """Connection to one server; used from one thread."""

    address: str

    def open(self, timeout_s: float) -> dict[str, Any]:
        """Connect, and return the server's metadata.

        Raises:
            PolicyUnavailable: no server answers.
            ServerError: another kind of server answers, or the token is refused.
        """

    def exchange(self, observation: dict[str, Any], timeout_s: float) -> Any:
        """Send an observation and return the reply.

        Raises:
            PolicyUnavailable: the connection is lost, or there is no reply in time.
            ServerError: the server reports an error, or its reply cannot be read.
        """

    def close(self) -> None:
        """Disconnect; may be called twice."""


class _SocketLink(ABC):
    """What the links have in common: one request and its reply before a deadline."""

    def __init__(self, scheme: str, host: str, port: int) -> None:
        self.address = f"{scheme}://{host}:{port}"

    def exchange(self, observation: dict[str, Any], timeout_s: float) -> Any:
        """Send an observation and return the reply; see :class:`Link`."""
        connected = self._socket()
        if connected is None:
            raise PolicyUnavailable(f"{self.address}: not connected")
        is_complete, deadline = False, _Deadline(connected, timeout_s)
        try:
            with deadline:
                answer = self._request(observation, timeout_s)
            reply = self._decode(answer)
            is_complete = True
            return reply
        except (ConnectionClosed, http.client.HTTPException, OSError) as error:
            if deadline.passed or isinstance(error, TimeoutError):
                reason = f"no reply within {timeout_s:g} s"
            else:
                reason = f"the connection was lost ({_short(error)})"
            raise PolicyUnavailable(f"{self.address}: {reason}") from None
        except WireError as error:
            raise ServerError(f"{self.address}: the reply cannot be read: {error}") from None
        finally:
            if not is_complete:
                self.close()

    def _unreachable(self, error: Exception) -> PolicyUnavailable:
        return PolicyUnavailable(
            f"{self.address}: cannot be reached ({_short(error)}); start the server, or correct"
            " host and port"
        )

    @abstractmethod
    def close(self) -> None:
        """Disconnect; may be called twice."""

    @abstractmethod
    def _socket(self) -> socket.socket | None:
        """Return the connected socket; None where there is no connection."""

    @abstractmethod
    def _request(self, observation: dict[str, Any], timeout_s: float) -> Any:
        """Send an observation and return the answer as it was received."""

    @abstractmethod
    def _decode(self, answer: Any) -> Any:
        """Return the reply that an answer holds."""


class OpenpiLink(_SocketLink):
    """Client of openpi's ``WebsocketPolicyServer``: msgpack with NumPy over a websocket.

    The server sends its metadata first, then one reply to each observation.

    Args:
        token: sent as ``Authorization: Api-Key TOKEN``, as openpi's client does; empty sends none.
    """

    def __init__(self, host: str, port: int, token: str = "") -> None:
        super().__init__("openpi", host, port)
        self._url = f"ws://{f'[{host}]' if ':' in host else host}:{port}"
        self._headers = {"Authorization": f"Api-Key {token}"} if token else None
        self._connection: ClientConnection | None = None

    def open(self, timeout_s: float) -> dict[str, Any]:
        """Connect, and return the server's metadata; see :class:`Link`."""
        self.close()
        try:
            # No proxy: an environment variable must not redirect camera images and commands.
            # No pings: a server that computes does not answer them; replies have a deadline.
            self._connection = connect(
                self._url,
                additional_headers=self._headers,
                compression=None,
                proxy=None,
                open_timeout=min(_CONNECT_S, timeout_s),
                close_timeout=_CLOSE_S,
                ping_interval=None,
                max_size=_MAX_REPLY,
            ).__enter__()  # never exited: close() does not wait for the server
            metadata = unpack(self._receive(timeout_s))
        except InvalidStatus as error:
            status = error.response.status_code
            cure = (
                "give its token in the variable SF_POLICY_TOKEN"
                if status in (401, 403)
                else "correct its port"
            )
            raise ServerError(
                f"{self.address}: the server refuses the connection ({status}); {cure}"
            ) from None
        except (InvalidHandshake, WireError) as error:
            self.close()
            raise ServerError(
                f"{self.address}: no openpi policy server answers there ({_short(error)}); correct"
                " host and port, or start it"
            ) from None
        except (OSError, WebSocketException, TimeoutError) as error:
            self.close()
            raise self._unreachable(error) from None
        if not isinstance(metadata, dict):
            self.close()
            raise ServerError(
                f"{self.address}: its metadata is a {type(metadata).__name__}, openpi's is a"
                " mapping; correct host and port"
            )
        return metadata

    def close(self) -> None:
        """Disconnect; may be called twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(OSError):  # not close(): it would wait for a server that hangs
                connection.socket.shutdown(socket.SHUT_RDWR)
            connection.close_socket()

    def _socket(self) -> socket.socket | None:
        return None if self._connection is None else self._connection.socket

    def _request(self, observation: dict[str, Any], timeout_s: float) -> bytes:
        assert self._connection is not None  # exchange() refuses to send without one
        self._connection.send(pack(observation))
        return self._receive(timeout_s)

    def _decode(self, answer: bytes) -> Any:
        return unpack(answer)

    def _receive(self, timeout_s: float) -> bytes:
        assert self._connection is not None  # the callers have connected
        frame = self._connection.recv(timeout=timeout_s)
        if isinstance(frame, str):  # openpi sends a traceback as text
            last = next((line for line in reversed(frame.splitlines()) if line.strip()), "no text")
            raise ServerError(
                f"{self.address}: the server reports an error: {last.strip()[:300]}; read its log"
            )
        return frame


class OftLink(_SocketLink):
    """Client of OpenVLA-OFT's ``deploy.py``: ``POST /act`` with JSON in json_numpy's layout.

    The protocol has no handshake and no token.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__("oft", host, port)
        self._host, self._port = host, port
        self._connection: http.client.HTTPConnection | None = None

    def open(self, timeout_s: float) -> dict[str, Any]:
        """Connect; the metadata are empty. See :class:`Link`."""
        self.close()
        connection = http.client.HTTPConnection(
            self._host, self._port, timeout=min(_CONNECT_S, timeout_s)
        )
        try:
            connection.connect()
        except OSError as error:
            raise self._unreachable(error) from None
        self._connection = connection
        return {}

    def close(self) -> None:
        """Disconnect; may be called twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _socket(self) -> socket.socket | None:
        return None if self._connection is None else self._connection.sock

    def _request(self, observation: dict[str, Any], timeout_s: float) -> tuple[int, bytes]:
        assert self._connection is not None  # exchange() refuses to send without one
        self._connection.sock.settimeout(None)  # the deadline covers the whole exchange
        body = to_json(observation)
        self._connection.request("POST", "/act", body, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        answer = response.read(_MAX_REPLY + 1)
        if len(answer) > _MAX_REPLY:
            raise WireError(f"it is longer than {_MAX_REPLY} bytes")
        if response.length:  # closed before Content-Length
            raise http.client.IncompleteRead(answer)
        return response.status, answer

    def _decode(self, answer: tuple[int, bytes]) -> Any:
        status, body = answer
        if status != http.client.OK:
            raise ServerError(
                f"{self.address}: the server answers {status} to POST /act; start OpenVLA-OFT's"
                " deploy.py there"
            )
        reply = from_json(body)
        if isinstance(reply, str):  # deploy.py returns "error" and prints the reason
            raise ServerError(f"{self.address}: the server reports {reply[:100]!r}; read its log")
        return reply


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:150] or type(error).__name__
