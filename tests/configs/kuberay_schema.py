"""What KubeRay and Kubernetes allow in the parts of RayJob and RayCronJob that configs/k8s uses, as JSON schema.

Written from KubeRay's CRDs and API reference (ray.io/v1, 1.6 and 1.7), its operator's own checks, and Kubernetes'
PodSpec; stricter than the CRDs: a field that is not listed here is refused, where the API server would drop it with a
warning. No copy of the CRDs comes with any package.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
FLAG: Schema = {"type": "boolean"}
QUANTITY: Schema = {
    "type": "string",
    "pattern": r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$",
}
NAME: Schema = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}
CRON: Schema = {"type": "string", "pattern": r"^(\S+\s+){4}\S+$"}


def strict(properties: dict[str, Schema], *required: str) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def map_of(values: Schema) -> Schema:
    return {"type": "object", "additionalProperties": values}


def list_of(items: Schema, least: int = 0) -> Schema:
    return {"type": "array", "items": items, "minItems": least}


JOB_NAME: Schema = {"type": "string", "pattern": r"^[a-z]([-a-z0-9]{0,45}[a-z0-9])?$"}
"""Of a RayJob; the operator makes longer names of it."""
METADATA = strict({"name": JOB_NAME, "namespace": NAME, "labels": map_of(TEXT), "annotations": map_of(TEXT)}, "name")
RESOURCES = strict({"requests": map_of(QUANTITY), "limits": map_of(QUANTITY)})
KEY_REF = strict({"name": NAME, "key": TEXT, "optional": FLAG}, "name", "key")
ENV = {
    "oneOf": [
        strict({"name": TEXT, "value": {"type": "string"}}, "name", "value"),
        strict({"name": TEXT, "valueFrom": strict({"secretKeyRef": KEY_REF, "configMapKeyRef": KEY_REF})}, "name",
               "valueFrom"),
    ]
}  # fmt: skip
ENV_FROM = strict({"secretRef": strict({"name": NAME, "optional": FLAG}, "name")}, "secretRef")
PORT = strict({"containerPort": {"type": "integer", "minimum": 1, "maximum": 65535}, "name": NAME}, "containerPort")
MOUNT = strict({"name": NAME, "mountPath": {"type": "string", "pattern": "^/"}, "readOnly": FLAG}, "name", "mountPath")
CONTAINER = strict(
    {
        "name": NAME, "image": TEXT, "imagePullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
        "env": list_of(ENV), "envFrom": list_of(ENV_FROM), "ports": list_of(PORT), "resources": RESOURCES,
        "volumeMounts": list_of(MOUNT),
    },
    "name", "image",
)  # fmt: skip
EMPTY_DIR = strict({"medium": {"enum": ["", "Memory"]}, "sizeLimit": QUANTITY})
VOLUME = strict({"name": NAME, "emptyDir": EMPTY_DIR}, "name", "emptyDir")
TOLERATION = strict(
    {
        "key": TEXT, "operator": {"enum": ["Exists", "Equal"]}, "value": TEXT,
        "effect": {"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
    }
)  # fmt: skip
POD = strict(
    {
        "containers": list_of(CONTAINER, least=1), "volumes": list_of(VOLUME), "tolerations": list_of(TOLERATION),
        "nodeSelector": map_of(TEXT), "serviceAccountName": NAME, "terminationGracePeriodSeconds": COUNT,
        "restartPolicy": {"const": "Never"},
    },
    "containers", "restartPolicy",
)  # fmt: skip
"""Autoscaler v2 replaces pods itself: the operator refuses any other restartPolicy, and an absent one means Always."""
TEMPLATE = strict({"metadata": strict({"labels": map_of(TEXT), "annotations": map_of(TEXT)}), "spec": POD}, "spec")
START = map_of({"type": "string"})
"""rayStartParams: strings all of them, numbers too."""
HEAD = strict({"rayStartParams": START, "serviceType": TEXT, "template": TEMPLATE}, "template")
WORKERS = strict(
    {
        "groupName": NAME, "replicas": COUNT, "minReplicas": COUNT, "maxReplicas": COUNT, "numOfHosts": COUNT,
        "rayStartParams": START, "template": TEMPLATE,
    },
    "groupName", "minReplicas", "maxReplicas", "template",
)  # fmt: skip
AUTOSCALER = strict(
    {
        "idleTimeoutSeconds": COUNT, "upscalingMode": {"enum": ["Default", "Aggressive", "Conservative"]},
        "version": {"const": "v2"}, "resources": RESOURCES, "image": TEXT,
    },
    "version",
)  # fmt: skip
CLUSTER = strict(
    {
        "rayVersion": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"}, "enableInTreeAutoscaling": FLAG,
        "autoscalerOptions": AUTOSCALER, "headGroupSpec": HEAD, "workerGroupSpecs": list_of(WORKERS),
    },
    "headGroupSpec",
)  # fmt: skip
JOB = strict(
    {
        "entrypoint": TEXT, "runtimeEnvYAML": TEXT, "jobId": TEXT,
        "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        "backoffLimit": COUNT, "activeDeadlineSeconds": {**COUNT, "minimum": 1}, "shutdownAfterJobFinishes": FLAG,
        "ttlSecondsAfterFinished": COUNT, "suspend": FLAG, "rayClusterSpec": CLUSTER,
    },
    "entrypoint", "rayClusterSpec",
)  # fmt: skip
CRON_JOB = strict({"schedule": CRON, "timeZone": TEXT, "jobTemplate": JOB, "suspend": FLAG}, "schedule", "jobTemplate")


def _kind(kind: str, spec: Schema) -> Schema:
    return strict(
        {"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": kind}, "metadata": METADATA, "spec": spec},
        "apiVersion", "kind", "metadata", "spec",
    )  # fmt: skip


RAY_JOB, RAY_CRON_JOB = _kind("RayJob", JOB), _kind("RayCronJob", CRON_JOB)
