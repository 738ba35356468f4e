"""The page in a real browser: it draws, it can be clicked, it complains of nothing and fetches nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pipeline.report import build
from pipeline.storage import Storage
from tests.report.browser import Page, visit
from tests.report.prefix import HOSTILE, made

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("task", ["interpolate", "flow", "recognize"])
def test_it_draws_and_can_be_clicked(tmp_path: Path, task: str, dark: bool) -> None:
    html = tmp_path / "report.html"
    html.write_text(build(Storage(), made(tmp_path, task)), encoding="utf-8")

    async def work(page: Page) -> None:
        await page.load(html, dark=dark)
        charts = await page.ask("document.querySelectorAll('.chart').length")
        assert charts >= 2
        assert await page.ask("document.querySelectorAll('.chart .main-svg').length") >= charts
        paper = await page.ask("getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(11, 18, 32)" if dark else "rgb(248, 250, 252)")
        assert await page.ask("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")
        await _sorts_and_filters(page)
        await _opens(page)
        if task == "interpolate":
            await _slides(page)
        assert page.errors == []
        assert page.requests == [html.resolve().as_uri()] or all(
            url.startswith("data:") for url in page.requests if url != html.resolve().as_uri()
        )
        await page.ask("scrollTo(0, 0)")
        shot = tmp_path / "shot.png"
        await page.screenshot(shot)
        assert shot.stat().st_size > 20_000

    visit(work)


async def _sorts_and_filters(page: Page) -> None:
    first = "document.querySelector('#table tbody tr').cells[0].textContent"
    await page.click("#table th:nth-child(4)")
    assert await page.ask("document.querySelector('#table th:nth-child(4)').getAttribute('aria-sort')") == "ascending"
    await page.click("#table th:nth-child(1)")
    lowest = await page.ask(first)
    await page.click("#table th:nth-child(1)")
    assert await page.ask(first) > lowest
    await page.click("#filter")
    await page.call("Input.insertText", text="quarantined")
    assert await page.ask("document.getElementById('shown').textContent") == str(len(HOSTILE))
    assert await page.ask("[...document.querySelectorAll('#table tbody tr')].filter((r) => !r.hidden).length") == len(
        HOSTILE
    )


async def _opens(page: Page) -> None:
    opened = "document.querySelector('details.failure').open"
    assert not await page.ask(opened)
    await page.click("details.failure > summary")
    assert await page.ask(opened)
    width = "document.querySelector('figure').getBoundingClientRect().width"
    before = await page.ask(width)
    await page.click("figure")
    assert await page.ask(width) > before
    await page.click("figure")


async def _slides(page: Page) -> None:
    picture = "document.querySelector('.maps canvas').toDataURL()"
    before = await page.ask(picture)
    await page.click(".maps input")
    await asyncio.sleep(0.2)
    assert await page.ask(picture) != before
    assert "GFLOP" in await page.ask("document.querySelector('.maps .status').textContent")
