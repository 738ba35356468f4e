"""What cannot work is said before any work: exit code 2, one clear message, nothing written; and no secret is shown."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import S3Env
from tests.e2e.support import FAST, ROOT, Cluster, Done, Job, Output, no_traceback, run, upload, write
from tests.media_factory import make_video
from tests.s3 import SECRET_KEY

X264 = {"preset": "ultrafast"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "in", {"a.mp4": make_video(frames=12, options=X264)})


def _refused(done: Done, *says: str) -> None:
    assert done.code == 2, done.text
    assert no_traceback(done.text), done.text
    for text in says:
        assert text in done.text
    assert done.text.count("error:") == 1


def _nothing(folder: Path) -> bool:
    return not Output.of(folder).files


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (("clip.framse=10", "encode.crf=99"), ("clip.framse", "unknown key", "frames", "encode.crf", "99")),
        (("target.factor=1", "retry.attempts=0"), ("target.factor", "retry.attempts")),
        (("model=no-such-model",), ("no-such-model",)),
        (("model=/nowhere/weights.safetensors",), ("/nowhere/weights.safetensors",)),
        (("resources.actors=64", "resources.cpu_threads=1"), ("64 actors", "resources.actors")),
        (("resources.gpus_per_actor=1",), ("resources.gpus_per_actor", "0 GPUs")),
        (("encode.codec=h264_nvenc",), ("h264_nvenc",)),
    ],
)
def test_a_configuration_that_cannot_work_is_refused_before_any_work(
    source: Path, tmp_path: Path, cluster: Cluster, sets: tuple[str, ...], says: tuple[str, ...]
) -> None:
    done = run(source, tmp_path / "out", [*FAST, *sets], env=cluster.job_env())
    _refused(done, *says)
    assert _nothing(tmp_path / "out")


def test_an_input_or_an_output_that_is_not_there_is_refused(source: Path, tmp_path: Path) -> None:
    _refused(run(tmp_path / "nowhere", tmp_path / "out"), "nowhere", "not found")
    (tmp_path / "empty").mkdir()
    _refused(run(tmp_path / "empty", tmp_path / "out"), "no videos here")
    assert _nothing(tmp_path / "out")
    (tmp_path / "file").write_text("in the way")
    _refused(run(source, tmp_path / "file" / "out"), str(tmp_path / "file"))
    _refused(run(source, "/proc/motionmill-out"), "/proc/motionmill-out")
    assert (tmp_path / "file").read_text() == "in the way"


def test_weights_that_were_changed_are_refused(source: Path, tmp_path: Path) -> None:
    shipped = sorted((Path(__file__).resolve().parents[2] / "models").rglob("*.safetensors"))
    assert shipped, "weights come with the code"
    data = bytearray(shipped[0].read_bytes())
    data[len(data) // 2] ^= 1
    changed = tmp_path / "changed.safetensors"
    changed.write_bytes(bytes(data[: len(data) // 2]))
    done = run(source, tmp_path / "out", [*FAST[1:], f"model={changed}"])
    _refused(done, "changed.safetensors")
    assert _nothing(tmp_path / "out")


def test_shipped_weights_of_another_digest_are_refused(source: Path, tmp_path: Path) -> None:
    for name in ("pipeline", "models", "jobs", "configs"):
        shutil.copytree(ROOT / name, tmp_path / "copy" / name, ignore=shutil.ignore_patterns("__pycache__", "samples"))
    weights = tmp_path / "copy" / "models" / "cain_sd" / "cain_compact.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1  # it still loads: only the digest tells
    weights.write_bytes(bytes(data))
    script = str(tmp_path / "copy" / "jobs" / "interpolate.py")
    with Job([script, str(source), str(tmp_path / "out"), "--set", "model=cain-compact"], cwd=tmp_path) as job:
        done = job.wait()
    _refused(done, "cain_compact.safetensors", "sha256 is", "declared is")
    assert _nothing(tmp_path / "out")


def test_another_run_in_the_same_place_is_refused_until_told_to_overwrite_it(
    source: Path, tmp_path: Path, cluster: Cluster
) -> None:
    folder, env = tmp_path / "out", cluster.job_env()
    assert run(source, folder, env=env).code == 0
    before = Output.of(folder).files
    done = run(source, folder, [*FAST, "target.factor=4", "encode.crf=20", "batch=2"], env=env)
    _refused(done, "target.factor: there 2, now 4", "encode.crf: there 18", "now 20", "--overwrite")
    assert "batch" not in done.text.split("differ in")[1], "what changes no output byte is no difference"
    assert Output.of(folder).files == before, "nothing was touched"

    done = run(source, folder, [*FAST, "target.factor=4"], ["--overwrite"], env=env)
    assert done.code == 0, done.text
    output = Output.of(folder)
    output.check_settled()
    assert len(output.frames("a.mp4")) == 48
    assert len(output.below("_motionmill/runs/")) == 1, "the other run is gone"

    # Files that are no run's are never overwritten.
    write(tmp_path / "foreign" / "video", {"mine.mp4": b"precious"})
    _refused(run(source, tmp_path / "foreign", flags=["--overwrite"], env=env), "mine.mp4")
    assert (tmp_path / "foreign" / "video" / "mine.mp4").read_bytes() == b"precious"


def test_wrong_credentials_and_missing_buckets_are_refused_and_no_secret_is_shown(
    s3_env: S3Env, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = s3_env.server.client()
    upload(client, s3_env.bucket, {"in/a.mp4": make_video(frames=12, options=X264)})
    before = Output.of_bucket(client, s3_env.bucket).files
    place, out = f"{s3_env.uri}/in", f"{s3_env.uri}/out"
    texts = []

    def refused(source: object, output: object, *says: str, **env: str) -> None:
        done = run(source, output, env=env)
        _refused(done, *says)
        texts.append(done.text)

    refused(place, out, "denied", AWS_SECRET_ACCESS_KEY="not-the-secret-but-secret-too")
    refused(place, out, "denied", AWS_ACCESS_KEY_ID="nobody")
    refused(source, out, "denied", AWS_SECRET_ACCESS_KEY="not-the-secret-but-secret-too")
    refused("s3://no-such-bucket-here/in", out, "no-such-bucket-here", "does not exist")
    refused(place, "s3://no-such-bucket-here/out", "no-such-bucket-here", "does not exist")
    refused(f"{place}/nothing", out, "not found")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("HOME", str(tmp_path))
    refused(place, out, "no credentials found", "AWS_ACCESS_KEY_ID")
    assert Output.of_bucket(client, s3_env.bucket).files == before
    for text in texts:
        assert SECRET_KEY not in text
        assert "not-the-secret-but-secret-too" not in text


def test_a_plan_says_what_would_be_done_and_does_nothing(source: Path, tmp_path: Path) -> None:
    write(source, {"bad.mp4": b"text"})
    done = run(source, tmp_path / "out", flags=["--plan"])
    assert done.code == 0, done.text
    assert re.search(r"^ +12 +\S+ +24 +1/1 .*a\.mp4: h264 64x48 yuv420p$", done.text, re.M)
    assert "refused" in done.text
    assert "bad.mp4" in done.text
    assert "24 out" in done.text
    assert not (tmp_path / "out").exists()


def test_secrets_in_an_input_s_address_are_shown_nowhere(tmp_path: Path, cluster: Cluster) -> None:
    listing = tmp_path / "in" / "list.txt"
    write(tmp_path / "in", {"good.mp4": make_video(frames=12, options=X264)})
    listing.write_text(
        "good.mp4\n"
        "http://user:hunter2@127.0.0.1:9/a.mp4?X-Amz-Signature=topsecret\n"
        "s3://user:hunter2@bucket/b.mp4\n"
    )  # fmt: skip
    done = run(listing, tmp_path / "out", [*FAST, "retry.storage_attempts=1"], env=cluster.job_env())
    assert done.code == 3, done.text
    output = Output.of(tmp_path / "out")
    output.check_settled()
    assert output.videos == ["good.mp4"]
    assert len(output.quarantine()) == 2
    for secret in ("hunter2", "topsecret"):
        assert secret not in done.text
        assert secret not in json.dumps(output.quarantine(), default=str)
        assert not [path for path, data in output.files.items() if secret.encode() in data or secret in path]
