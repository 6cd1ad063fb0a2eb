"""A real browser: the Chromium of this machine, driven by Playwright, which collects what the page complains of."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import pytest
from playwright.async_api import Page, async_playwright

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)")

Scheme = Literal["light", "dark"]
DESK, PHONE = (1440, 900), (390, 844)


@asynccontextmanager
async def browsing(url: str, *, size: tuple[int, int] = DESK, scheme: Scheme = "light", but_for: str = "\0") -> AsyncIterator[Page]:
    """A page, for addresses below `url`; at the end nothing may stand in the error log, `but_for` this, and no other have been asked."""
    complaints: list[str] = []
    async with async_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=[*arguments, "--disable-gpu", "--disable-dev-shm-usage"])
        try:
            context = await browser.new_context(
                base_url=url, viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, reduced_motion="reduce"
            )
            page = await context.new_page()
            page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("request", lambda asked: None if asked.url.startswith(url) else complaints.append(f"asks elsewhere: {asked.url}"))
            yield page
        finally:
            await browser.close()
    assert [one for one in complaints if but_for not in one] == [], complaints
