"""The many ways in which pyarrow says that a Parquet file is damaged, as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyarrow as pa

from pipeline.errors import MotionmillError


@contextmanager
def damage_as(make: Callable[[str], MotionmillError]) -> Iterator[None]:
    """Raises `make(what pyarrow said)` for a damaged file; errors of the system and our own pass.

    Beside its own exceptions pyarrow raises OSError without a number (headers and pages that cannot be read), and
    UnicodeDecodeError for text that is none, and KeyError for columns that are gone.
    """
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, KeyError, UnicodeDecodeError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise make(said[0]) from None
