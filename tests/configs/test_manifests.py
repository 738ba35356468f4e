"""The manifests say what KubeRay and Ray understand, and run commands that the jobs understand."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import typer
import yaml
from ray.runtime_env import RuntimeEnv

from pipeline import __version__
from pipeline.config import InterpolateConfig, RunConfig, load
from pipeline.config_flow import FlowConfig
from pipeline.config_recognize import RecognizeConfig
from tests.configs.kuberay_schema import RAY_CRON_JOB, RAY_JOB

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "configs/k8s"
JOBS: dict[str, type[RunConfig]] = {"interpolate": InterpolateConfig, "flow": FlowConfig, "recognize": RecognizeConfig}


def _generator() -> Any:
    spec = importlib.util.spec_from_file_location("k8s_generate", K8S / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _manifest(job: str, kind: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((K8S / f"{job}.{kind}.yaml").read_text(encoding="utf-8"))
    return document


def _job(job: str) -> dict[str, Any]:
    spec: dict[str, Any] = _manifest(job, "rayjob")["spec"]
    return spec


def _containers(spec: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(pod, container) of the head and of each group of workers."""
    cluster = spec["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        for container in pod["containers"]:
            yield pod, container


def test_the_files_are_what_the_template_makes() -> None:
    generator = _generator()
    made = generator.manifests()
    assert set(generator.JOBS) == set(JOBS)
    assert {path.name for path in K8S.glob("*.ray*job.yaml")} == set(made)
    for name, text in made.items():
        assert (K8S / name).read_text(encoding="utf-8") == text, f"run python configs/k8s/generate.py: {name}"


@pytest.mark.parametrize("job", JOBS)
def test_manifests_have_the_fields_that_kuberay_knows(job: str) -> None:
    jsonschema.validate(_manifest(job, "rayjob"), RAY_JOB)
    jsonschema.validate(_manifest(job, "raycronjob"), RAY_CRON_JOB)
    assert _manifest(job, "raycronjob")["spec"]["jobTemplate"] == _job(job)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "backOffLimit"), 3),
        (("spec", "submissionMode"), "K8SJobMode"),
        (("spec", "ttlSecondsAfterFinished"), "3600"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "maxReplica"), 8),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 1, "template", "spec", "containers", 0, "resources", "limits",
          "nvidia.com/gpu"), 1),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "volumes", 0, "emptyDir", "medium"), "RAM"),
        (("metadata", "name"), "Motion_Mill"),
    ],
)  # fmt: skip
def test_the_schema_finds_what_kubernetes_would_refuse_or_ignore(path: tuple[Any, ...], value: Any) -> None:
    document = copy.deepcopy(_manifest("flow", "rayjob"))
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, RAY_JOB)


