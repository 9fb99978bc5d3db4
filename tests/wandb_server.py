"""A server of wandb that falls silent: a run begins there, or not even that, and then nothing is answered any more."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from typing import Any

_PROJECT = {"id": "p", "name": "arcticseg", "entity": {"id": "e", "name": "ice"}}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        self._reply({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path != "/graphql" or not self.server.begins:
            self.server.silent.set()
            self.server.over.wait()
            return
        asked = json.loads(body)
        operation = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
        if operation and operation[1] == "UpsertBucket":
            run = {"id": "r", "name": asked["variables"]["name"], "displayName": "run", "config": "{}"}
            run |= {"description": "", "sweepName": None, "project": _PROJECT, "historyLineCount": 0}
            self._reply({"data": {"upsertBucket": {"bucket": run, "inserted": True}}})
        elif operation and operation[1] == "RunResumeStatus":
            self._reply({"data": {"model": {**_PROJECT, "bucket": None}}})
        else:
            self._reply({"errors": [{"message": "not here"}]})

    def _reply(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, begins: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.begins, self.silent, self.over = begins, threading.Event(), threading.Event()


@contextlib.contextmanager
def falling_silent(begins: bool) -> Iterator[tuple[str, threading.Event]]:
    """Its address, and what is set once it has left something without an answer.

    Args:
        begins: whether a run begins there; else it only says that it is there.
    """
    server = _Server(begins)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.silent
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
