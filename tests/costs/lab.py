"""The runs that are measured, on a SeaweedFS server behind a proxy that counts."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import av

from pipeline.layout import Layout
from pipeline.records import quarantine
from pipeline.records.catalogue import WORTH
from pipeline.records.commit import VideoCommit
from pipeline.storage import Storage, ordered
from tests.chaos.cluster import environment
from tests.costs.night import MANY_CLIPS, Counts
from tests.costs.proxy import STATE, CountingProxy
from tests.e2e.support import ROOT, Cluster, Job, descendants, upload
from tests.media_factory import make_video
from tests.s3 import ACCESS_KEY, SECRET_KEY, S3Server

BUCKET = "costs"
FRAMES = 24
SMALL = {
    "interpolate": ("model=blend", "encode.preset=ultrafast"),
    "flow": ("iterations=0",),
    "recognize": ("key_frames.window=6", "key_frames.budget=1/3", "short_side=48", "long_side=64"),
}
"""Settings of the runs that are for requests alone: these do not depend on the model."""
ALONE = {"interpolate": (), "flow": ("files.group_below=0",), "recognize": ("files.group_below=0",)}
"""Settings with which videos share no files."""
ONE_ACTOR = ("resources.actors=1", "resources.cpu_threads=1")
LIMIT_S = 500.0
CATALOGUED = 3 * WORTH
RUNS = (
    # name, output, videos in the input, clips a video
    ("one", "a", 1, 1), ("one more", "a", 2, 1), ("idle 2", "a", 2, 1),
    ("two", "b", 2, 1), ("two more", "b", 3, 1), ("idle 3", "b", 3, 1),
    ("many", "c", 2, MANY_CLIPS), ("reported", "d", 2, 1), ("shared", "e", 2, 1),
)  # fmt: skip


class Lab:
    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mmcosts-", dir="/tmp"))
        self.server = S3Server(self.folder / "weed").start()
        self.client = self.server.client()
        self.client.create_bucket(Bucket=BUCKET)
        self.proxy = CountingProxy(("127.0.0.1", self.server.port))

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.proxy.close()
        self.server.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _env(self) -> dict[str, str]:
        calibration = str(self.folder / "calibration")
        return {**environment(self.proxy.endpoint, ACCESS_KEY, SECRET_KEY), "MOTIONMILL_CALIBRATION": calibration}

    def _start(self, task: str, source: str, output: str, sets: tuple[str, ...], env: dict[str, str]) -> Job:
        options = [part for text in sets for part in ("--set", text)]
        arguments = [str(ROOT / "jobs" / f"{task}.py"), f"s3://{BUCKET}/{source}", f"s3://{BUCKET}/{output}", *options]
        self.proxy.taken()
        return Job(arguments, env)

    def small_runs(self, task: str, known: Collection[str]) -> Iterator[tuple[str, Counts, dict[str, int]]]:
        """The runs that `night.solve` wants: (name, requests, bytes of state that it left, by part).

        Left out are the runs of an output whose runs are all among the `known`.
        """
        places = {place for name, place, _, _ in RUNS if name not in known}
        runs = [run for run in RUNS if run[1] in places and (run[0] != "shared" or ALONE[task])]
        if not runs:
            return
        video = make_video(frames=FRAMES, options={"preset": "ultrafast"})
        upload(self.client, BUCKET, {f"in/small/{number}.mp4": video for number in range(3)})
        cluster = Cluster(cpus=4)
        try:
            env = cluster.job_env(**self._env())
            for name, place, videos, clips in runs:
                output = f"out/{task}-{place}"
                sets = (*SMALL[task], *ONE_ACTOR, f"clip.frames={FRAMES // clips}")
                sets += () if name == "reported" else ("report=false",)
                sets += () if name == "shared" else ALONE[task]
                with self._start(task, f"in/small/[0-{videos - 1}].mp4", output, sets, env) as job:
                    done = job.wait(LIMIT_S)
                assert done.code == 0, done.text
                counts = self.proxy.taken()
                print(f"{task}, {name}: {sum(counts.values())} requests", flush=True)
                yield name, counts, self.state(output)
        finally:
            cluster.close()

    def real_run(self, task: str, videos: Path, sets: tuple[str, ...]) -> dict[str, Any]:
        """A run over a folder of videos as a user starts it: bytes, memory, requests, and those of a rerun."""
        data = {f"in/real/{path.name}": path.read_bytes() for path in sorted(videos.iterdir()) if _is_video(path)}
        upload(self.client, BUCKET, data)
        output, scratch = f"out/{task}-real", self.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        sets = (*ALONE[task], *sets, f"resources.scratch={scratch}")
        began = time.monotonic()
        with self._start(task, "in/real", output, sets, self._env()) as job:
            with _watched(job, scratch, lambda: self._temporary(output)) as peaks:
                done = job.wait(LIMIT_S)
            assert done.code == 0, done.text
        seconds, requests = time.monotonic() - began, self.proxy.taken()
        state, outputs = self.state(output), self.outputs(output)
        with self._start(task, "in/real", output, sets, self._env()) as job:
            again = job.wait(LIMIT_S)
            assert again.code == 0, again.text
        return {
            "videos": {name.rpartition("/")[2]: _facts(data) for name, data in data.items()},
            "seconds": round(seconds, 1),
            "requests": _listed(requests),
            "rerun": _listed(self.proxy.taken()),
            "state": state,
            "outputs": outputs,
            "peaks": peaks,
        }

    def catalogue(self, task: str) -> dict[str, Any]:
        """What reading CATALOGUED commits like those of the real run takes, once they are catalogued."""
        commits = f"out/{task}-real/{STATE}/videos/"
        key = self.client.list_objects_v2(Bucket=BUCKET, Prefix=commits)["Contents"][0]["Key"]
        like = VideoCommit.model_validate_json(self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read())
        os.environ.update(self._env())
        storage, layout = Storage(), Layout(f"s3://{BUCKET}/out/{task}-catalogue")

        def put(number: int) -> None:
            digest = hashlib.sha256(str(number).encode()).hexdigest()
            outputs = tuple(data.model_copy(update={"sha256": digest, "size": number}) for data in like.outputs)
            own = {"video_id": digest[:24], "name": f"{number:06d}.mp4", "version": digest[:32], "outputs": outputs}
            storage.put(layout.video_commit(digest[:24]), like.model_copy(update=own).to_json())

        for _ in ordered(put, range(CATALOGUED)):
            pass
        quarantine.rebuild(storage, layout, "first")
        self.proxy.taken()
        began = time.monotonic()
        quarantine.rebuild(storage, layout, "second")
        seconds, requests = round(time.monotonic() - began, 2), _listed(self.proxy.taken())
        size = storage.info(layout.catalogue).size
        return {"commits": CATALOGUED, "seconds": seconds, "bytes": size, "requests": requests}

    def _objects(self, output: str) -> Iterator[tuple[str, int]]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{output}/")
        for page in pages:
            for item in page.get("Contents", []):
                yield item["Key"].removeprefix(f"{output}/"), item["Size"]

    def state(self, output: str) -> dict[str, int]:
        """Bytes below _motionmill by their first folder or file."""
        found: Counter[str] = Counter()
        for path, size in self._objects(output):
            top, _, rest = path.partition("/")
            if top == STATE:
                found[rest.partition("/")[0]] += size
        return dict(found)

    def outputs(self, output: str) -> dict[str, int]:
        return {path: size for path, size in self._objects(output) if not path.startswith(STATE)}

    def _temporary(self, output: str) -> int:
        """Bytes of clips, and of small videos, that wait to be joined."""
        waiting = (f"{STATE}/segments/", f"{STATE}/ungrouped/")
        return sum(size for path, size in self._objects(output) if path.startswith(waiting))


@contextlib.contextmanager
def _watched(job: Job, scratch: Path, bucket: Callable[[], int]) -> Iterator[dict[str, int]]:
    """Peaks while a job runs: memory by role (bytes; of the largest process), scratch, temporary objects."""
    peaks: dict[str, int] = defaultdict(int)
    ended = threading.Event()

    def local() -> None:
        while not ended.wait(0.25):
            for pid in (job.process.pid, *descendants(job.process.pid)):
                role, size = _memory(pid, job.process.pid)
                peaks[role] = max(peaks[role], size)
            sizes = [_size(folder) for folder in scratch.glob("motionmill-work-*")]
            peaks["scratch, a try"] = max(peaks["scratch, a try"], *sizes, 0)
            peaks["scratch, all"] = max(peaks["scratch, all"], sum(sizes))

    def remote() -> None:
        while not ended.wait(0.3):
            peaks["temporary in the bucket"] = max(peaks["temporary in the bucket"], bucket())

    threads = [threading.Thread(target=look, daemon=True) for look in (local, remote)]
    for thread in threads:
        thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _memory(pid: int, driver: int) -> tuple[str, int]:
    """(role, peak of its resident memory so far)."""
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return "other", 0
    peak = next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM")), 0)
    if pid == driver:
        return "driver", peak
    if title.startswith("ray::MapWorker"):
        return "actor", peak
    return ("probe or join", peak) if title.startswith("ray::_") else ("other", peak)


def _size(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(place, name)).st_size
    return total


def _is_video(path: Path) -> bool:
    return path.suffix in (".mp4", ".mpg", ".mkv", ".webm", ".mov")


def _facts(data: bytes) -> dict[str, Any]:
    """Size of the picture, frames and seconds of a video."""
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        times = [float(frame.time or 0) for frame in container.decode(stream)]
        rate = float(stream.average_rate or 25)
        return {
            "width": stream.codec_context.width, "height": stream.codec_context.height, "frames": len(times),
            "seconds": round(max(times) - min(times) + 1 / rate, 3), "bytes": len(data),
        }  # fmt: skip


def _listed(counts: Counts) -> list[tuple[str, str, float]]:
    return [(kind, purpose, count) for (kind, purpose), count in sorted(counts.items())]
