"""A store with videos, a cluster, and one case after another in them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from tests.chaos.cluster import ThreeRaylets, environment
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.inspect import Found, difference, half_visible, inspect
from tests.e2e.support import ROOT, Job, Output, until, upload
from tests.media_factory import make_video
from tests.s3 import ACCESS_KEY, SECRET_KEY, FaultProxy, S3Server

BUCKET = "chaos"
X264 = {"preset": "ultrafast"}
FRAMES = {"in/a.mp4": 64, "in/b.mkv": 48}
CLIP = 4
LIMIT_S = 600.0
SHARED = (f"clip.frames={CLIP}", "resources.actors=2", "resources.cpu_threads=1")
SETS = {
    "interpolate": (*SHARED, "model=blend", "encode.preset=ultrafast", "encode.crf=0"),
    "flow": (*SHARED, "iterations=1"),
    "recognize": (*SHARED, "key_frames.window=4", "key_frames.budget=1/4", "short_side=48", "long_side=64"),
}
LOST = ("WorkerLost",)


def source_digest() -> str:
    """Of the code that makes results: clean runs of other code are no measure."""
    digest = hashlib.sha256()
    for folder in ("pipeline", "models", "jobs"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@dataclass
class Result:
    task: str
    fault: str
    ok: bool
    said: str
    """What went wrong, or how it went."""
    seconds: float
    codes: list[int]
    """Exit codes of the run, and of the one after it."""
    rows: int = 0
    retries: int = 0
    """Calls to the store that were repeated, by the last run's summary."""
    clips_taken_over: int = 0
    injected: dict[str, int] | None = None
    when: str = ""
    code: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Failed(Exception):
    """The run did not do what it must; the message says what."""


@dataclass
class Scene:
    """One run that is struck."""

    lab: Lab
    job: Job


