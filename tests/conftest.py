"""Fixtures that every test may use: a real S3 server, a bucket of one's own, and faults between the two."""

from __future__ import annotations

import os

# Before Ray is imported anywhere: loopback only, no token files, no usage report (RAY.md, section 1).
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

import contextlib
import signal
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import hypothesis
import pytest

from tests.s3 import ACCESS_KEY, SECRET_KEY, FaultProxy, S3Server

# A shell that starts the tests in the background has them ignore interrupts, and so all processes that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Machines are shared: how long an example takes says nothing about the code.
hypothesis.settings.register_profile("motionmill", deadline=None, max_examples=60)
hypothesis.settings.load_profile("motionmill")


@pytest.fixture(scope="session", autouse=True)
def own_calibration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests measure on tiny clips must not become the user's idea of what work costs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOTIONMILL_CALIBRATION", str(tmp_path_factory.mktemp("calibration")))
        yield


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("seaweedfs"))
    try:
        yield server.start()
    finally:
        server.kill()


@dataclass
class S3Env:
    """A bucket of one test's own; the process's environment points at it, and subprocesses inherit that."""

    server: S3Server
    bucket: str
    proxy: Callable[..., FaultProxy]

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}"


@pytest.fixture
def s3_env(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Env]:
    """`s3_env.uri` is an empty bucket; `s3_env.proxy(every=…)` puts faults between it and the process."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    s3_server.client().create_bucket(Bucket=bucket)
    proxies: list[FaultProxy] = []

    def proxy(**arguments: object) -> FaultProxy:
        made = FaultProxy(("127.0.0.1", s3_server.port), **arguments)  # type: ignore[arg-type]
        proxies.append(made)
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.endpoint)
        return made

    yield S3Env(s3_server, bucket, proxy)
    for made in proxies:
        made.close()
    with contextlib.suppress(Exception):  # frees the bucket's volumes; a test may have killed the server
        client = s3_server.client()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            if page.get("Contents"):
                keys = [{"Key": item["Key"]} for item in page["Contents"]]
                client.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
        client.delete_bucket(Bucket=bucket)
