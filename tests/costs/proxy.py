"""A proxy that spoils nothing and counts everything."""

from __future__ import annotations

from collections import Counter
from urllib.parse import parse_qs, unquote, urlsplit

from tests.s3 import FaultProxy

BILLED = ("PUT", "GET", "HEAD", "LIST", "DELETE")
"""As stores bill them; a DELETE has up to 1000 keys. There is also MULTIPART: begin, parts and end of large uploads."""
STATE = "_motionmill"


class CountingProxy(FaultProxy):
    """`counted`: requests by (kind, what for); see `classify`."""

    def __init__(self, target: tuple[str, int]) -> None:
        super().__init__(target)
        self.counted: Counter[tuple[str, str]] = Counter()

    def _draw(self, method: str, path: str) -> str | None:
        with self._lock:
            self.counted[classify(method, path)] += 1
        return super()._draw(method, path)

    def taken(self) -> Counter[tuple[str, str]]:
        """What has been counted since the last time."""
        with self._lock:
            counted, self.counted = self.counted, Counter()
        return counted


def classify(method: str, path: str) -> tuple[str, str]:
    """(kind, what for) of a request to /bucket/in/… or /bucket/out/RUN/…

    What for: "input", "output", or the part of the run's state ("commit", "videos", "run.json", …); of a listing that
    looks at a part of it, with "/*"; "any" of a deletion, whose body names the keys.
    """
    parts = urlsplit(path)
    query = parse_qs(parts.query, keep_blank_values=True)
    key = unquote(parts.path).lstrip("/").partition("/")[2]
    if "uploadId" in query or ("uploads" in query and method == "POST"):
        return "MULTIPART", _purpose(key)[0]
    if (method == "POST" and "delete" in query) or method == "DELETE":
        return "DELETE", _purpose(key)[0] if key else "any"
    if method == "GET" and ("list-type" in query or "uploads" in query):
        purpose, whole = _purpose(query.get("prefix", [""])[0])
        return "LIST", purpose if whole else f"{purpose}/*"
    return method, _purpose(key)[0]


def _purpose(key: str) -> tuple[str, bool]:
    """What a key belongs to; whether it names that as a whole."""
    top, _, rest = key.partition("/")
    if top != "out":
        return "input", True
    _, _, inner = rest.partition("/")
    folder, _, below = inner.partition("/")
    if folder != STATE:
        return "output", True
    part, _, more = below.partition("/")
    name = "probe" if part.startswith("probe-") else part
    return name or "state", not more
