"""How the actors' processes manage memory: what glibc is told at their start, and what it is asked after each clip."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator

ENVIRONMENT = {
    "GLIBC_TUNABLES": ":".join(
        f"glibc.malloc.{key}={value}"
        for key, value in {
            "arena_max": 1, "mmap_threshold": 32 << 20, "trim_threshold": 128 << 20, "hugetlb": 1,
        }.items()
    )
}  # fmt: skip
"""Environment of the actors' processes: what glibc must be told at their start so that memory does not creep up.

Left alone, it takes pictures from heaps that it never shrinks, a heap for each of up to eight threads a core, and each
clip has threads of its own. So: one heap, which gives back its unused end, and all that is free after each clip
(`give_back`). To map each picture anew (a low `mmap_threshold`) would keep memory as low, but touching fresh pages
takes more time than the arithmetic of a small network: 1.1 s instead of 0.4 for an adaptive 720p frame. Other C
libraries ignore it.
"""


def give_back() -> None:
    """Returns freed memory to the system: what one clip leaves in pieces would otherwise add to the next one's peak."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


@contextlib.contextmanager
def inherited() -> Iterator[None]:
    """Processes started meanwhile manage memory as the job's workers do."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