@pytest.mark.parametrize("job", JOBS)
def test_the_head_does_no_work_and_the_workers_scale(job: str) -> None:
    spec = _job(job)
    cluster = spec["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["enableInTreeAutoscaling"] is True
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    assert set(groups) == {"cpu", "gpu"}
    assert all(group["minReplicas"] < group["maxReplicas"] for group in groups.values())
    gpus = [_limits(groups[name]).get("nvidia.com/gpu") for name in ("cpu", "gpu")]
    assert gpus == [None, "1"]
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0


def _limits(group: dict[str, Any]) -> dict[str, str]:
    limits: dict[str, str] = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    return limits


@pytest.mark.parametrize("job", JOBS)
def test_pods_share_memory_by_dev_shm_and_take_credentials_from_a_secret(job: str) -> None:
    for pod, container in _containers(_job(job)):
        volumes = {volume["name"]: volume["emptyDir"] for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert volumes[mounts["/dev/shm"]]["medium"] == "Memory"
        assert set(mounts.values()) == set(volumes)
        assert container["envFrom"] == [{"secretRef": {"name": "motionmill-s3"}}]
        assert not [one for one in container.get("env", []) if one["name"].startswith("AWS_")]
        assert container["image"] == f"CHANGE-ME/motionmill:{__version__}"
        assert container["resources"]["requests"] == container["resources"]["limits"], "no pod is evicted for memory"


def test_no_file_holds_a_secret_or_a_real_place() -> None:
    for path in (*K8S.iterdir(), ROOT / "configs/cluster.yaml", ROOT / "configs/runtime_env.yaml"):
        if path.is_dir():
            continue
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"AKIA|BEGIN [A-Z ]*PRIVATE|SECRET_ACCESS_KEY=[^…]", text), path
        assert all(bucket == "CHANGE-ME" for bucket in re.findall(r"s3://([^/\s…]+)/", text)), path


@pytest.mark.parametrize("job", JOBS)
def test_entrypoints_are_commands_that_the_jobs_understand(job: str) -> None:
    words = shlex.split(_job(job)["entrypoint"])
    assert words[0] == "sh"
    script = words[1].removeprefix("/home/ray/motionmill/")
    assert os.access(ROOT / script, os.X_OK)
    assert "WORKDIR /home/ray/motionmill" in (K8S / "Dockerfile").read_text(encoding="utf-8")
    assert words[2] == f"jobs/{job}.py"
    _parsed(job, words[3:])


def _parsed(job: str, arguments: list[str]) -> None:
    """Options and arguments as the job's own command line takes them, and settings as its configuration does."""
    module = importlib.import_module(f"jobs.{job}")
    app = typer.Typer()
    app.command()(module.main)
    context = typer.main.get_command(app).make_context(job, list(arguments), resilient_parsing=False)
    assert context.params["source"].startswith("s3://")
    assert context.params["output"] != context.params["source"]
    config = load(JOBS[job], context.params["config"], context.params["set_"])
    assert config.resources.gpus_per_actor == 1
    assert config.resources.wait_s > 0
    assert isinstance(config.resources.actors, int)


def test_what_the_manifests_ask_for_fits_their_workers() -> None:
    """Actors of one GPU and two threads, one a pod; as many as the group may grow to."""
    spec = _job("flow")
    words = shlex.split(spec["entrypoint"])
    config = load(FlowConfig, None, [words[n + 1] for n, word in enumerate(words) if word == "--set"])
    group = next(one for one in spec["rayClusterSpec"]["workerGroupSpecs"] if one["groupName"] == "gpu")
    assert config.resources.actors <= group["maxReplicas"]
    assert float(_limits(group)["cpu"]) >= 2
    mounts = [mount["mountPath"] for mount in group["template"]["spec"]["containers"][0]["volumeMounts"]]
    assert config.resources.scratch in mounts


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (3, 0), (1, 1), (2, 2), (137, 137)])
def test_a_night_with_quarantine_is_no_failure_and_all_else_keeps_its_code(
    tmp_path: Path, code: int, expected: int
) -> None:
    fake = tmp_path / "python"
    fake.write_text(f'#!/bin/sh\necho "$PWD $@"\nexit {code}\n')
    fake.chmod(0o755)
    done = subprocess.run(
        ["sh", str(K8S / "run.sh"), "jobs/flow.py", "a b", "--set", "x=1"],
        env=os.environ | {"PYTHON": str(fake)}, capture_output=True, text=True, timeout=30, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == expected
    assert done.stdout == f"{ROOT} jobs/flow.py a b --set x=1\n"


def test_ray_up_understands_the_cluster() -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text(encoding="utf-8"))
    document = yaml.safe_load((ROOT / "configs/cluster.yaml").read_text(encoding="utf-8"))
    jsonschema.validate(document, schema)
    types = document["available_node_types"]
    assert types[document["head_node_type"]]["resources"] == {"CPU": 0}
    most = sum(one.get("max_workers", 0) for one in types.values())
    assert document["max_workers"] >= most
    assert document["docker"]["image"] == f"CHANGE-ME/motionmill:{__version__}"


def test_ray_understands_the_runtime_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    document = yaml.safe_load((ROOT / "configs/runtime_env.yaml").read_text(encoding="utf-8"))
    made = RuntimeEnv(**document)
    assert made["working_dir"] == "."
    assert made.env_vars() == {"RAY_USAGE_STATS_ENABLED": "0"}


def test_versions_are_those_of_the_project() -> None:
    pinned = re.search(r'"ray\[[a-z,]+\]==([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert pinned is not None
    generator = _generator()
    assert (pinned[1], __version__) == (generator.RAY, generator.VERSION)
    dockerfile = (K8S / "Dockerfile").read_text(encoding="utf-8")
    assert f"FROM rayproject/ray:{generator.RAY}-py311" in dockerfile
