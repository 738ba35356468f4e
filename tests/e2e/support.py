"""Running the job as a user does, and looking at what it leaves: with PyAV and hashlib, not with our readers."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.s3 import free_ports

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 480.0
"""Seconds that a run may take on a busy machine: ends a test that hangs, asserts nothing."""
FAST = ("model=blend", "encode.preset=ultrafast")
LOSSLESS = (*FAST, "encode.crf=0")


@dataclass(frozen=True)
class Done:
    """A job that has ended: its exit code, and everything that it printed."""

    code: int
    text: str


class Job:
    """A process started as from a terminal: a session of its own, its output in a file."""

    def __init__(self, arguments: Sequence[str], env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
        self._log = tempfile.NamedTemporaryFile(prefix="mm-job-", suffix=".log")  # noqa: SIM115
        clean = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "PYTHONPATH")}
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=self._log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=clean | dict(env or {}),
            cwd=cwd or ROOT, start_new_session=True,
        )  # fmt: skip

    @property
    def text(self) -> str:
        return Path(self._log.name).read_text(errors="replace")

    def wait(self, limit_s: float = LIMIT_S) -> Done:
        try:
            self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.kill_all()
            raise AssertionError(f"still running after {limit_s} s:\n{self.text}") from None
        return Done(self.process.returncode, self.text)

    def kill_all(self) -> None:
        """Ends the process and everything that it started."""
        for pid in [*descendants(self.process.pid), self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_all()
        self._log.close()


def job_arguments(source: object, output: object, sets: Sequence[str] = FAST, flags: Sequence[str] = ()) -> list[str]:
    options = [part for text in sets for part in ("--set", text)]
    return [str(ROOT / "jobs" / "interpolate.py"), str(source), str(output), *options, *flags]


def start(
    source: object,
    output: object,
    sets: Sequence[str] = FAST,
    flags: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> Job:
    return Job(job_arguments(source, output, sets, flags), env)


def run(
    source: object,
    output: object,
    sets: Sequence[str] = FAST,
    flags: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> Done:
    """The job, to its end: `python jobs/interpolate.py SOURCE OUTPUT --set …`."""
    with start(source, output, sets, flags, env) as job:
        return job.wait()


# ---- processes


def _table() -> dict[int, tuple[int, str]]:
    """pid → (parent, command line)."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                stat = (folder / "stat").read_text()
                parent = int(stat.rpartition(")")[2].split()[1])
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found[int(folder.name)] = (parent, command)
    return found


def descendants(pid: int) -> list[int]:
    table = _table()
    family = {pid}
    while more := {child for child, (parent, _) in table.items() if parent in family} - family:
        family |= more
    return sorted(family - {pid})


def workers(pid: int, name: str = "ray::MapWorker") -> list[int]:
    """Ray's processes below `pid` whose title starts with `name`."""
    table = _table()
    return [child for child in descendants(pid) if table.get(child, (0, ""))[1].startswith(name)]


def working(pids: Sequence[int]) -> list[int]:
    """Those of them that may still write: not zombies (no command line), nor Ray's agents, which linger a minute."""
    table = _table()
    titles = {pid: table.get(pid, (0, ""))[1].strip() for pid in pids}
    return [pid for pid, title in titles.items() if title and "Agent" not in title]


def until(condition: Callable[[], Any], what: str, job: Job | None = None, limit_s: float = LIMIT_S) -> Any:
    """Polls until `condition()` is true, and returns it; fails when the time is up or `job` has ended."""
    deadline = time.monotonic() + limit_s
    while not (answer := condition()):
        if job is not None and job.process.poll() is not None and not (answer := condition()):
            raise AssertionError(f"the job ended with {job.process.returncode} before {what}:\n{job.text}")
        if answer:
            break
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}\n{job.text if job else ''}"
        time.sleep(0.02)
    return answer


