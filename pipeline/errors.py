"""Everything that motionmill raises on purpose.

    MotionmillError
    ├── UsageError                 nothing was done: exit code 2
    │   ├── ConfigError            a key, a value or a combination in the configuration
    │   ├── InputNotFound          the input names nothing that can be read
    │   ├── BucketNotFound         a bucket that is named does not exist
    │   ├── AccessDenied           credentials, or rights on a bucket
    │   ├── OutputConflict         the output prefix holds a run with another fingerprint
    │   ├── EncoderUnavailable     a node lacks the encoder that the configuration asks for
    │   └── WeightsUnusable        weights missing, damaged, or with another digest than declared
    ├── StorageError               an object store that stays unwell after all retries: exit code 1
    │   ├── AlreadyExists          a conditional put found the object there
    │   ├── ObjectNotFound         an object that was named or listed is not there
    │   └── RecordDamaged          bytes of a record that are not what was written
    └── VideoError                 one video's or clip's own fault: quarantined, the job goes on
        ├── UnreadableVideo        not a video, truncated, no usable stream
        ├── CorruptVideo           decoding failed, or frames do not match the plan; carries the pts it got to
        ├── UnsupportedVideo       interlaced, a pixel format or size that the configuration refuses
        ├── LimitExceeded          larger than the configured limits (decompression bombs)
        ├── OutputMismatch         what was written does not match the plan
        ├── EncodeError            a result that cannot be stored within its declared error
        └── WorkerLost             the clip crashed, hung or exhausted its worker too many times

Each message names the object, the value found and the remedy.
"""

from __future__ import annotations


class MotionmillError(Exception):
    """Base of all errors raised on purpose."""


class UsageError(MotionmillError):
    """The run cannot start as asked; nothing was done (exit code 2)."""


class ConfigError(UsageError):
    """A key, a value or a combination in the configuration is wrong."""


class InputNotFound(UsageError):
    """The input names nothing that can be read."""


class BucketNotFound(UsageError):
    """A bucket that the input or the output names does not exist."""


class AccessDenied(UsageError):
    """Credentials are missing or wrong, or lack rights on the object."""


class OutputConflict(UsageError):
    """The output prefix holds a run with another fingerprint."""


class EncoderUnavailable(UsageError):
    """A node lacks the encoder that the configuration asks for."""


class WeightsUnusable(UsageError):
    """Weights are missing, damaged, or have another digest than declared."""


class StorageError(MotionmillError):
    """The object store stayed unwell after all retries."""


class AlreadyExists(StorageError):
    """A conditional put found the object already there."""


class ObjectNotFound(StorageError):
    """An object that was named or listed is not there."""


class RecordDamaged(StorageError):
    """Bytes of a record that are not what was written: cut short, changed, or of another kind."""


class VideoError(MotionmillError):
    """One video's or clip's own fault. `stage` says where; `pts` how far it got, in the video's time_base."""

    stage = "decode"

    def __init__(self, message: str, *, stage: str | None = None, pts: int | None = None) -> None:
        super().__init__(message)
        if stage is not None:
            self.stage = stage
        self.pts = pts

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), str(self), self.stage, self.pts))


def _rebuild(kind: type[VideoError], message: str, stage: str, pts: int | None) -> VideoError:
    return kind(message, stage=stage, pts=pts)


class UnreadableVideo(VideoError):
    """Not a video, truncated before its first frame, or without a usable stream."""

    stage = "probe"


class CorruptVideo(VideoError):
    """Decoding failed, or the decoded frames do not match the plan."""


class UnsupportedVideo(VideoError):
    """A property that the configuration refuses: interlaced content, a pixel format, a size."""

    stage = "probe"


class LimitExceeded(VideoError):
    """Larger than the configured limits."""

    stage = "probe"


class OutputMismatch(VideoError):
    """What was written does not match the plan."""

    stage = "verify"


class EncodeError(VideoError):
    """A result that cannot be stored within its declared error: values that are not finite, or out of range."""

    stage = "encode"


class WorkerLost(VideoError):
    """The clip crashed, hung or exhausted its worker more often than the retry budget allows."""

    stage = "worker"
