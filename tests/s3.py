"""A real S3 server for the tests (SeaweedFS), and a proxy in front of it that injects the faults of a bad day."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

ACCESS_KEY = "motionmill-tests"
SECRET_KEY = "a-secret-that-must-never-be-printed"


def free_ports(count: int) -> list[int]:
    """Ports free now; so are these plus 10000, which SeaweedFS takes for gRPC."""
    found: list[int] = []
    while len(found) < count:
        port = random.randint(20000, 32000)  # below those that outgoing connections take
        with contextlib.suppress(OSError):
            for candidate in (port, port + 10000):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", candidate))
            if port not in found:
                found.append(port)
    return found


class S3Server:
    """One SeaweedFS process on loopback, with credentials enforced; `kill` is kill -9, `start` again keeps the data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, *self._ports = free_ports(4)
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "data").mkdir(parents=True)
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))

    def start(self) -> S3Server:
        weed = Path(sys.executable).with_name("weed")
        master, volume, filer = self._ports
        arguments = [
            str(weed) if weed.exists() else shutil.which("weed") or "weed",
            "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={self.folder / 'data'}", "-filer", "-s3",
            f"-s3.port={self.port}", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={self.folder / 's3.json'}",
            f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", "-volume.max=1000",
            "-master.volumeSizeLimitMB=256", "-volume.preStopSeconds=1", "-master.telemetry=false",
            "-master.electionTimeout=1s", "-master.heartbeatInterval=200ms",
        ]  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            # Each bucket is a collection with volumes of its own: one at a time, or many tests use up the server.
            growth = {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
            self._process = subprocess.Popen(arguments, stdout=log, stderr=log, env=os.environ | growth)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"weed ended with {self._process.returncode}: see {self.folder / 'log'}")
            with contextlib.suppress(BotoCoreError, ClientError):
                self.client().list_buckets()
                self._probe()
                return self
            time.sleep(0.2)
        raise RuntimeError(f"weed did not answer within 60 s: see {self.folder / 'log'}")

    def _probe(self) -> None:
        """Ready when an object can be written: volumes register a moment after the S3 port opens."""
        client = self.client()
        with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
            client.create_bucket(Bucket="ready")
        client.put_object(Bucket="ready", Key="probe", Body=b"x")

    def client(self, endpoint: str | None = None):
        # botocore comes with s3fs.
        return botocore.session.get_session().create_client(
            "s3", endpoint_url=endpoint or self.endpoint, aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY, region_name="us-east-1",
            config=Config(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1}),
        )  # fmt: skip

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        self.kill()
        self.start()


FAULTS = ("503", "reset", "truncate", "lost_ack", "delay")


class FaultProxy:
    """Forwards HTTP requests to `target` (host, port), and spoils some of them.

    `every` says of each fault which of the requests that it can hit it does hit: every n-th, counted for itself. "503"
    and "reset" (not forwarded) and "delay" can hit all requests, "truncate" (half of the body) those to GET, "lost_ack"
    (forwarded, and the answer dropped) those to PUT, POST or DELETE. So how often each strikes depends on what is asked
    for, not on chance or speed; and a request that is sent again is not hit by the same fault at once.
    `script` (a list of fault names or None) is used up first, one entry for each request that `only` lets through.
    `requests` counts by method, `injected` by fault.
    """

    def __init__(self, target: tuple[str, int], *, every: dict[str, int] | None = None) -> None:
        self.target, self.every = target, dict(every or {})
        assert set(self.every) <= set(FAULTS), self.every
        self.script: list[str | None] = []
        self.only = lambda method, path: True
        self.requests: Counter[str] = Counter()
        self.injected: Counter[str] = Counter()
        self.delay_s = 0.2
        self._due: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._closed = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._closed = True
        self._listener.close()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _draw(self, method: str, path: str) -> str | None:
        with self._lock:
            self.requests[method] += 1
            if not self.only(method, path):
                return None
            if self.script:
                fault = self.script.pop(0)
                if fault and not _can_hit(fault, method):
                    return None
            else:
                fault = self._next(method)
            if fault:
                self.injected[fault] += 1
            return fault

    def _next(self, method: str) -> str | None:
        """The fault that is due for this request; where several are, the others wait for the next they can hit."""
        able = [fault for fault in self.every if _can_hit(fault, method)]
        self._due.update(able)
        due = next((fault for fault in able if self._due[fault] >= self.every[fault]), None)
        if due is not None:
            self._due[due] = 0
        return due

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, ValueError), client.makefile("rb") as reader:
            upstream: socket.socket | None = None
            try:
                while head := _read_head(reader):
                    method, path = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")[:2]
                    if _header(head, b"expect") == b"100-continue":
                        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                        head = _without(head, b"expect")
                    body = _read_body(reader, head, method)
                    fault = self._draw(method, path)
                    if fault == "delay":
                        time.sleep(self.delay_s)
                    if fault == "503":
                        client.sendall(_SLOW_DOWN if method != "HEAD" else _SLOW_DOWN.partition(b"<?xml")[0])
                        return
                    if fault == "reset":
                        _reset(client)
                        return
                    upstream = upstream or socket.create_connection(self.target, timeout=60)
                    upstream.sendall(head + body)
                    with upstream.makefile("rb") as answer:
                        answer_head = _read_head(answer)
                        while answer_head.startswith(b"HTTP/1.1 100"):
                            answer_head = _read_head(answer)
                        if not answer_head:
                            return
                        # An answer to HEAD declares a length and sends none.
                        payload = b"" if method == "HEAD" else _read_body(answer, answer_head, "ANSWER")
                    if fault == "lost_ack":
                        _reset(client)
                        return
                    if fault == "truncate" and payload:
                        client.sendall(answer_head + payload[: len(payload) // 2])
                        return
                    client.sendall(answer_head + payload)
            finally:
                if upstream is not None:
                    upstream.close()


_WRITES = ("PUT", "POST", "DELETE")


def _can_hit(fault: str, method: str) -> bool:
    return {"truncate": method == "GET", "lost_ack": method in _WRITES}.get(fault, True)


_ERROR = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>injected</Message></Error>'
_SLOW_DOWN = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: "
    + str(len(_ERROR)).encode()
    + b"\r\n\r\n"
    + _ERROR
)


def _reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    client.shutdown(socket.SHUT_RD)


def _read_head(reader) -> bytes:
    lines = []
    while line := reader.readline():
        lines.append(line)
        if line == b"\r\n":
            return b"".join(lines)
    return b""


def _header(head: bytes, name: bytes) -> bytes:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip().lower()
    return b""


def _without(head: bytes, name: bytes) -> bytes:
    return b"\r\n".join(line for line in head.split(b"\r\n") if line.partition(b":")[0].strip().lower() != name)


def _read_body(reader, head: bytes, method: str) -> bytes:
    """The body as it is on the wire (chunks stay chunked)."""
    if b"chunked" in _header(head, b"transfer-encoding"):
        wire = b""
        while True:
            line = reader.readline()
            length = int(line.split(b";")[0], 16)
            wire += line + reader.read(length + 2)
            if not length:
                return wire
    length = _header(head, b"content-length")
    if length:
        return reader.read(int(length))
    return b""
