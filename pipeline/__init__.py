"""motionmill's pipeline: from a bucket of video to committed results.

Read top to bottom, in the order in which a video travels: `plan` (discover, time, clips), `media` (probe, decode,
encode, mux), `tasks` (one clip in, one committed result out), `records` (what lands in the bucket) and `run` (Ray).
"""

__version__ = "0.1.0"
