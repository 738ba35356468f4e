"""Configuration: exact values, all errors at once, and a decision for every key whether it changes the output."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from pipeline.config import RUNTIME_KEYS, InterpolateConfig, RunConfig, fingerprint_keys, load
from pipeline.config_flow import FlowConfig
from pipeline.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
FILE = CONFIGS / "interpolate.yaml"


def keys_of(kind: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys += keys_of(inner, f"{prefix}{name}.")
        else:
            keys.append(f"{prefix}{name}")
    return keys


def refusal(*overrides: str, path: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(InterpolateConfig, path, overrides)
    return str(caught.value)


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_defaults_are_valid_and_stay_so_through_a_file(tmp_path: Path) -> None:
    default = load(InterpolateConfig, None)
    assert default == InterpolateConfig()
    again = written(tmp_path, yaml.safe_dump(default.model_dump(mode="json")))
    assert load(InterpolateConfig, again) == default
    assert load(RunConfig, None) == RunConfig()


@pytest.mark.parametrize(("name", "kind"), [("interpolate", InterpolateConfig), ("flow", FlowConfig)])
def test_the_shipped_file_is_the_defaults_and_names_and_explains_every_key(name: str, kind: type[RunConfig]) -> None:
    file = CONFIGS / f"{name}.yaml"
    text = file.read_text(encoding="utf-8")
    document = yaml.safe_load(text)
    assert load(kind, file) == kind()

    def flat(node: dict[str, Any], prefix: str = "") -> list[str]:
        keys = []
        for name, value in node.items():
            keys += flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else [f"{prefix}{name}"]
        return keys

    assert sorted(flat(document)) == sorted(keys_of(kind))
    for line in text.splitlines():
        key, _, rest = line.partition(":")
        if line.strip() and not line.startswith("#") and rest.split("#")[0].strip():
            assert re.search(r"#\s+\S", rest), f"{key} has no comment"


def test_every_key_either_is_declared_runtime_or_is_in_the_fingerprint() -> None:
    # A new key fails here until somebody has decided whether it can change an output byte.
    runtime = {
        "batch", "decode.threads", "decode.queue_frames", "limits.max_output_bytes", "limits.max_hours",
        "input.extensions", "input.schemes", "input.max_width", "input.max_height", "input.max_frames",
        "input.max_bytes", "input.max_cell_bytes",
        "resources.actors", "resources.gpus_per_actor", "resources.cpu_threads", "resources.finalisers",
        "resources.scratch", "resources.wait_s", "resources.cluster_cpus",
        "retry.attempts", "retry.hang_s", "retry.storage_attempts", "retry.storage_max_wait_s", "self_check", "report",
    }  # fmt: skip
    changing = {
        "target.factor", "target.fps", "model", "exit_depth", "times", "max_t_error", "max_depth", "precision",
        "blocks", "copy_static", "adaptive", "quality", "flops_budget",
        "align", "adaptive_patch.size", "adaptive_patch.overlap", "adaptive_patch.static",
        "cuts.detect", "cuts.threshold", "duplicates.mode", "duplicates.residual", "duplicates.max_run",
        "patch.max_area", "patch.size", "patch.overlap", "clip.frames", "decode.interlaced", "decode.corruption",
        "encode.codec", "encode.crf", "encode.preset", "encode.pix_fmt", "encode.odd_size", "encode.container",
        "encode.threads", "encode.options", "decisions", "preview",
    }  # fmt: skip
    assert runtime | changing == set(keys_of(InterpolateConfig)), "decide for each new key"
    assert set(fingerprint_keys(InterpolateConfig())) == changing


def test_every_key_of_flow_is_decided_too() -> None:
    shared = set(keys_of(RunConfig))
    changing = {
        "model", "iterations", "directions", "stored_scale", "codec", "max_error_px", "memory_budget", "preview",
        "cuts.detect", "cuts.threshold",
        "files.row_group_rows", "files.row_group_bytes", "files.file_bytes", "files.group_below",
    }  # fmt: skip
    assert set(keys_of(FlowConfig)) - shared == changing, "decide for each new key"
    assert set(fingerprint_keys(FlowConfig())) - shared == changing


def test_runtime_keys_name_keys_that_exist() -> None:
    known = {*keys_of(InterpolateConfig), *keys_of(FlowConfig)}
    for key in RUNTIME_KEYS:
        assert any(other == key or other.startswith(f"{key}.") for other in known), key


@pytest.mark.parametrize(
    ("override", "changes"),
    [
        ("resources.actors=3", False),
        ("retry.hang_s=5", False),
        ("batch=1", False),
        ("self_check=0.1", False),
        ("preview=true", True),
        ("decode.threads=2", False),
        ("decode.corruption=conceal", True),
        ("encode.threads=2", True),
        ("encode.options={tune: grain}", True),
        ("clip.frames=60", True),
        ("target.fps=60", True),
    ],
)
def test_the_fingerprint_changes_with_what_changes_the_output_alone(override: str, changes: bool) -> None:
    before = fingerprint_keys(InterpolateConfig())
    assert (fingerprint_keys(load(InterpolateConfig, None, [override])) != before) is changes


def test_fingerprints_hold_plain_exact_values() -> None:
    keys = fingerprint_keys(load(InterpolateConfig, None, ["target.fps=60000/1001", "encode.options={b: c}"]))
    assert keys["target.fps"] == "60000/1001"
    assert keys["target.factor"] is None
    assert keys["encode.options"] == {"b": "c"}
    assert keys["max_t_error"] == "1/16"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("60", Fraction(60)),
        ("29.97", Fraction(2997, 100)),
        ("'29.97'", Fraction(2997, 100)),
        ("60000/1001", Fraction(60000, 1001)),
        ("23.976", Fraction(2997, 125)),
        ("0.1", Fraction(1, 10)),
    ],
)
def test_rates_are_parsed_exactly(text: str, value: Fraction, tmp_path: Path) -> None:
    assert load(InterpolateConfig, None, [f"target.fps={text}"]).target.fps == value
    assert load(InterpolateConfig, written(tmp_path, f"target: {{fps: {text}}}")).target.fps == value


@given(st.fractions(Fraction(1, 1000), 1000, max_denominator=100_000))
def test_any_rate_survives_being_written_and_read(rate: Fraction) -> None:
    config = load(InterpolateConfig, None, [f"target.fps={rate}"])
    assert config.target.fps == rate
    assert InterpolateConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("text", ["fast", "1/0", "true", ".nan", ".inf", "[60]", "0", "-24", "1001"])
def test_what_is_no_rate_is_refused_by_its_key(text: str) -> None:
    assert "target" in refusal(f"target.fps={text}")


def test_a_rate_that_no_container_can_count_is_refused() -> None:
    assert "ticks" in refusal("target.fps=59.94005994005")


def test_exactly_one_of_factor_and_fps() -> None:
    assert "exactly one" in refusal("target={}")
    assert "exactly one" in refusal("target={factor: 2, fps: 60}")
    assert "exactly one" in refusal("target.factor=2", "target.fps=60")


def test_a_target_on_the_command_line_replaces_the_files(tmp_path: Path) -> None:
    path = written(tmp_path, "target: {factor: 4}")
    config = load(InterpolateConfig, path, ["target.fps=50"])
    assert (config.target.factor, config.target.fps) == (None, 50)
    config = load(InterpolateConfig, written(tmp_path, "target: {fps: 50}"), ["target.factor=8"])
    assert (config.target.factor, config.target.fps) == (8, None)


def test_replacing_the_target_does_not_hide_a_misspelt_key_of_the_file(tmp_path: Path) -> None:
    assert "target.facter" in refusal("target.fps=50", path=written(tmp_path, "target: {facter: 4}"))


def test_all_errors_are_reported_at_once() -> None:
    text = refusal("encode.crf=99", "clip.frames=0", "nonsense=1", "cuts.treshold=0.2", "resources.actors=many")
    for part in ("encode.crf", "clip.frames", "nonsense", "cuts.treshold", "resources.actors"):
        assert part in text
    assert "'many'" in text, "the value found is named"


def test_an_unknown_key_is_answered_with_the_known_ones() -> None:
    assert re.search(r"cuts\.treshold: unknown key; known here: detect, threshold", refusal("cuts.treshold=1"))
    assert "cuts, decisions, decode, duplicates" in refusal("cut.detect=false")


def test_errors_of_values_with_a_choice_name_the_key_once() -> None:
    text = refusal("resources.actors=many")
    assert text.count("resources.actors") == 1
    assert "literal" not in text


@pytest.mark.parametrize(
    "override",
    [
        "resources.actors=0",
        "resources.gpus_per_actor=1.5",
        "resources.gpus_per_actor=-1",
        "resources.gpus_per_actor=.inf",
        "resources.gpus_per_actor=.nan",
        "resources.cpu_threads=0",
        "patch.overlap=600",
        "patch.size=1001",
        "max_t_error=-1",
        "max_t_error=1/100",
        "exit_depth=6",
        "target.factor=1",
        "retry.hang_s=0",
    ],
)
def test_values_out_of_range_are_refused(override: str) -> None:
    refusal(override, *(["target.fps=60", "times=recursion"] if override == "max_t_error=1/100" else []))


def test_fractions_of_a_gpu_and_whole_numbers_of_them_are_taken() -> None:
    for value in ("0", "0.25", "1", "2", "auto"):
        load(InterpolateConfig, None, [f"resources.gpus_per_actor={value}"])


def test_times_that_midpoints_cannot_reach_are_refused_before_the_run() -> None:
    recursion = "times=recursion"
    assert "max_depth" in refusal("target.factor=32", recursion)
    assert "max_depth" in refusal("target.factor=32", "align=false")
    load(InterpolateConfig, None, ["target.factor=32"])
    load(InterpolateConfig, None, ["target.factor=32", "max_depth=5", recursion])
    load(InterpolateConfig, None, ["target.factor=8", "max_t_error=0", recursion])
    for model in ("blend", "rife-4.14", "auto", "/weights/whose/kind/is/not/known/yet.pkl"):
        load(InterpolateConfig, None, ["target.factor=32", f"model={model}", recursion])
    assert "max_t_error" in refusal("target.factor=3", "max_t_error=0", recursion)
    # Replaced repeats want thirds and sixths, whatever the factor.
    assert "max_t_error" in refusal("target.factor=2", "max_t_error=0", "duplicates.mode=resynthesise", recursion)


def test_numbers_are_taken_where_encoders_name_things_in_numbers() -> None:
    config = load(InterpolateConfig, None, ["encode.preset=8", "encode.options={g: 48}"])
    assert config.encode.preset == "8"
    assert config.encode.options == {"g": "48"}


def test_an_empty_file_or_section_means_the_defaults_when_a_key_of_it_is_set(tmp_path: Path) -> None:
    assert load(InterpolateConfig, written(tmp_path, "# nothing yet\n")) == InterpolateConfig()
    path = written(tmp_path, "encode:\n  # crf: 20\n")
    assert load(InterpolateConfig, path, ["encode.crf=20"]).encode.crf == 20


@pytest.mark.parametrize(
    ("text", "expected"), [("- a\n- b\n", "list"), ("[]", "list"), ("just words", "str"), ("a: [", "not valid YAML")]
)
def test_a_file_that_holds_no_keys_is_refused(text: str, expected: str, tmp_path: Path) -> None:
    assert expected in refusal(path=written(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "nowhere.yaml" in refusal(path=tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("override", ["encode.crf", "=5", "encode.crf=[", "model.x=1", "batch=", "batch=x"])
def test_a_bad_override_is_named(override: str) -> None:
    if override == "model.x=1":
        assert "model" in refusal("model=blend", override)
    else:
        assert override.split("=")[0] in refusal(override)
