"""The YAML configuration of each job, as frozen pydantic models: every key with its default and its unit.

`load(InterpolateConfig, path, overrides)` reads a file, applies `--set dotted.key=value` overrides and reports every
error at once. Keys marked "runtime" in `RUNTIME_KEYS` change how a run is carried out, never an output byte, and stay
out of its fingerprint.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, model_validator

from pipeline.errors import ConfigError


def _fraction(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"{value} is not a number; write 60, 29.97 or 60000/1001")
    if isinstance(value, (int, float, str)):
        try:
            return Fraction(str(value))
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"{value!r} is not a number or a fraction; write 60, 29.97 or 60000/1001") from None
    return value


Rational = Annotated[
    Fraction,
    BeforeValidator(_fraction),
    PlainSerializer(str, return_type=str),
]
"""An exact number: 60, 29.97 or 60000/1001."""


MAX_TIMESCALE = 2**31 - 1
"""Ticks a second that an MP4 track can declare: a signed 32-bit field in practice."""


class Section(BaseModel):
    # YAML reads `preset: 8` as a number; encoders name their presets in numbers too.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)


class InputConfig(Section):
    """Which objects count as videos, and how large they may be."""

    extensions: tuple[str, ...] = (
        ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".mxf", ".ogv",
        ".flv", ".wmv", ".3gp", ".y4m",
    )  # fmt: skip
    """Suffixes (lower case) that a folder, prefix or tar shard is searched for; a file named directly needs none."""
    schemes: tuple[str, ...] = ("file", "s3", "gs", "gcs", "az", "abfs", "hf", "memory")
    """URI schemes that lists and tables may name, beside their own. Not http(s) unless added: a list by somebody else
    could make workers call addresses within the network. Local paths are only taken from lists on local disks."""
    max_width: int = Field(8192, ge=16)
    """Pixels."""
    max_height: int = Field(8192, ge=16)
    """Pixels."""
    max_frames: int = Field(20_000_000, ge=1)
    """Frames a video."""
    max_bytes: int = Field(1 << 40, ge=1)
    """Bytes a video."""
    max_cell_bytes: int = Field(512 << 20, ge=1)
    """Bytes of a video held in a Parquet cell: such a cell is read into memory whole."""


class DecodeConfig(Section):
    """How video is decoded."""

    interlaced: Literal["refuse", "deinterlace"] = "refuse"
    """Interlaced video: refuse it (quarantine), or deinterlace it to one progressive frame a frame (bwdif)."""
    corruption: Literal["refuse", "conceal"] = "refuse"
    """Damaged data: refuse it (the clip is quarantined, its good prefix kept), or keep what the decoder conceals."""
    threads: int = Field(1, ge=1)
    """Decoder threads in each actor."""
    queue_frames: int = Field(8, ge=1)
    """Frames decoded ahead of the model, and synthesised frames waiting for the encoder, per actor."""


class ClipConfig(Section):
    frames: int = Field(120, ge=1)
    """Source frames in a clip: the unit of work, retry and commit."""


class ResourcesConfig(Section):
    """What the run may use of the cluster."""

    actors: int | Literal["auto"] = "auto"
    """Actors; auto: as many as the cluster's GPUs hold, or without GPUs one for every `cpu_threads` of its CPUs."""
    gpus_per_actor: float | Literal["auto"] = "auto"
    """GPUs (fractions too) for each actor; auto: 1 where the cluster has GPUs, else 0 (CPU, and the run says so)."""
    cpu_threads: int | Literal["auto"] = "auto"
    """CPU threads that each actor's model computes with (it reserves half a CPU less); auto: 1, with a GPU 2."""
    finalisers: int = Field(2, ge=1)
    """Videos finalised (joined, remuxed, checked) at the same time."""
    scratch: str = ""
    """Folder for temporary files; empty: the system's."""
    wait_s: float = Field(0.0, ge=0)
    """Seconds that an autoscaler is given to bring nodes for the actors; 0: they must be there when the run starts."""
    cluster_cpus: int | None = Field(None, ge=1)
    """CPUs of the local cluster that is started when none is given; default: this machine's."""

    @model_validator(mode="after")
    def _positive(self) -> ResourcesConfig:
        if self.actors != "auto" and self.actors < 1:
            raise ValueError(f"resources.actors={self.actors}: at least 1, or auto")
        if self.cpu_threads != "auto" and self.cpu_threads < 1:
            raise ValueError(f"resources.cpu_threads={self.cpu_threads}: at least 1, or auto")
        if self.gpus_per_actor != "auto" and (
            self.gpus_per_actor < 0 or 1 < self.gpus_per_actor != int(self.gpus_per_actor)
        ):
            raise ValueError(f"resources.gpus_per_actor={self.gpus_per_actor}: a fraction up to 1, or a whole number")
        return self


