"""What tasks that write records have in common: clips' files on their way into videos' and shared files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.records.joining import TableFile
from pipeline.tasks.base import ClipPart, VideoOutput


def fetched(parts: Sequence[ClipPart], kept: list[Path] | None) -> Iterator[Path]:
    """The parts' files in turn; deleted when they have been read, unless they are to be `kept`."""
    for part in parts:
        path = part.fetch()
        yield path
        if kept is None:
            path.unlink()
        else:
            kept.append(path)


def outputs(made: Iterator[TableFile], extra: dict[str, Any]) -> Iterator[VideoOutput]:
    """A video's finished files, numbered where they are several; a single one may be shared with other videos."""
    waiting = next(made)
    number = 0
    # One file behind, to know whether the first is the only one.
    for following in made:
        yield VideoOutput(waiting.path, f".part-{number:05d}.parquet", waiting.rows, extra)
        waiting, number = following, number + 1
    suffix = f".part-{number:05d}.parquet" if number else ".parquet"
    yield VideoOutput(waiting.path, suffix, waiting.rows, extra, may_share=not number)


def only(path: Path, video_id: str) -> Path:
    """The file, or one beside it with that video's rows alone where it has others' too."""
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        ids = {name for group in range(file.num_row_groups) for name in _ids(file, group)}
        if ids == {video_id}:
            return path
        chosen = path.with_suffix(".only.parquet")
        with pq.ParquetWriter(chosen, schema) as out:
            for group in range(file.num_row_groups):
                if video_id in _ids(file, group):
                    table = file.read_row_group(group)
                    out.write_table(table.filter(pc.equal(table["video_id"], video_id)))
    return chosen


def _ids(file: pq.ParquetFile, group: int) -> set[str]:
    return set(file.read_row_group(group, ["video_id"])["video_id"].to_pylist())
