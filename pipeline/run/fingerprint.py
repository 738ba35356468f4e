"""What a run is: everything that can change an output byte, as one flat document."""

from __future__ import annotations

from typing import Any

from pipeline import __version__
from pipeline.config import fingerprint_keys
from pipeline.layout import SCHEMA_VERSION
from pipeline.tasks.base import Task


def fingerprint_document(task: Task) -> dict[str, Any]:
    """Keys and JSON values; two runs with equal documents make the same output."""
    return {
        **fingerprint_keys(task.config),
        **task.fingerprint(),
        "task": task.name,
        "code_version": __version__,
        "schema_version": SCHEMA_VERSION,
    }