class RetryConfig(Section):
    attempts: int = Field(3, ge=1)
    """Times a clip may take its worker down (crash, hang, out of memory) before it is quarantined."""
    hang_s: float = Field(600.0, gt=0)
    """Seconds without a finished frame after which a worker counts as hung and is replaced."""
    storage_attempts: int = Field(8, ge=1)
    """Tries of an object-store call that fails in passing (5xx, resets, timeouts)."""
    storage_max_wait_s: float = Field(20.0, gt=0)
    """Longest wait between two tries, seconds (exponential backoff with jitter)."""


class TargetConfig(Section):
    """The output's frame times: exactly one of `factor` and `fps`."""

    factor: int | None = Field(None, ge=2, le=64)
    """New frames at exact fractions between neighbours; variable frame rate is kept."""
    fps: Rational | None = None
    """An exact constant rate in frames a second (60, 60000/1001), up or down from any input."""

    @model_validator(mode="after")
    def _one(self) -> TargetConfig:
        if (self.factor is None) == (self.fps is None):
            raise ValueError("give exactly one of target.factor (2, 4, 8, …) and target.fps (60, 60000/1001, …)")
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise ValueError(f"target.fps={self.fps}: above 0, up to 1000")
        if self.fps is not None and self.fps.numerator > MAX_TIMESCALE:
            raise ValueError(
                f"target.fps={self.fps}: needs more ticks a second than a container holds; write it shorter"
            )
        return self


class CutsConfig(Section):
    detect: bool = True
    """Hold the earlier frame across a cut, instead of blending two scenes."""
    threshold: float = Field(0.36, gt=0, le=1)
    """Score (0..1) from which two neighbouring frames count as a cut; see pipeline/plan/shots.py."""


class DuplicatesConfig(Section):
    mode: Literal["keep", "resynthesise"] = "keep"
    """Frames that repeat the one before: keep them, or replace them by interpolated ones at the same times."""
    residual: float = Field(0.0, ge=0)
    """Mean absolute luma difference (8-bit steps) up to which a frame repeats the one before; 0: exact repeats."""
    max_run: int = Field(3, ge=1, le=16)
    """Longest run of repeats to replace; a longer one is a still picture and stays."""


class PatchConfig(Section):
    """Frames larger than `max_area` are interpolated in overlapping patches."""

    max_area: int = Field(2_400_000, ge=4096)
    """Pixels of the largest frame that goes through the model whole (default: a little over 1080p)."""
    size: int = Field(1024, ge=128, multiple_of=8)
    """Patch side, pixels. Below 256 patches differ from the whole frame by a grey level, whatever the overlap."""
    overlap: int = Field(128, ge=16, multiple_of=8)
    """Pixels that neighbouring patches share and are blended over."""

    @model_validator(mode="after")
    def _fits(self) -> PatchConfig:
        if self.overlap * 2 > self.size:
            raise ValueError(f"patch.overlap={self.overlap}: at most half of patch.size={self.size}")
        return self


class AdaptivePatchConfig(Section):
    """The patches that adaptive models decide about."""

    size: int = Field(640, ge=64, multiple_of=8)
    """About the side of a patch, pixels: they are fitted to the frame evenly; a size above the frame's is one patch.
    Smaller ones follow motion more closely, but CAIN's attention averages over a patch: large ones do better."""
    overlap: int = Field(16, ge=8, multiple_of=8)
    """Pixels that neighbouring patches share at least, and are blended over."""
    static: float = Field(1.2, ge=0)
    """Largest difference in any pixel and channel, 8-bit steps of RGB, up to which a patch is static: it is averaged
    (copied where equal) without any network. A step of luma is 1.16."""

    @model_validator(mode="after")
    def _fits(self) -> AdaptivePatchConfig:
        if self.overlap * 2 > self.size:
            raise ValueError(f"adaptive_patch.overlap={self.overlap}: at most half of adaptive_patch.size={self.size}")
        return self


class EncodeConfig(Section):
    """How output video is encoded."""

    codec: Literal["libx264", "libx265", "libsvtav1", "h264_nvenc", "hevc_nvenc", "av1_nvenc"] = "libx264"
    crf: float = Field(18, ge=0, le=63)
    """Constant quality (lower is better); -cq for NVENC. libx264 8-bit: 0 is lossless."""
    preset: str = "medium"
    """The encoder's own preset: ultrafast…placebo (x264, x265), 0…13 (SVT-AV1), p1…p7 (NVENC)."""
    pix_fmt: str = "auto"
    """auto keeps the input's chroma subsampling and bit depth; or yuv420p, yuv420p10le, yuv444p, …"""
    odd_size: Literal["pad", "crop", "refuse"] = "pad"
    """Odd width or height that the encoder cannot take: repeat the last column/row, drop it, or refuse the video."""
    container: Literal["auto", "mp4", "mkv", "mov"] = "auto"
    """auto: mp4 where every copied stream fits into it, else mkv (whose times are rounded to 1 ms, and reported)."""
    threads: int = Field(1, ge=1)
    """Encoder threads in each actor."""
    options: dict[str, str] = Field(default_factory=dict)
    """Further options of the encoder, passed as they are."""


