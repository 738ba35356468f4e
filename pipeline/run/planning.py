"""`--plan`: what a run would do, without doing it. Probes headers and packets; decodes nothing, starts no cluster."""

from __future__ import annotations

from fractions import Fraction

from pipeline.errors import VideoError
from pipeline.layout import Layout
from pipeline.media.probe import probe
from pipeline.plan.discover import DiscoveryFailure, discover
from pipeline.run import limits
from pipeline.run.worker import open_video
from pipeline.storage import Storage, absolute, redact
from pipeline.tasks.base import Task


def show(task: Task, source: str, output: str) -> int:
    """Prints a line a video and the totals; returns 0. Raises what a run would: UsageError, StorageError.

    A ConfigError after the totals where the output would be larger than `limits.max_output_bytes`.
    """
    source, output = absolute(source), absolute(output)
    storage = Storage(task.config.retry)
    layout = Layout(output)
    done = {info.uri.rsplit("/", 1)[1].removesuffix(".json") for info in storage.list(layout.video_commits)}
    task.fingerprint()  # finds missing or damaged weights
    for note in task.notes():
        print(note)
    videos = frames = rows = clips = skipped = refused = size = flops = 0
    length = Fraction(0)
    for item in discover(source, task.config.input, storage, exclude=output):
        if isinstance(item, DiscoveryFailure):
            print(f"refused  {item}")
            refused += 1
            continue
        if item.video_id in done:
            skipped += 1
            continue
        try:
            with open_video(storage, item) as file:
                info = probe(file, item, task.config.input, task.config.decode)
            task.check_video(info)
        except VideoError as error:
            print(f"refused  {redact(str(item))}: {type(error).__name__}: {error}")
            refused += 1
            continue
        made, work = task.expected_rows(info), task.flops(info)
        span = (info.end_pts - info.pts[0]) * info.time_base
        print(
            f"video    {redact(str(item))}: {info.codec} {info.width}x{info.height} {info.pix_fmt}, "
            f"{len(info.pts)} frames in {float(span):.2f} s -> {made}, {work / 1e12:.2f} TFLOP"
        )
        videos, frames, rows, length = videos + 1, frames + len(info.pts), rows + made, length + span
        clips += -(-len(info.pts) // task.config.clip.frames)
        size, flops = size + task.output_bytes(info, item.size), flops + work
    print(
        f"plan     {videos} videos, {float(length) / 3600:.3f} hours, {frames} frames in, {clips} clips, "
        f"{rows} out, about {size / 1e6:.1f} MB, {flops / 1e12:.2f} TFLOP; {skipped} done before, "
        f"{refused} would be quarantined"
    )
    limits.refuse_above(limits.of(task.config), size, videos)
    return 0
