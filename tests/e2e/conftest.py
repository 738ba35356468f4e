"""One Ray cluster for the runs that need none of their own: joining it is quicker than starting another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.support import LIMIT_S, ROOT, Cluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs, one after another, take longer on a busy machine than any other test may."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(3 * LIMIT_S))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    # Metrics reach the endpoint each second, not every ten: a test waits for them.
    made = Cluster(cpus=4, env={"PYTHONPATH": str(ROOT), "RAY_metrics_report_interval_ms": "1000"})
    try:
        yield made
    finally:
        made.close()
