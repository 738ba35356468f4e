"""Cutting a video into clips: pure, and the same on any cluster.

Clips tile the frames [0, n) without gap or overlap; each names its halo and the packet that decoding starts from.
"""

from __future__ import annotations

from bisect import bisect_right

from pipeline.types import ClipRef, KeyPacket, VideoInfo, VideoRef


def plan_clips(video: VideoRef, info: VideoInfo, frames: int, halo: tuple[int, int]) -> list[ClipRef]:
    """Clips of `frames` source frames (the last may be shorter), with up to `halo` = (before, after) frames around."""
    total = len(info.pts)
    starts = range(0, total, frames)
    key_pts = [key.pts for key in info.keys]
    clips = []
    for index, start in enumerate(starts):
        end = min(start + frames, total)
        before = min(halo[0], start)
        after = min(halo[1], total - end)
        clips.append(
            ClipRef(
                video=video,
                index=index,
                count=len(starts),
                start_frame=start,
                frames=end - start,
                start_pts=info.pts[start],
                end_pts=info.pts[end] if end < total else info.end_pts,
                time_base=info.time_base,
                halo_before=before,
                halo_after=after,
                seek=_key_for(info, key_pts, info.pts[start - before]),
                origin_pts=info.pts[0],
            )
        )
    return clips


def _key_for(info: VideoInfo, key_pts: list[int], pts: int) -> KeyPacket:
    # A frame at or after a key packet's pts needs nothing before that packet (leading pictures have smaller pts).
    return info.keys[max(0, bisect_right(key_pts, pts) - 1)]
