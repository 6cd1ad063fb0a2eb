"""The pages as people see them: in a real browser, wide and narrow, light and dark, by mouse and by keyboard."""

import re
from typing import Any

import pytest
from playwright.async_api import Page, expect

from page.browser import DESK, PHONE, Scheme, browsing, needs_chromium
from page.scene import Scene
from page.screens import views

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

# What the two colours of each text are, and how large it is; run in the page, outside of what its own scripts may do.
CONTRASTS = """() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const colour = parse(getComputedStyle(one).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const one = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || ["SCRIPT", "NOSCRIPT", "OPTION", "TITLE"].includes(one.tagName)) continue;
    found.push([walker.currentNode.data.trim().slice(0, 40), parse(getComputedStyle(one).color), behind(one)]);
  }
  return found;
}"""

UNNAMED = """() => [...document.querySelectorAll("input, select, canvas, button")].filter(
  (one) => !(one.labels?.length || one.ariaLabel || one.textContent.trim())
).length"""


def luminance(colour: list[float]) -> float:
    """Relative luminance, by WCAG 2.1."""
    parts = [c / 255 for c in colour[:3]]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: list[float], other: list[float]) -> float:
    """
    >>> round(contrast([0, 0, 0], [255, 255, 255]), 1)
    21.0
    """
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


async def is_complete(page: Page) -> None:
    if await page.locator("#map").count():
        await page.wait_for_selector("#map[data-complete='true']")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
async def test_each_view_is_rendered_and_can_be_read(made: Scene, size: tuple[int, int], scheme: Scheme) -> None:
    async with browsing(made.url, size=size, scheme=scheme) as page:
        for name, path in views(made).items():
            answer = await page.goto(path)
            assert answer is not None
            assert answer.status == 200, name
            await is_complete(page)
            await expect(page.locator("h1")).to_be_visible()
            assert await page.evaluate("document.documentElement.scrollWidth") <= size[0], f"{name} is wider than the window"
            found: list[Any] = await page.evaluate(CONTRASTS)
            assert len(found) > 10
            assert [text for text, ink, paper in found if contrast(ink, paper) < 4.5] == [], f"{name}: below WCAG AA"
            assert await page.evaluate(UNNAMED) == 0, name


async def test_live_change_appears_without_asking_for_it(made: Scene) -> None:
    station = made.fleet.stations[20]
    evse = station.connectors[0].evse_id
    async with browsing(made.url) as page:
        await page.goto(f"/stations/{station.station_id}")
        row = page.locator("section", has_text="driveline").locator("tr", has_text=evse)
        for status in ("Reserved", "Occupied"):
            await made.rigged.sql("UPDATE connector SET status = %(status)s WHERE evse_id = %(evse)s", status=status, evse=evse)
            await expect(row.locator("td").nth(1)).to_have_text(status, timeout=15_000)
            await expect(row.locator("td").nth(2)).to_have_text(status, timeout=15_000)


async def test_filters_narrow_the_problems_down(made: Scene) -> None:
    async with browsing(made.url) as page:
        await page.goto("/problems")
        listed = page.locator("h2:text('One by one') + .scroll tbody tr")
        everything = await listed.count()
        await page.select_option("#emp", "roamer")
        await page.wait_for_url(re.compile("emp=roamer"))
        await page.select_option("#state", "rejected")
        await page.wait_for_url(re.compile("state=rejected"))
        await expect(listed).to_have_count(1)
        assert everything > 1
        await expect(listed.locator("td").first).to_have_text(made.rejected)
        await page.fill("#text", "no such reason")
        await page.keyboard.press("Enter")
        await expect(page.locator("#problems")).to_contain_text("Nothing is held or rejected that is like this.")


async def test_whole_way_by_keyboard(made: Scene) -> None:
    async with browsing(made.url) as page:
        await page.goto("/")
        await page.keyboard.press("Tab")
        await expect(page.locator(".skip")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.locator("main")).to_be_focused()
        await page.focus("#search")
        await page.keyboard.type(made.held[:-1])
        await page.keyboard.press("Enter")
        await page.get_by_role("link", name=made.held, exact=True).first.focus()
        await page.keyboard.press("Enter")
        await expect(page.locator("h1")).to_have_text(f"Station {made.held}")
        await expect(page.locator("main")).to_contain_text("Neverland")


async def test_what_has_the_focus_keeps_it_while_all_around_it_changes(made: Scene) -> None:
    station = made.fleet.stations[90].station_id
    async with browsing(made.url) as page:
        await page.goto("/problems")
        link = page.get_by_role("link", name=made.held, exact=True).first
        await link.focus()
        await made.rigged.sql("UPDATE station SET country = 'Atlantis' WHERE id = %(id)s", id=station)
        try:
            await expect(page.locator("#problems")).to_contain_text("Atlantis", timeout=15_000)
            await expect(link).to_be_focused()
        finally:
            await made.rigged.sql("UPDATE station SET country = 'DE' WHERE id = %(id)s", id=station)
            await made.rigged.quiet()


async def test_map_shows_all_stations_and_those_that_are_behind(made: Scene) -> None:
    async with browsing(made.url) as page:
        await page.goto("/map?emp=roamer")
        await is_complete(page)
        canvas = page.locator("#map")
        assert int(await canvas.get_attribute("data-stations") or 0) == len(made.fleet.stations) - 2  # what is held has no place
        await expect(page.locator("#legend")).to_contain_text("rejected")
        await expect(page.locator("#behind li", has_text=made.rejected)).to_contain_text("rejected")
        before = await canvas.screenshot()
        await page.get_by_label("Zoom in").click()
        await page.keyboard.press("Tab")
        await canvas.focus()
        await page.keyboard.press("ArrowLeft")
        await page.wait_for_timeout(200)
        assert await canvas.screenshot() != before
        await page.get_by_role("link", name=made.rejected).click()
        await expect(page.locator("h1")).to_have_text(f"Station {made.rejected}")


async def test_whatever_a_row_holds_is_text(made: Scene) -> None:
    async with browsing(made.url) as page:
        await page.goto(f"/stations/{made.fleet.stations[7].station_id}")
        await expect(page.locator("main")).to_contain_text('<b>\\x1b[31m&amp; "Ümläut"</b>')
        assert await page.locator("main b:not(:text('differs'))").count() == 0


async def test_page_says_so_when_the_daemon_is_gone(made: Scene) -> None:
    async with browsing(made.url, but_for="ERR_CONNECTION_REFUSED") as page:
        await page.goto("/")
        await page.route("**/*", lambda route: route.abort("connectionrefused"))
        complaint = page.locator("#stale")
        await expect(complaint).to_contain_text("the daemon does not answer", timeout=15_000)
        await page.unroute_all()
        await expect(complaint).to_have_text("", timeout=15_000)
