"""One Ray cluster for the runs that need none of their own: joining it is quicker than starting another."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.support import ROOT, Cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    made = Cluster(cpus=4, env={"PYTHONPATH": str(ROOT)})
    try:
        yield made
    finally:
        made.close()