class LimitsConfig(Section):
    """What a run may cost: one that is estimated to need more is refused before anything is done."""

    max_output_bytes: int | None = Field(None, ge=0)
    """Bytes of output; null: no limit."""
    max_hours: float | None = Field(None, ge=0)
    """Hours that the model will compute, of all actors together (an actor-hour: one actor, one hour), by the newest
    calibration that fits, or else by a measurement of the first video; null: no limit."""


class RunConfig(Section):
    """What every job shares."""

    input: InputConfig = InputConfig()
    decode: DecodeConfig = DecodeConfig()
    clip: ClipConfig = ClipConfig()
    resources: ResourcesConfig = ResourcesConfig()
    retry: RetryConfig = RetryConfig()
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the model; auto: bf16 on a GPU, fp32 on the CPU."""
    batch: int = Field(4, ge=1)
    """Model inputs processed together on a GPU; never changes a result."""
    limits: LimitsConfig = LimitsConfig()
    report: bool = True
    """Write an HTML report of the run (_motionmill/report.html) at its end."""


ANY_TIME = frozenset({"auto", "blend", "rife-4.14"})
"""Models that reach every time exactly; `auto` may come to one, and is looked at again when it has come to another."""


class InterpolateConfig(RunConfig):
    """jobs/interpolate.py"""

    target: TargetConfig = TargetConfig(factor=2)
    model: str = "cain-sd-compact"
    """A name of the weights table (models/weights.py), a path or URI of weights, `blend` (frame average), or `auto`:
    rife-4.14 where it has been fetched, else cain-sd-compact."""
    exit_depth: int = Field(5, ge=1, le=5)
    """CAIN's residual groups to run: fewer are faster and rougher."""
    blocks: int = Field(4, ge=1, le=4)
    """RIFE's blocks to run: fewer are faster and rougher."""
    copy_static: bool = True
    """RIFE: copy pixels that are equal in both frames, unless something passes there (captions, logos)."""
    adaptive: bool | Literal["auto"] = "auto"
    """Give each patch the scale and depth that its motion needs; auto: where the model knows how. Off: full depth."""
    align: bool | Literal["auto"] = "auto"
    """CAIN: give the network frames that block matching has brought to the middle; auto: where its weights say so."""
    quality: float = Field(0.5, ge=0, le=1)
    """Adaptive models: 0.5 is what training found, 1 full depth everywhere, 0 the cheapest; FLOPs never fall as it
    rises."""
    flops_budget: float | None = Field(None, gt=0, le=2)
    """Adaptive models: at most this share of the FLOPs of full depth on the whole frame, for each frame; where
    `quality` asks for more, the frame's patches give way together. Null: no limit."""
    adaptive_patch: AdaptivePatchConfig = AdaptivePatchConfig()
    times: Literal["auto", "recursion", "straight"] = "auto"
    """How CAIN reaches a time that is not the middle: by recursion on midpoints, or straight, exactly and in one pass
    from both frames as they look at that time, which needs aligned frames; auto: straight where they are aligned."""
    max_t_error: Rational = Fraction(1, 16)
    """Largest distance between a wanted time and the one synthesised, as a share of the source interval."""
    max_depth: int = Field(4, ge=1, le=8)
    """Deepest recursion on midpoints: reaches multiples of 1/2^max_depth of the interval."""
    cuts: CutsConfig = CutsConfig()
    duplicates: DuplicatesConfig = DuplicatesConfig()
    patch: PatchConfig = PatchConfig()
    encode: EncodeConfig = EncodeConfig()
    decisions: bool | Literal["auto"] = "auto"
    """A table beside each video: how each frame was made, and what its patches got; auto: for adaptive models."""
    preview: bool = False
    """A video beside each: the finished frames with what their patches got, to look at."""
    self_check: float = Field(0.0, ge=0, le=1)
    """Share of known frames to drop and make again from their neighbours, to report PSNR and SSIM by motion."""

    @model_validator(mode="after")
    def _reachable(self) -> InterpolateConfig:
        if self.max_t_error < 0:
            raise ValueError(f"max_t_error={self.max_t_error}: 0 or more")
        # What weights at a path are, and whether they want aligned frames, is only known once they are read: the task
        # looks again.
        recursion = self.times == "recursion" or self.align is False
        if recursion and self.model not in ANY_TIME and "/" not in self.model:
            self.check_midpoints()
        return self

    def check_midpoints(self) -> None:
        """Raises ValueError where a model that knows only the middle cannot reach the wanted times."""
        factor = self.target.factor
        halvings = factor.bit_length() - 1 if factor is not None and factor & (factor - 1) == 0 else None
        if halvings is not None and halvings > self.max_depth:
            raise ValueError(
                f"target.factor={factor} needs midpoints {halvings} deep; raise max_depth (now {self.max_depth})"
            )
        # Between the two pictures around a replaced repeat, any fraction may be wanted.
        exact = halvings is not None and self.duplicates.mode == "keep"
        if not exact and self.max_t_error < Fraction(1, 2 ** (self.max_depth + 1)):
            raise ValueError(
                f"max_t_error={self.max_t_error} cannot be met with max_depth={self.max_depth} "
                f"(worst {Fraction(1, 2 ** (self.max_depth + 1))}); raise either"
            )


