"""The recognition task: what it asks of a video, what it will cost, and how clips become its files of records.

Probing, joining and grouping need no model: torch is imported in the actors (pipeline/tasks/recognize_clip.py), and
where the driver looks at weights (pipeline/tasks/recognize_model.py).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pipeline import __version__
from pipeline.config import fingerprint_keys
from pipeline.config_recognize import RecognizeConfig
from pipeline.records import recognition_writer
from pipeline.records.joining import Grouped
from pipeline.storage import Storage, absolute
from pipeline.tasks.base import ClipPart, Grouping, VideoOutput
from pipeline.tasks.record_files import fetched, only, outputs
from pipeline.types import VideoInfo, VideoRef

if TYPE_CHECKING:
    from pipeline.tasks.recognize_clip import RecognizeProcessor
    from pipeline.tasks.recognize_model import Facts

ROW_BYTES = 300
"""Of everything in a row but labels and boxes."""
BYTES_PER_PIXEL = {"rle": 0.02, "png": 0.02, "zstd": 0.02}
"""Of a label map: an estimate from the sample clips."""
DETECTION_BYTES = 40 * 30
"""Of a frame's objects: an estimate."""


@dataclass(frozen=True)
class RecognizeTask:
    """Segmentation or detection in every frame, the expensive network on key frames alone, as records in Parquet."""

    config: RecognizeConfig
    precision: str = "fp32"
    """"fp32" or "bf16": what `auto` came to, decided once for the run by `on`."""
    reason: str = ""
    """Why, for people."""
    flow_output: str = ""
    """With flow: records, the flow run's output as every worker finds it."""
    name: str = "recognize"
    folder: str = "recognition"
    data_suffix: str = ".parquet"

    @property
    def grouping(self) -> Grouping | None:
        files = self.config.files
        return Grouping(files.group_below, files.file_bytes) if files.group_below else None

    def on(self, device: str) -> RecognizeTask:
        from pipeline.tasks import recognize_model

        precision, reason = recognize_model.decide_precision(self.config, device)
        output = absolute(self.config.records.output) if self.config.flow == "records" else ""
        return replace(self, precision=precision, reason=reason, flow_output=output)

    def notes(self) -> Sequence[str]:
        return (f"precision {self.precision}: {self.reason}",) if self.reason else ()

    def halo(self) -> tuple[int, int]:
        """The rest of the windows that a clip begins and ends in, and a frame that tells whether a shot begins there.

        None where clips hold whole windows, but for that frame.
        """
        size = self.config.key_frames.window_frames
        rest = size - math.gcd(size, self.config.clip.frames)
        return rest + 1, rest

    def fingerprint(self) -> dict[str, Any]:
        from pipeline.tasks import recognize_model

        found = recognize_model.facts(self.config)
        document = {"weights.sha256": found.sha256, "precision": self.precision}
        if self.config.flow == "records":
            from pipeline.tasks.recognize_flow import run_digest

            document["flow.run"] = run_digest(Storage(self.config.retry), absolute(self.config.records.output))
        return document

    def check_node(self) -> None:
        if self.config.preview:
            from pipeline.tasks.flow_preview import ENCODE, check_encoder

            check_encoder(ENCODE.codec)

    def check_video(self, info: VideoInfo) -> None:
        if self.config.preview:
            from pipeline.tasks.recognize_preview import preview_plan

            preview_plan(info)

    def expected_rows(self, info: VideoInfo) -> int:
        return len(info.pts)

    def flops(self, info: VideoInfo) -> int:
        """At the budget; cuts and promotions may add key frames, and clips that share windows compute some twice."""
        from pipeline.tasks import recognize_model

        keys = math.ceil(len(info.pts) * self.config.key_frames.budget)
        costs = recognize_model.costs(self.config, info.height, info.width)
        carried = costs.of(False, 2 if self.config.key_frames.blend else 1)
        return keys * costs.of(True, 0) + (len(info.pts) - keys) * carried

    def output_bytes(self, info: VideoInfo, size: int) -> int:
        from pipeline.tasks import recognize_model

        found = recognize_model.facts(self.config)
        height, width = recognize_model.frame_size(self.config, found, info.height, info.width)[0]
        segments = found.kind == "segmentation"
        each = int(height * width * BYTES_PER_PIXEL[self.config.labels]) if segments else DETECTION_BYTES
        return len(info.pts) * (each + ROW_BYTES)

    def load(self, device: str, threads: int) -> RecognizeProcessor:
        # Here, so that probing and joining, in processes of their own, need not wait for torch.
        from pipeline.tasks.recognize_clip import RecognizeProcessor

        return RecognizeProcessor(self, device, threads)

    @property
    def _groups(self) -> Grouped:
        return Grouped(self.config.files.row_group_rows, self.config.files.row_group_bytes)

    def writer(self, path: Path, found: Facts) -> recognition_writer.RecognitionFileWriter:
        """A file of this task's records. Its metadata is the same for every file of the run, so that files merge."""
        return recognition_writer.RecognitionFileWriter(
            path,
            kind=found.kind,
            classes=found.classes,
            labels=self.config.labels,
            groups=self._groups,
            metadata={
                "task": self.name,
                "code_version": __version__,
                "precision": self.precision,
                "configuration": json.dumps(fingerprint_keys(self.config), sort_keys=True),
            },
        )

    def join(
        self, video: VideoRef, info: VideoInfo, parts: Sequence[ClipPart], source: BinaryIO, scratch: Path, whole: bool
    ) -> Iterator[VideoOutput]:
        files = self.config.files
        parts = [part for part in parts if part.rows]
        kinds: Counter[str] = Counter()
        for part in parts:
            kinds.update(part.extra["kinds"])
        extra = {
            "rows": sum(part.rows for part in parts),
            "kinds": dict(kinds),
            "flops": sum(part.extra["flops"] for part in parts),
            "rotation": info.rotation,
            "sample_aspect_ratio": str(info.sample_aspect_ratio),
            "notes": list(info.notes),
        }
        kept: list[Path] = []
        shown = self.config.preview and whole
        made = recognition_writer.concatenate(
            fetched(parts, kept if shown else None),
            scratch / "joined.parquet",
            self._groups,
            files.file_bytes if whole else None,
        )
        yield from outputs(made, extra)
        if shown:
            from pipeline.tasks.recognize_preview import write_preview

            path = scratch / "preview.mp4"
            frames = write_preview(path, kept, video, source, info, self.config)
            yield VideoOutput(path, ".preview.mp4", frames, {}, result=False)

    def merge(self, parts: Iterable[tuple[Path, str]], path: Path) -> int:
        whole = (only(part, video_id) for part, video_id in parts)
        (made,) = recognition_writer.concatenate(whole, path, self._groups)
        return made.rows