class Lab:
    def __init__(self, state: Path) -> None:
        self._state = state
        """Folder for what clean runs made, kept from one invocation to the next."""
        self._folder = tempfile.TemporaryDirectory(prefix="mmchaos-", dir="/tmp")
        self._cluster: ThreeRaylets | None = None
        self.server = S3Server(Path(self._folder.name) / "weed").start()
        client = self.server.client()
        client.create_bucket(Bucket=BUCKET)
        upload(client, BUCKET, {name: self._input(name, frames) for name, frames in FRAMES.items()})
        for poison in ("", *(fault.poison for fault in FAULTS.values() if fault.poison)):
            names = [*FRAMES, *([f"poison/{poison}.mp4"] if poison else [])]
            upload(client, BUCKET, {f"{poison or 'all'}.txt": "\n".join(names).encode()})
            if poison:
                upload(client, BUCKET, {names[-1]: self._input(names[-1], 3 * CLIP)})

    def _input(self, name: str, frames: int) -> bytes:
        """A video, made once: Matroska's muxer gives each file another id, and so another version."""
        path = self._state / name.replace("/", "-")
        if not path.exists():
            container = "matroska" if name.endswith(".mkv") else "mp4"
            path.write_bytes(make_video(container=container, frames=frames, options=X264))
        return path.read_bytes()

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        if self._cluster is not None:
            self._cluster.close()
        self.server.kill()
        self._folder.cleanup()

    @property
    def cluster(self) -> ThreeRaylets:
        if self._cluster is None:
            began = time.monotonic()
            self._cluster = ThreeRaylets()
            print(f"three raylets started in {time.monotonic() - began:.0f} s", flush=True)
        return self._cluster

    def mend(self) -> None:
        """Another cluster, where the one there has lost a part."""
        if self._cluster is not None and not self._cluster.whole():
            self._cluster.close()
            self._cluster = None

    # ---- runs

    def output(self, prefix: str) -> Output:
        return Output.of_bucket(self.server.client(), BUCKET, prefix)

    def check_visible(self, task: str, prefix: str, clean: Found) -> None:
        """Raises Failed where a reader of the unfinished run would find half of something."""
        wrong: list[str] = []
        for _ in range(3):  # objects come and go between listing and reading them
            with contextlib.suppress(ClientError):
                wrong = half_visible(task, self.output(prefix), clean)
                if not wrong:
                    return
            time.sleep(0.5)
        if wrong:
            raise Failed(f"visible while it is unfinished: {wrong}")

    def start(self, task: str, source: str, prefix: str, fault: Fault, endpoint: str, sets: tuple[str, ...]) -> Job:
        self.mend()
        place = (f"s3://{BUCKET}/{source}", f"s3://{BUCKET}/{prefix}")
        every = (*SETS[task], *fault.sets, *sets)
        if fault.poison:
            arguments = ["-m", "tests.chaos.poison", task, *place, *every]
        else:
            options = [part for text in every for part in ("--set", text)]
            arguments = [str(ROOT / "jobs" / f"{task}.py"), *place, *options]
        return Job(arguments, self.cluster.job_env(**environment(endpoint, ACCESS_KEY, SECRET_KEY)))

    def committed(self, prefix: str) -> int:
        client, found = self.server.client(), 0
        for kind in ("commit", "videos"):
            found += client.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/_motionmill/{kind}/")["KeyCount"]
        return found

    def clean(self, task: str) -> tuple[Found, bool]:
        """What an undisturbed run makes, run once and remembered; and whether this very code made it."""
        path = self._state / f"clean-{task}.json"
        if path.exists():
            kept = json.loads(path.read_text())
            videos = {uri: (rows, columns) for uri, (rows, columns) in kept["videos"].items()}
            return Found(videos), kept["source"] == source_digest()
        source, prefix = source_digest(), f"out/{task}/clean-{uuid.uuid4().hex[:6]}"
        with self.start(task, "all.txt", prefix, Fault("nothing"), self.server.endpoint, ()) as job:
            began = time.monotonic()
            done = job.wait(LIMIT_S)
        print(f"{task}: the clean run took {time.monotonic() - began:.0f} s", flush=True)
        found = inspect(task, self.output(prefix))
        if done.code != 0 or found.problems or found.left or len(found.videos) != len(FRAMES):
            raise Failed(f"the clean run ended with {done.code}, {found}:\n{done.text[-2000:]}")
        path.write_text(json.dumps({"source": source, "videos": found.videos}, indent=1))
        return found, True

    def run(self, task: str, name: str) -> Result:
        began = time.monotonic()
        codes: list[int] = []
        result = Result(task, name, False, "", 0.0, codes)
        result.when, result.code = time.strftime("%Y-%m-%d %H:%M", time.gmtime()), _revision()
        try:
            try:
                self._run(task, FAULTS[name], result)
            except Failed:
                if self.clean(task)[1]:
                    raise
                # Other code than the clean run's: that may be all the difference.
                (self._state / f"clean-{task}.json").unlink()
                codes.clear()
                self._run(task, FAULTS[name], result)
            result.ok = True
        except (Failed, AssertionError) as error:
            result.said = str(error)[-3000:]
        result.seconds = round(time.monotonic() - began, 1)
        return result

    def _run(self, task: str, fault: Fault, result: Result) -> None:
        clean, _ = self.clean(task)
        prefix = f"out/{task}/{result.fault}-{uuid.uuid4().hex[:6]}"
        source = f"{fault.poison or 'all'}.txt"
        with contextlib.ExitStack() as stack:
            endpoint = self.server.endpoint
            proxy: FaultProxy | None = None
            if fault.every:
                proxy = stack.enter_context(FaultProxy(("127.0.0.1", self.server.port), every=dict(fault.every)))
                proxy.delay_s, endpoint = 0.1, proxy.endpoint
            sets: tuple[str, ...] = ()
            if fault.scratch:
                sets = (f"resources.scratch={stack.enter_context(full_disk(Path(self._folder.name)))}",)
            job = stack.enter_context(self.start(task, source, prefix, fault, endpoint, sets))
            if fault.strike is not None:
                wanted = 0 if fault.poison else 3
                until(lambda: self.committed(prefix) >= wanted, f"{wanted} commits", job, LIMIT_S)
                fault.strike(Scene(self, job))
                self.check_visible(task, prefix, clean)
            done = job.wait(LIMIT_S)
            result.codes.append(done.code)
            if proxy is not None:
                result.injected = dict(proxy.injected)
                if not all(proxy.injected[kind] for kind in proxy.every):
                    raise Failed(f"the fault did not strike: {proxy.injected} of {proxy.requests} requests")
        if done.code not in fault.codes:
            raise Failed(f"ended with {done.code}, one of {fault.codes} expected:\n{done.text[-1500:]}")
        if done.code not in (0, 3):
            self.check_visible(task, prefix, clean)
            with self.start(task, source, prefix, fault, self.server.endpoint, ()) as job:
                again = job.wait(LIMIT_S)
            result.codes.append(again.code)
            if again.code != 0:
                raise Failed(f"the run after it ended with {again.code}:\n{again.text[-1500:]}")
        poisoned = {f"s3://{BUCKET}/poison/{fault.poison}.mp4": LOST} if fault.poison else {}
        output = self.output(prefix)
        found = inspect(task, output)
        if fault.poison:  # clips of a video in quarantine are kept for another try
            found.left = [path for path in found.left if "/attempts/" in path or not path.startswith("_motionmill/")]
        if wrong := difference(found, clean, poisoned):
            raise Failed("; ".join(wrong))
        summary = output.summary
        result.rows = sum(rows for rows, _ in found.videos.values())
        result.retries, result.clips_taken_over = summary["storage_retries"], summary["clips_resumed"]


@contextlib.contextmanager
def full_disk(folder: Path) -> Iterator[Path]:
    """A mounted file system without room; needs root."""
    place = folder / f"disk-{uuid.uuid4().hex[:6]}"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "none", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        raise Failed(f"not run: no file system can be mounted here ({mounted.stderr.strip()})")
    try:
        with contextlib.suppress(OSError), (place / "ballast").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def _revision() -> str:
    answer = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ
    )
    return answer.stdout.strip()