RUNTIME_KEYS = frozenset(
    {"resources", "retry", "batch", "report", "self_check", "input", "limits", "decode.threads", "decode.queue_frames"}
)
"""Keys that never change an output byte; the fingerprint leaves them out."""

C = TypeVar("C", bound=RunConfig)

_CHOICES = {"target.factor", "target.fps"}


def load(kind: type[C], path: str | Path | None, overrides: Sequence[str] = ()) -> C:
    """Reads `path` (or the defaults), applies `key.path=value` overrides (values are YAML), and validates all of it.

    Raises ConfigError listing every unknown key and bad value.
    """
    document: dict[str, Any] = {}
    if path is not None:
        try:
            document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror}); give an existing file to --config") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not valid YAML: {error}") from None
        document = {} if document is None else document
        if not isinstance(document, dict):
            raise ConfigError(f"{path}: holds {type(document).__name__}, expected keys and values")
    if _CHOICES & {override.partition("=")[0].strip() for override in overrides}:
        # The two exclude each other: naming one on the command line replaces the file's choice.
        target = document.get("target")
        if isinstance(target, dict):
            document["target"] = {key: value for key, value in target.items() if f"target.{key}" not in _CHOICES}
    for override in overrides:
        _apply(document, override)
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        problems: dict[str, list[str]] = {}
        for item in error.errors():
            key = ".".join(_place(kind, item["loc"])) or "configuration"
            message = item["msg"].removeprefix("Value error, ")
            if item["type"] == "extra_forbidden":
                message = f"unknown key; known here: {', '.join(_known(kind, item['loc'][:-1]))}"
            elif item["type"] != "value_error":
                message += f" (found {item['input']!r})"
            problems.setdefault(key, []).append(message)
        lines = [f"  {key}: {', or: '.join(messages)}" for key, messages in problems.items()]
        raise ConfigError("configuration refused:\n" + "\n".join(lines)) from None


def _apply(document: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {override!r}: write key=value, e.g. --set target.factor=4")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: the value is not valid YAML: {error}") from None
    parts = key.strip().split(".")
    node = document
    for part in parts[:-1]:
        child = node.get(part)
        if child is None:  # absent, or a section of a file whose keys are all commented out
            child = node[part] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override!r}: {part} holds a value ({child!r}), not keys")
        node = child
    node[parts[-1]] = value


def _section(kind: type[BaseModel], key: str) -> type[BaseModel] | None:
    field = kind.model_fields.get(key)
    kind_of = field.annotation if field else None
    return kind_of if isinstance(kind_of, type) and issubclass(kind_of, BaseModel) else None


def _known(kind: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    for part in location:
        section = _section(kind, str(part))
        if section is None:
            return []
        kind = section
    return sorted(kind.model_fields)


def _place(kind: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The dotted key of an error, without pydantic's names for the members of a union ("auto" or a number)."""
    parts = []
    for index, part in enumerate(location):
        parts.append(str(part))
        section = _section(kind, str(part))
        if section is None:
            field = kind.model_fields.get(str(part))
            union = field is not None and get_origin(field.annotation) in (Union, UnionType)
            return parts if union else [*parts, *map(str, location[index + 1 :])]
        kind = section
    return parts


def fingerprint_keys(config: RunConfig) -> dict[str, Any]:
    """The configuration as plain values, flat by dotted key, without the keys that cannot change an output byte."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and prefix != "encode.options":
            for key, child in value.items():
                walk(f"{prefix}.{key}" if prefix else key, child)
        elif prefix not in RUNTIME_KEYS and prefix.split(".")[0] not in RUNTIME_KEYS:
            flat[prefix] = value

    walk("", config.model_dump(mode="json"))
    return flat
