"""bwdif, one progressive frame a frame, through FFmpeg's filter graph."""

from __future__ import annotations

from collections.abc import Iterator

import av
from av.filter import Graph
from av.video.stream import VideoStream

from pipeline.media.demux import is_interlaced


class Deinterlacer:
    """Looks one frame back and one ahead. Where the headers say that the video is interlaced every frame is filtered,
    else those that the decoder marks; decided by the file, never by where decoding started."""

    def __init__(self, stream: VideoStream) -> None:
        self._stream = stream
        self._graph: Graph | None = None
        self._waiting: list[int] = []

    def run(self, frames: Iterator[tuple[av.VideoFrame, int]]) -> Iterator[tuple[av.VideoFrame, int]]:
        """The same frames at the same times, progressive."""
        for frame, pts in frames:
            graph = self._graph = self._graph or self._build(frame)
            self._waiting.append(pts)
            frame.pts = pts
            graph.push(frame)
            yield from self._pull(graph)
        if self._graph is not None:
            self._graph.push(None)
            yield from self._pull(self._graph)

    def _pull(self, graph: Graph) -> Iterator[tuple[av.VideoFrame, int]]:
        while True:
            try:
                frame = graph.pull()
            except (BlockingIOError, EOFError):
                return
            assert isinstance(frame, av.VideoFrame)
            yield frame, self._waiting.pop(0)

    def _build(self, frame: av.VideoFrame) -> Graph:
        graph = Graph()
        base = self._stream.time_base
        source = graph.add(
            "buffer",
            f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base={base}:pixel_aspect=1/1",
        )
        which = "all" if is_interlaced(self._stream) else "interlaced"
        bwdif = graph.add("bwdif", f"mode=send_frame:parity=auto:deint={which}")
        sink = graph.add("buffersink")
        source.link_to(bwdif)
        bwdif.link_to(sink)
        graph.configure()
        return graph
