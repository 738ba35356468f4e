"""Headless Chromium over its DevTools protocol: load a page, ask it, click in it, look at it."""

from __future__ import annotations

import asyncio
import base64
import itertools
import re
import shutil
import subprocess
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

T = TypeVar("T")
NAMES = ("chromium", "chromium-browser", "google-chrome")


def binary() -> str:
    """The browser. AssertionError where there is none: these tests were asked for by name."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    assert found, f"none of {', '.join(NAMES)} is installed; on Debian: apt-get install chromium"
    return found


class Page:
    """One tab. What it printed or threw is in `errors`, what it fetched in `requests`."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loaded = asyncio.Event()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self._socket:
            event = message.json()
            if "id" in event:
                self._answers.pop(event["id"]).set_result(event)
                continue
            method, told = event["method"], event["params"]
            if method == "Page.loadEventFired":
                self._loaded.set()
            elif method == "Network.requestWillBeSent":
                self.requests.append(told["request"]["url"])
            elif method == "Runtime.exceptionThrown":
                self.errors.append(str(told["exceptionDetails"]))
            elif method == "Log.entryAdded" and told["entry"]["level"] == "error":
                self.errors.append(told["entry"]["text"])
            elif method == "Runtime.consoleAPICalled" and told["type"] == "error":
                self.errors.append(str(told["args"]))

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        found = await asyncio.wait_for(answer, 60)
        assert "error" not in found, f"{method}: {found['error']}"
        result: dict[str, Any] = found["result"]
        return result

    async def load(self, path: Path, *, dark: bool = False, width: int = 1400, height: int = 2600) -> None:
        for domain in ("Page", "Network", "Runtime", "Log"):
            await self.call(f"{domain}.enable")
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        self._loaded.clear()
        await self.call("Page.navigate", url=path.resolve().as_uri())
        await asyncio.wait_for(self._loaded.wait(), 60)

    async def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression, as JSON can hold it."""
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    async def click(self, selector: str) -> None:
        """A real click in the middle of the first element that matches."""
        box = await self.ask(
            f"(() => {{ const e = document.querySelector({selector!r}); e.scrollIntoView({{block: 'center', "
            "behavior: 'instant'}); const b = e.getBoundingClientRect(); "
            "return {x: b.x + b.width / 2, y: b.y + b.height / 2}; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, **box, button="left", clickCount=1)

    async def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode((await self.call("Page.captureScreenshot", format="png"))["data"]))

    async def close(self) -> None:
        await self._socket.close()
        await self._reader


def visit(work: Callable[[Page], Awaitable[T]]) -> T:
    """Runs `work` with a tab of a browser of its own, and ends the browser."""
    with tempfile.TemporaryDirectory(prefix="mm-browser-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [binary(), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert process.stderr is not None
            address = next(m[1] for line in process.stderr if (m := re.search(r"listening on ws://([^/]+)/", line)))
            return asyncio.run(_visit(address, work))
        finally:
            process.kill()
            process.wait()


async def _visit(address: str, work: Callable[[Page], Awaitable[T]]) -> T:
    async with aiohttp.ClientSession() as http:
        async with http.get(f"http://{address}/json") as answer:
            tab = next(one for one in await answer.json() if one["type"] == "page")
        async with http.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            page = Page(socket)
            try:
                return await work(page)
            finally:
                await page.close()
