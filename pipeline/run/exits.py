"""How a job's process ends: its exit code, and one clear message where it failed."""

from __future__ import annotations

from collections.abc import Callable

import ray

from pipeline.errors import MotionmillError, UsageError

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_QUARANTINED = 0, 1, 2, 3

_GO_ON = "nothing that is committed is lost; run the same command again to go on"


def guarded(job: Callable[[], int], show: Callable[[str], None]) -> int:
    """Runs a job; its errors become one clear message and an exit code."""
    try:
        return job()
    except ray.exceptions.RayTaskError as error:
        show(f"the run failed: {error.cause}\n{_GO_ON}")
        return EXIT_FAILED
    except UsageError as error:
        show(f"error: {error}")
        return EXIT_USAGE
    except KeyboardInterrupt:
        show("interrupted: nothing is lost; run the same command again to go on")
        return EXIT_FAILED
    except (MotionmillError, ray.exceptions.RayError) as error:
        show(f"the run failed: {error}\n{_GO_ON}")
        return EXIT_FAILED
