"""A Ray cluster of three raylets on one machine: a head that works on nothing, and two nodes that do."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping

from tests.e2e.support import ROOT, Cluster, descendants, until, workers
from tests.e2e.support import _table as processes
from tests.s3 import free_ports

NODES = 2
CPUS = 2
SETTINGS = {
    "PYTHONPATH": str(ROOT),
    # A busy machine may need more than Ray's half minute to start a node.
    "RAY_raylet_start_wait_time_s": "100",
    # What a process waits for a GCS that is gone before it gives up: 60 s by default.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
}


class ThreeRaylets(Cluster):
    def __init__(self) -> None:
        self.nodes: list[subprocess.Popen[bytes]] = []
        super().__init__(cpus=0, env=SETTINGS)
        try:
            for _ in range(NODES):
                self.nodes.append(self._node())
                until(self._joined, "another raylet")  # two at once may take the same socket's name
        except BaseException:
            self.close()
            raise

    def _node(self) -> subprocess.Popen[bytes]:
        metrics, *agents = free_ports(4)
        log = self.folder / f"node-{len(self.nodes)}.log"
        arguments = [
            sys.executable, "-m", "tests.chaos.raylet", "start", "--block", "--disable-usage-stats",
            "--address", self.address, "--node-ip-address", "127.0.0.1", "--num-cpus", str(CPUS),
            "--object-store-memory", "100000000", "--include-log-monitor", "false",
            "--metrics-export-port", str(metrics),
            "--dashboard-agent-listen-port", str(agents[0]), "--dashboard-agent-grpc-port", str(agents[1]),
            "--runtime-env-agent-port", str(agents[2]),
        ]  # fmt: skip
        with log.open("wb") as file:
            return subprocess.Popen(
                arguments, stdout=file, stderr=file, stdin=subprocess.DEVNULL, env=self.env, cwd=ROOT,
                start_new_session=True,
            )  # fmt: skip

    def _joined(self) -> bool:
        texts = [(self.folder / f"node-{number}.log").read_text(errors="replace") for number in range(len(self.nodes))]
        assert all(node.poll() is None for node in self.nodes), texts
        return all("Ray runtime started" in text for text in texts)

    def job_env(self, **variables: str) -> dict[str, str]:
        return super().job_env(**SETTINGS, **variables)

    def actors(self) -> list[int]:
        """Processes that work on clips."""
        return [pid for node in self.nodes for pid in workers(node.pid)]

    def busy_raylet(self) -> int:
        """The raylet of a node that has actors."""
        for node in self.nodes:
            if workers(node.pid):
                return self._process(node.pid, "raylet")
        raise AssertionError("no raylet has actors")

    def gcs(self) -> int:
        return self._process(self.process.pid, "gcs_server")

    def whole(self) -> bool:
        """Whether all of it is still there, so that another case may use it."""
        try:
            self.gcs()
            return all(self._process(node.pid, "raylet") for node in (self.process, *self.nodes))
        except AssertionError:
            return False

    @staticmethod
    def _process(root: int, program: str) -> int:
        table = processes()
        for pid in descendants(root):
            command = table.get(pid, (0, ""))[1].split(" ")[0]
            if command.endswith(f"/{program}"):
                return pid
        raise AssertionError(f"no {program} below {root}")

    def close(self) -> None:
        for node in self.nodes:
            for pid in [*descendants(node.pid), node.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            node.wait()
        self.nodes.clear()
        super().close()


def environment(endpoint: str, access_key: str, secret_key: str) -> Mapping[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key, "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint, "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
