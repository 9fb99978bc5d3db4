"""A web server of a folder, with byte ranges and faults on demand; and an S3 server."""

from __future__ import annotations

import gzip
import http.server
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# Zeros, compressed a thousand times.
_BOMB = gzip.compress(bytes(10_000_000))


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder.

    Attributes:
        faults: file name -> (fault, number of answers that have it). Faults: a status such as "500"; "hang": no
            answer; "half": the connection ends half-way through the body; "whole": no byte ranges; "drip": 20 bytes
            a second; "head": so slow a head; "terabyte": so many bytes are said; "more": a hundred times the bytes
            asked for; "endless": no end, in chunks; "gzip": zeros without end, compressed; "elsewhere", "file": sent
            on to `elsewhere`, or to a file.
        elsewhere: another server's address.
        said: of each request, path with query, and headers.
        contents: file name -> bytes that are served instead of the file.
        requests: (file name, range) of each request.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.faults: dict[str, tuple[str, float]] = {}
        self.contents: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.elsewhere = ""
        self.said: list[str] = []
        self.closing = threading.Event()
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fault(self, name: str) -> str:
        with self.lock:
            kind, left = self.faults.get(name, ("", 0))
            if left <= 0:
                return ""
            self.faults[name] = (kind, left - 1)
            return kind

    def handle_error(self, *_: object) -> None:
        """Ignore clients that have gone."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].lstrip("/").removeprefix("set/")
        self.server.said.append(f"{self.path}\n{self.headers}")
        wanted = self.headers.get("Range")
        self.server.requests.append((name, wanted))
        fault = self.server.fault(name)
        if fault == "hang":
            self.server.closing.wait(60)
            self.close_connection = True
            return
        if fault in _HOSTILE:
            self.close_connection = True
            _HOSTILE[fault](self)
            return
        data = self.server.contents.get(name)
        if data is None and (self.server.folder / name).is_file():
            data = (self.server.folder / name).read_bytes()
        if fault.isdecimal() or data is None:
            self._answer(int(fault) if fault.isdecimal() else 404, b"")
            return
        range_ = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted or "")
        if range_ is None or fault == "whole":
            self._answer(200, data, fault == "half")
            return
        first, last = int(range_[1]), min(int(range_[2]), len(data) - 1)
        if first >= len(data):
            self._answer(416, b"", headers={"Content-Range": f"bytes */{len(data)}"})
        else:
            headers = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
            self._answer(206, data[first : last + 1], fault == "half", headers)

    def _answer(self, status: int, body: bytes, half: bool = False, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Mon, 02 Nov 2026 10:00:00 GMT")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if half else body)
        if half:
            self.wfile.flush()
            self.close_connection = True

    def _begin(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def _slowly(self, data: bytes) -> None:
        for byte in data:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            if self.server.closing.wait(0.05):
                return

    def drip(self) -> None:
        self._begin(200, Content_Length="1000")
        self._slowly(bytes(1000))

    def head(self) -> None:
        self._slowly(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 1000)

    def terabyte(self) -> None:
        self._begin(200, Content_Length=str(10**12))
        while not self.server.closing.is_set():
            self.wfile.write(bytes(1 << 16))

    def more(self) -> None:
        first, last = re.findall(r"\d+", self.headers["Range"])
        size = 100 * (int(last) - int(first) + 1)
        self._begin(206, Content_Range=f"bytes {first}-{last}/1000000", Content_Length=str(size))
        self.wfile.write(bytes(size))

    def endless(self) -> None:
        self._begin(200, Transfer_Encoding="chunked")
        while not self.server.closing.is_set():
            self.wfile.write(b"8000\r\n" + bytes(0x8000) + b"\r\n")

    def gzip(self) -> None:
        self._begin(200, Content_Encoding="gzip", Content_Length=str(len(_BOMB)))
        self.wfile.write(_BOMB)

    def onwards(self) -> None:
        self._begin(302, Location=f"{self.server.elsewhere}{self.path.partition('?')[0]}", Content_Length="0")

    def to_a_file(self) -> None:
        self._begin(302, Location="file:///etc/passwd", Content_Length="0")


_HOSTILE = {
    "drip": _Handler.drip,
    "head": _Handler.head,
    "terabyte": _Handler.terabyte,
    "more": _Handler.more,
    "endless": _Handler.endless,
    "gzip": _Handler.gzip,
    "elsewhere": _Handler.onwards,
    "file": _Handler.to_a_file,
}


@contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """A server of a folder, in threads of this process."""
    with Server(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()


@contextmanager
def serve_s3(folder: Path) -> Iterator[str]:
    """The address of a folder on an S3 server of this machine, which the environment names in this block."""
    moto = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (variables | {"ENDPOINT_URL": f"http://{host}:{port}"}).items():
            patch.setenv(f"AWS_{name}", value)
        try:
            client = boto3.client("s3", region_name="us-east-1")
            client.create_bucket(Bucket="ice")
            for path in folder.iterdir():
                client.upload_file(str(path), "ice", f"some/shards/{path.name}")
            yield "s3://ice/some/shards"
        finally:
            server.stop()