class Cluster:
    """A Ray cluster of one node on loopback, started by `ray start --head` and stopped by its process id."""

    def __init__(
        self, *flags: str, cpus: int = 4, dashboard: bool = False, env: Mapping[str, str] | None = None
    ) -> None:
        for number in (1, 2, 3):
            try:
                return self._start(flags, cpus, dashboard, env or {})
            except BaseException as error:
                self.close()
                # On a machine that is busy enough Ray gives its own parts up: it waits half a minute, come what may.
                if number == 3 or "timed out during startup" not in str(error):
                    raise

    def _start(self, flags: Sequence[str], cpus: int, dashboard: bool, env: Mapping[str, str]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mmray-", dir="/tmp"))  # short: it holds unix sockets
        # The agents' too: their defaults are one a machine, and another cluster may be running.
        port, self.dashboard_port, metrics, *agents = free_ports(6)
        self.address = f"127.0.0.1:{port}"
        self._log = self.folder / "start.log"
        ray = Path(sys.executable).with_name("ray")
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "RAY_ADDRESS"))}
        self.env = clean | {
            "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_prestart_worker_first_driver": "0",
            "PATH": f"{ray.parent}{os.pathsep}{os.environ['PATH']}", "PYTHONUNBUFFERED": "1", **env,
        }  # fmt: skip
        arguments = [
            str(ray), "start", "--head", "--block", "--disable-usage-stats", "--node-ip-address", "127.0.0.1",
            "--port", str(port), "--num-cpus", str(cpus), "--object-store-memory", "100000000",
            "--temp-dir", str(self.folder / "t"), "--metrics-export-port", str(metrics),
            f"--include-dashboard={dashboard}", "--dashboard-host", "127.0.0.1",
            "--dashboard-port", str(self.dashboard_port), "--dashboard-agent-listen-port", str(agents[0]),
            "--dashboard-agent-grpc-port", str(agents[1]), "--runtime-env-agent-port", str(agents[2]), *flags,
        ]  # fmt: skip
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                arguments, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.env, start_new_session=True
            )
        until(self._started, f"ray start --head: {self._log}")

    def _started(self) -> bool:
        text = self._log.read_text(errors="replace")
        assert self.process.poll() is None, text
        return "Ray runtime started" in text

    def job_env(self, **variables: str) -> dict[str, str]:
        """Environment that makes a job join this cluster, and hands `variables` to its workers as a submitted job's."""
        workers_env = {"PYTHONPATH": str(ROOT), **variables}
        config = json.dumps({"runtime_env": {"env_vars": workers_env}})
        return {"RAY_ADDRESS": self.address, "RAY_JOB_CONFIG_JSON_ENV_VAR": config, **variables}

    def close(self) -> None:
        family = descendants(self.process.pid)
        for pid in [*family, self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


# ---- what a run leaves


@dataclass
class Output:
    """Every object of an output prefix, by relative path."""

    files: dict[str, bytes] = field(default_factory=dict)

    @staticmethod
    def of(folder: Path) -> Output:
        paths = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.exists() else []
        return Output(
            {
                os.fsencode(path.relative_to(folder)).decode("utf-8", "backslashreplace"): path.read_bytes()
                for path in paths
            }
        )

    @staticmethod
    def of_bucket(client: Any, bucket: str, prefix: str = "") -> Output:
        start = f"{prefix.strip('/')}/" if prefix else ""
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=start)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return Output({key[len(start) :]: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys})

    def below(self, prefix: str) -> list[str]:
        return [path for path in self.files if path.startswith(prefix)]

    @property
    def videos(self) -> list[str]:
        return [path.removeprefix("video/") for path in self.below("video/")]

    @property
    def commits(self) -> dict[str, dict[str, Any]]:
        """Video commits by the video's name."""
        found = [json.loads(self.files[path]) for path in self.below("_motionmill/videos/")]
        return {commit["name"]: commit for commit in found}

    @property
    def summary(self) -> dict[str, Any]:
        return dict(json.loads(self.files["_motionmill/summary.json"]))

    def quarantine(self) -> list[dict[str, Any]]:
        data = self.files["_motionmill/quarantine/quarantine.parquet"]
        table: pa.Table = pq.read_table(pa.BufferReader(data))
        return list(table.to_pylist())

    def frames(self, name: str) -> Frames:
        return frames_of(self.files[f"video/{name}"])

    def check_settled(self) -> None:
        """What must hold after a run that ended well: commits and objects name each other, and nothing else is left."""
        named = {}
        for commit in self.commits.values():
            if commit["status"] == "ok":
                assert commit["outputs"], commit
                named |= {part["path"]: part for part in commit["outputs"]}
        assert sorted(named) == sorted(self.below("video/")), "objects in video/ and commits differ"
        for path, part in named.items():
            assert len(self.files[path]) == part["size"]
            assert hashlib.sha256(self.files[path]).hexdigest() == part["sha256"]
        bad = {commit["video_id"] for commit in self.commits.values() if commit["status"] == "error"}
        clips = [json.loads(self.files[path]) for path in self.below("_motionmill/commit/")]
        assert {clip["video_id"] for clip in clips} <= bad, "clip commits of finished videos are left"
        kept = {
            data["path"] for clip in clips for data in (clip["data"], (clip["failure"] or {}).get("prefix")) if data
        }
        assert set(self.below("_motionmill/segments/")) == kept, "segments that no commit names are left"
        assert not self.below("_motionmill/attempts/"), "marks of attempts are left"
        assert not self.below("_motionmill/probe-")
        assert not [path for path in self.files if path.endswith(".part")]
        failures = [commit["failure"] for commit in self.commits.values() if commit["failure"]]
        prefixes = {failure["prefix"]["path"] for failure in failures if failure["prefix"]}
        assert set(self.below("_motionmill/quarantine/video/")) == prefixes


Frames = list[tuple[Fraction, str]]
"""(time in seconds, digest of the decoded planes) of each frame, in order."""


def frames_of(data: bytes | Path) -> Frames:
    source = io.BytesIO(data) if isinstance(data, bytes) else str(data)
    with av.open(source) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return [
            (frame.pts * frame.time_base, hashlib.sha256(_pixels(frame)).hexdigest())
            for frame in container.decode(stream)
        ]


def _pixels(frame: av.VideoFrame) -> bytes:
    """All planes without the padding of their lines."""
    parts = []
    for plane, component in zip(frame.planes, frame.format.components, strict=False):
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height]
        parts.append(rows[:, : plane.width * ((component.bits + 7) // 8)].tobytes())
    return b"".join(parts)


def packets_of(data: bytes, kind: str) -> list[list[tuple[Fraction, bytes]]]:
    """(time in seconds, payload) of each packet, by stream of that kind."""
    with av.open(io.BytesIO(data)) as container:
        found: dict[int, list[tuple[Fraction, bytes]]] = {s.index: [] for s in container.streams if s.type == kind}
        for packet in container.demux():
            if packet.pts is not None and packet.size and packet.stream_index in found:
                found[packet.stream_index].append((packet.pts * packet.time_base, bytes(packet)))
    return list(found.values())


def write(folder: Path, videos: Mapping[str, bytes]) -> Path:
    for name, data in videos.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def upload(client: Any, bucket: str, objects: Mapping[str, bytes]) -> None:
    for key, data in objects.items():
        client.put_object(Bucket=bucket, Key=key, Body=data)


def no_traceback(text: str) -> bool:
    return not re.search(r"Traceback \(most recent|^\s+File \"", text, re.M)
