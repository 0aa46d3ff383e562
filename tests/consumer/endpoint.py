"""A real HTTP endpoint on loopback that takes notices as a test tells it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = "T0KEN-b64-that-nobody-may-see"  # noqa: S105 - a test's


class Endpoint:
    """What it answers next, and what it got.

    Attributes:
        answers: Statuses, the next one first, with a Retry-After or None; when empty it is 200.
        texts: The texts that it took.
        requests: All bodies, also those that it refused.
    """

    def __init__(self) -> None:
        self.answers: list[tuple[int, str | None]] = []
        self.texts: list[str] = []
        self.requests: list[bytes] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                endpoint.requests.append(body)
                status, retry_after = endpoint.answers.pop(0) if endpoint.answers else (200, None)
                ours = self.path == f"/services/{SECRET}?a=b" and self.headers["Content-Type"].startswith(
                    "application/json"
                )
                if not ours:
                    status = 418
                if status == 200:
                    endpoint.texts.append(json.loads(body)["text"])
                self.send_response(status)
                if retry_after is not None:
                    self.send_header("Retry-After", retry_after)
                if status == 302:
                    self.send_header("Location", f"/services/{SECRET}?a=b")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/services/{SECRET}?a=b"

    @contextmanager
    def serving(self) -> Iterator[Endpoint]:
        """Answer until the end of the block; from then on nobody listens there."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()
