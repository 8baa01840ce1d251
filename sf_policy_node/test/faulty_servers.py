"""Policy servers that misbehave, independent of the code under test.

They use only sockets, websockets, msgpack and http.server.
"""

import base64
import http.server
import json
import threading
import time
from contextlib import contextmanager

import msgpack
import numpy as np
from websockets.sync.server import serve

HELD_S = 30.0  # a server that hangs keeps its connection this long, unless the test releases it


def encoded(value):
    """Encode a value as openpi's packer does."""

    def plain(item):
        return {
            b"__ndarray__": True,
            b"data": item.tobytes(),
            b"dtype": item.dtype.str,
            b"shape": item.shape,
        }

    return msgpack.packb(value, default=plain)


class OpenpiServer:
    """A server that sends its metadata, then the result of ``answer`` for each observation.

    ``answer(connection, observation)`` returns bytes, text or None.
    """

    def __init__(self, answer, metadata=None):
        self.answer, self.metadata = answer, {} if metadata is None else metadata
        self.seen, self.connections, self.release = [], 0, threading.Event()
        self._server, self._thread, self.port = None, None, 0

    def start(self):
        self._server = serve(self._handle, "127.0.0.1", self.port, compression=None, max_size=None)
        self.port = self._server.socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def stop(self):
        self.release.set()
        self._server.shutdown()
        self._thread.join()

    def _handle(self, connection):
        self.connections += 1
        try:
            greeting = self.metadata
            connection.send(greeting if isinstance(greeting, (bytes, str)) else encoded(greeting))
            while True:
                frame = connection.recv()
                self.seen.append(frame)
                if (reply := self.answer(connection, frame)) is not None:
                    connection.send(reply)
        except Exception:  # the client has disconnected
            return

    def hang(self, *_):
        self.release.wait(HELD_S)


@contextmanager
def openpi_server(answer, metadata=None):
    server = OpenpiServer(answer, metadata).start()
    try:
        yield server
    finally:
        server.stop()


def drop_mid_message(connection, _):
    """Send the head of a frame of 1000 bytes and ten of them, then close."""
    connection.socket.sendall(b"\x82\x7e\x03\xe8" + b"\x00" * 10)
    connection.socket.close()


def json_array(array):
    return {
        "__numpy__": base64.b64encode(array.tobytes()).decode(),
        "dtype": array.dtype.str,
        "shape": list(array.shape),
    }


@contextmanager
def oft_server(answer):
    """Run a server whose ``answer(handler, body)`` writes to the handler.

    A value that it returns is sent as JSON.
    """
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, body))
            try:
                reply = answer(self, body)
                if reply is not None:
                    data = json.dumps(reply).encode()
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
            except OSError:
                return

        def log_message(self, *_):
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.seen = True, seen
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def drip(handler, _):
    """Send a reply that never ends, byte by byte."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    for _ in range(round(HELD_S / 0.01)):
        handler.wfile.write(b"1")
        time.sleep(0.01)


def cut(handler, _):
    """Send the beginning of a reply, then close the connection."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"[1, 2")
    handler.close_connection = True


def chunk(rows=8, columns=4):
    data = np.zeros((rows, columns))
    data[:, 0] = 0.005 * np.arange(1, rows + 1)
    data[:, -1] = 1.0
    return data
