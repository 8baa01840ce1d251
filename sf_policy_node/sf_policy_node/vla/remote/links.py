"""Connections to policy servers: openpi's websocket and OpenVLA-OFT's ``POST /act``.

A link never hands out a late reply: whatever goes wrong in an exchange closes the connection, so
the next reply belongs to the next request.
"""

from __future__ import annotations

import http.client
import socket
import threading
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
    """The server answers, but with an error or with something that is no reply; the message holds
    what it says.
    """


class _Deadline:
    """Shuts a socket down after some seconds, so that neither a server that does not read nor one
    that sends byte by byte holds the caller for longer. ``passed`` tells whether it did.
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
    """One server; used from one thread."""

    address: str

    def open(self, timeout_s: float) -> dict[str, Any]:
        """Connect, and return the server's metadata.

        Raises:
            PolicyUnavailable: nobody answers.
            ServerError: somebody else answers, or the token is refused.
        """

    def exchange(self, observation: dict[str, Any], timeout_s: float) -> Any:
        """Send an observation and return the reply.

        Raises:
            PolicyUnavailable: the connection is lost, or there is no reply in time.
            ServerError: the server reports an error, or sends what cannot be read.
        """

    def close(self) -> None:
        """Disconnect; may be called twice."""


class OpenpiLink:
    """openpi's ``WebsocketPolicyServer``: metadata first, then one reply for each observation,
    msgpack with NumPy.

    Args:
        token: sent as ``Authorization: Api-Key TOKEN``, as openpi's client does; empty sends none.
    """

    def __init__(self, host: str, port: int, token: str = "") -> None:
        self.address = f"openpi://{host}:{port}"
        self._url = f"ws://{f'[{host}]' if ':' in host else host}:{port}"
        self._headers = {"Authorization": f"Api-Key {token}"} if token else None
        self._connection: ClientConnection | None = None

    def open(self, timeout_s: float) -> dict[str, Any]:
        self.close()
        try:
            # No proxy: a variable of the environment must not send camera images and commands
            # elsewhere.
            self._connection = connect(
                self._url,
                additional_headers=self._headers,
                compression=None,
                proxy=None,
                open_timeout=min(_CONNECT_S, timeout_s),
                close_timeout=_CLOSE_S,
                # a server that computes does not answer pings; the time of a reply is limited
                # instead
                ping_interval=None,
                max_size=_MAX_REPLY,
            ).__enter__()  # never left: close() does not wait for the server
            metadata = unpack(self._received(timeout_s))
        except InvalidStatus as error:
            status = error.response.status_code
            cure = (
                "give its token in the variable SF_POLICY_TOKEN"
                if status in (401, 403)
                else "is this the port of a policy server?"
            )
            raise ServerError(
                f"{self.address}: the server refuses the connection ({status}); {cure}"
            ) from None
        except (InvalidHandshake, WireError) as error:
            self.close()
            raise ServerError(
                f"{self.address}: no openpi policy server answers there ({_short(error)})"
            ) from None
        except (OSError, WebSocketException, TimeoutError) as error:
            self.close()
            raise PolicyUnavailable(
                f"{self.address}: cannot be reached ({_short(error)})"
            ) from None
        if not isinstance(metadata, dict):
            self.close()
            raise ServerError(
                f"{self.address}: its metadata is a {type(metadata).__name__}, openpi's is a"
                " mapping"
            )
        return metadata

    def exchange(self, observation: dict[str, Any], timeout_s: float) -> Any:
        if self._connection is None:
            raise PolicyUnavailable(f"{self.address}: not connected")
        finished, deadline = False, _Deadline(self._connection.socket, timeout_s)
        try:
            with deadline:
                self._connection.send(pack(observation))
                reply = unpack(self._received(timeout_s))
            finished = True
            return reply
        except (ConnectionClosed, OSError) as error:
            raise _lost(self.address, error, deadline, timeout_s) from None
        except WireError as error:
            raise ServerError(f"{self.address}: the reply cannot be read: {error}") from None
        finally:
            if not finished:
                self.close()

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(OSError):  # not close(): it would wait for a server that hangs
                connection.socket.shutdown(socket.SHUT_RDWR)
            connection.close_socket()

    def _received(self, timeout_s: float) -> bytes:
        frame = self._connection.recv(timeout=timeout_s)
        if isinstance(frame, str):  # openpi sends a traceback as text
            last = next(
                (line for line in reversed(frame.splitlines()) if line.strip()), "without a word"
            )
            raise ServerError(f"{self.address}: the server reports an error: {last.strip()[:300]}")
        return frame


class OftLink:
    """OpenVLA-OFT's ``deploy.py``: ``POST /act`` with JSON in json_numpy's layout. It has no
    handshake and no token.
    """

    def __init__(self, host: str, port: int) -> None:
        self.address = f"oft://{host}:{port}"
        self._host, self._port = host, port
        self._connection: http.client.HTTPConnection | None = None

    def open(self, timeout_s: float) -> dict[str, Any]:
        self.close()
        connection = http.client.HTTPConnection(
            self._host, self._port, timeout=min(_CONNECT_S, timeout_s)
        )
        try:
            connection.connect()
        except OSError as error:
            raise PolicyUnavailable(
                f"{self.address}: cannot be reached ({_short(error)})"
            ) from None
        self._connection = connection
        return {}

    def exchange(self, observation: dict[str, Any], timeout_s: float) -> Any:
        if self._connection is None:
            raise PolicyUnavailable(f"{self.address}: not connected")
        finished, deadline = False, _Deadline(self._connection.sock, timeout_s)
        try:
            with deadline:
                status, body = self._post(to_json(observation))
            if status != http.client.OK:
                raise ServerError(
                    f"{self.address}: the server answers {status} to POST /act; is it OpenVLA-OFT's"
                    " deploy.py?"
                )
            reply = from_json(body)
            if isinstance(
                reply, str
            ):  # deploy.py answers "error" and prints the reason, or double-encodes
                raise ServerError(
                    f"{self.address}: the server reports {reply[:100]!r}; its own log says why"
                )
            finished = True
            return reply
        except (OSError, http.client.HTTPException) as error:
            raise _lost(self.address, error, deadline, timeout_s) from None
        except WireError as error:
            raise ServerError(f"{self.address}: the reply cannot be read: {error}") from None
        finally:
            if not finished:
                self.close()

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _post(self, body: bytes) -> tuple[int, bytes]:
        self._connection.sock.settimeout(None)  # the deadline limits all of it
        self._connection.request("POST", "/act", body, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        answer = response.read(_MAX_REPLY + 1)
        if len(answer) > _MAX_REPLY:
            raise WireError(f"it is longer than {_MAX_REPLY} bytes")
        if response.length:  # closed before Content-Length
            raise http.client.IncompleteRead(answer)
        return response.status, answer


def _lost(
    address: str, error: Exception, deadline: _Deadline, timeout_s: float
) -> PolicyUnavailable:
    if deadline.passed or isinstance(error, TimeoutError):
        return PolicyUnavailable(f"{address}: no reply within {timeout_s:g} s")
    return PolicyUnavailable(f"{address}: the connection was lost ({_short(error)})")


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:150] or type(error).__name__
