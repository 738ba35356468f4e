"""Every kind of input from a bucket, output to a bucket, and the job submitted to a cluster."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import S3Env
from tests.e2e.support import FAST, LIMIT_S, ROOT, Cluster, Output, run, until, upload, write
from tests.media_factory import make_video
from tests.s3 import ACCESS_KEY, SECRET_KEY

FRAMES = {"a.mp4": 10, "b.mkv": 11, "c.mp4": 12, "d.mp4": 13}
VIDEOS = {
    name: make_video(
        container="matroska" if name.endswith("mkv") else "mp4", frames=frames, options={"preset": "ultrafast"}
    )
    for name, frames in FRAMES.items()
}
LIST = """# all kinds, and two of one name
s3://{bucket}/plain/b.mkv
shards/s-0.tar
tables/cells.parquet
plain/c.mp4
s3://{bucket}/plain/deep/c.mp4
"""


def _tar(members: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return target.getvalue()


def _parquet(columns: dict[str, list[object]]) -> bytes:
    target = io.BytesIO()
    pq.write_table(pa.table(columns), target)
    return target.getvalue()


def _env(s3_env: S3Env) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_env.server.endpoint, "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip


def _objects(bucket: str) -> dict[str, bytes]:
    return {
        **{f"plain/{name}": data for name, data in VIDEOS.items()},
        "plain/deep/c.mp4": VIDEOS["d.mp4"],
        "shards/s-0.tar": _tar({"x/a.mp4": VIDEOS["a.mp4"], "x/a.json": b"{}", "c.mp4": VIDEOS["c.mp4"]}),
        "tables/uris.parquet": _parquet(
            {"id": [1, 2], "uri": [f"s3://{bucket}/plain/a.mp4", f"s3://{bucket}/plain/d.mp4"]}
        ),
        "tables/cells.parquet": _parquet({"name": ["one.mp4", "two.mkv"], "bytes": [VIDEOS["c.mp4"], VIDEOS["b.mkv"]]}),
        "list.txt": LIST.format(bucket=bucket).encode(),
    }


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param(
            "plain", {"a.mp4": 20, "b.mkv.mp4": 22, "c.mp4": 24, "d.mp4": 26, "deep/c.mp4": 26}, marks=pytest.mark.slow
        ),
        pytest.param("plain/[ab].m*", {"a.mp4": 20, "b.mkv.mp4": 22}, marks=pytest.mark.slow),
        (
            "list.txt",
            {
                "plain/b.mkv.mp4": 22, "shards/s-0.tar/x/a.mp4": 20, "shards/s-0.tar/c.mp4": 24,
                "plain/c.mp4": 24, "plain/deep/c.mp4": 26,
                "tables/cells.parquet/row-00000000-one.mp4": 24, "tables/cells.parquet/row-00000001-two.mkv.mp4": 22,
            },
        ),
        pytest.param("tables/uris.parquet", None, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_each_kind_of_input_in_a_bucket_gives_its_videos_in_a_bucket(
    s3_env: S3Env, cluster: Cluster, source: str, expected: dict[str, int] | None
) -> None:
    client = s3_env.server.client()
    upload(client, s3_env.bucket, _objects(s3_env.bucket))
    env = cluster.job_env(**_env(s3_env))
    done = run(f"{s3_env.uri}/{source}", f"{s3_env.uri}/results/run 1", [*FAST, "clip.frames=6"], env=env)
    assert done.code == 0, done.text
    output = Output.of_bucket(client, s3_env.bucket, "results/run 1")
    output.check_settled()
    found = {name: len(output.frames(name)) for name in output.videos}
    if expected is None:
        assert sorted(found.values()) == [20, 26]
    else:
        assert found == expected
    assert SECRET_KEY not in done.text
    assert not [path for path, data in output.files.items() if SECRET_KEY.encode() in data]


def _working(tmp_path: Path) -> Path:
    working = tmp_path / "working"
    for name in ("pipeline", "models", "jobs", "configs"):
        ignored = shutil.ignore_patterns("__pycache__", "samples", "*.safetensors")
        shutil.copytree(ROOT / name, working / name, ignore=ignored)
    return working


def _ray_job(cluster: Cluster, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`ray job VERB …` to its end."""
    ray = str(Path(sys.executable).with_name("ray"))
    return subprocess.run(
        [ray, "job", verb, "--address", f"http://127.0.0.1:{cluster.dashboard_port}", *arguments],
        env=os.environ | {"RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def _takes_jobs(cluster: Cluster) -> None:
    until(lambda: "No available agent" not in _ray_job(cluster, "submit", "--", "true").stderr, "an agent for jobs")


def test_the_job_is_submitted_to_a_cluster_and_works_from_bucket_to_bucket(s3_env: S3Env, tmp_path: Path) -> None:
    client = s3_env.server.client()
    upload(client, s3_env.bucket, {f"in/{name}": data for name, data in VIDEOS.items()} | {"in/bad.mp4": b"text"})
    working = _working(tmp_path)
    cluster = Cluster(cpus=2, dashboard=True, env=_env(s3_env))
    try:
        sets = [part for text in (*FAST, "clip.frames=6") for part in ("--set", text)]

        def submit(*job: str) -> subprocess.CompletedProcess[str]:
            return _ray_job(cluster, "submit", "--working-dir", str(working), "--", *job)

        _takes_jobs(cluster)
        done = submit("python", "jobs/interpolate.py", f"{s3_env.uri}/in/[a-d].m*", f"{s3_env.uri}/out", *sets)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "succeeded" in (done.stdout + done.stderr)
        output = Output.of_bucket(client, s3_env.bucket, "out")
        output.check_settled()
        assert {name: len(output.frames(name)) for name in output.videos} == {
            "a.mp4": 20, "b.mkv.mp4": 22, "c.mp4": 24, "d.mp4": 26,
        }  # fmt: skip
        assert SECRET_KEY not in done.stdout + done.stderr

        # The file runs as it is, too; and quarantined input makes the submission fail, visibly.
        more = submit("jobs/interpolate.py", f"{s3_env.uri}/in", f"{s3_env.uri}/out", *sets)
        assert more.returncode == 1, more.stdout + more.stderr
        assert "4 done before" in more.stdout + more.stderr
        assert "exit code 3" in more.stdout + more.stderr
        output = Output.of_bucket(client, s3_env.bucket, "out")
        output.check_settled()
        assert [row["uri"] for row in output.quarantine()] == [f"{s3_env.uri}/in/bad.mp4"]

        # As every night: what is in quarantine stays there, and is no failure.
        night = ["sh", "configs/k8s/run.sh", "jobs/interpolate.py", f"{s3_env.uri}/in", f"{s3_env.uri}/out", *sets]
        again = submit(*night)
        assert again.returncode == 0, again.stdout + again.stderr
        assert "finished; some input is in quarantine" in again.stdout + again.stderr
    finally:
        cluster.close()


@pytest.mark.slow
def test_a_job_that_is_stopped_goes_on_when_it_is_submitted_again(tmp_path: Path) -> None:
    long = make_video(frames=600, size=(320, 240), options={"preset": "ultrafast"})
    videos = {f"{number}.mp4": long for number in range(2)}
    source, output = write(tmp_path / "in", videos), tmp_path / "out"
    commits = "_motionmill/commit/*/*.json"
    working, cluster = _working(tmp_path), Cluster(cpus=2, dashboard=True)
    try:
        _takes_jobs(cluster)
        sets = [part for text in (*FAST, "clip.frames=6") for part in ("--set", text)]
        job = ["--working-dir", str(working), "--", "python", "jobs/interpolate.py", str(source), str(output), *sets]
        begun = _ray_job(cluster, "submit", "--no-wait", "--submission-id", "first", *job)
        assert begun.returncode == 0, begun.stdout + begun.stderr
        until(lambda: len(list(output.glob(commits))) >= 5, "some clips")
        stopped = _ray_job(cluster, "stop", "first")
        assert stopped.returncode == 0, stopped.stdout + stopped.stderr
        assert "STOPPED" in _ray_job(cluster, "status", "first").stdout.upper()
        kept = {path: path.read_bytes() for path in output.glob(commits)}
        assert kept
        again = _ray_job(cluster, "submit", *job)
        assert again.returncode == 0, again.stdout + again.stderr
        found = Output.of(output)
        found.check_settled()
        assert {name: len(found.frames(name)) for name in found.videos} == {"0.mp4": 1200, "1.mp4": 1200}
        assert found.summary["clips_resumed"] > 0
    finally:
        cluster.close()
