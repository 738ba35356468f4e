"""Credentials are nowhere in what a run leaves or prints: not in files, logs, reports, commits or exceptions."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import S3Env
from tests.e2e.support import FAST, LIMIT_S, Output, run, upload
from tests.media_factory import make_video
from tests.s3 import ACCESS_KEY, SECRET_KEY

pytestmark = pytest.mark.timeout(2 * LIMIT_S)
USER, PASSWORD, SIGNATURE, TOKEN = "the-user-7", "hunter2-in-uri", "signature-deadbeef", "session-token-cafe"
VIDEO = make_video(frames=6, options={"preset": "ultrafast"})


class _Server(http.server.BaseHTTPRequestHandler):
    """Gives a video under /good.mp4, text under /text.mp4, and refuses everything else, quoting the address."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        body = {"/good.mp4": VIDEO, "/text.mp4": b"no video"}.get(path)
        self.send_response(403 if body is None else 200)
        data = f"denied: {self.path}".encode() if body is None else body
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def host() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()


def test_no_credential_is_in_anything_that_a_run_leaves_or_prints(
    s3_env: S3Env, host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    signed = f"X-Amz-Credential={USER}&X-Amz-Signature={SIGNATURE}"
    entries = [
        "a.mp4", f"http://{host}/good.mp4?{signed}", f"http://{host}/text.mp4?{signed}",
        f"http://{USER}:{PASSWORD}@{host}/denied.mp4?{signed}", f"http://{USER}:{PASSWORD}@127.0.0.1:9/gone.mp4?{signed}",
        f"s3://{USER}:{PASSWORD}@bucket/b.mp4", f"ftp://{USER}:{PASSWORD}@host/c.mp4", f"ABFS://{USER}:{PASSWORD}@host/d.mp4",
    ]  # fmt: skip
    client = s3_env.server.client()
    upload(client, s3_env.bucket, {"in/a.mp4": VIDEO, "in/list.txt": "\n".join(entries).encode()})
    sets = [*FAST, "input.schemes=[s3, http, abfs]", "retry.storage_attempts=1"]
    done = run(f"{s3_env.uri}/in/list.txt", f"{s3_env.uri}/out", sets)
    assert done.code == 3, done.text
    output = Output.of_bucket(client, s3_env.bucket, "out")
    assert len(output.commits) == len(entries)
    assert sum(commit["status"] == "ok" for commit in output.commits.values()) == 2, done.text
    assert len(output.quarantine()) == len(entries) - 2
    for secret in (PASSWORD, USER, SIGNATURE, TOKEN, SECRET_KEY, ACCESS_KEY):
        assert secret not in done.text
        assert not [path for path, data in output.files.items() if secret.encode() in data], secret
        assert not [path for path in output.files if secret in path]
        shown = repr([output.quarantine(), output.commits])  # as the Parquet file's compression hides it
        assert secret not in shown
