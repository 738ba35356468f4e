"""One worker process, fed with files and watched: ended when it takes too long, replaced when it dies."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.corpus.judge import LIMIT_S
from tests.e2e.support import ROOT

START_S = 120.0


class Sandbox:
    def __init__(self, log: Path) -> None:
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.deaths = 0

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def examine(self, path: Path) -> dict[str, Any]:
        limit = LIMIT_S if self._process is not None else LIMIT_S + START_S
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(str(path)).encode() + b"\n")
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], limit)
            line = process.stdout.readline() if ready else b""
        except BrokenPipeError:
            ready, line = [True], b""
        if line:
            return dict(json.loads(line))
        said = "died" if ready else f"no answer within {limit:.0f} s"
        code = self._end()
        self.deaths += 1
        return {"outcome": "died", "message": f"the process {said} (exit code {code}): {self.log}"}

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.corpus.worker"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=ROOT,
            )  # fmt: skip

    def _end(self) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        code = process.poll()
        process.kill()
        process.communicate()
        return code
