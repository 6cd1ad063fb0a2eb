"""Screenshots of each view, with the demo's stations, wide and narrow, light and dark: `make screens` puts them into docs/screens."""

import asyncio
import sys
import tempfile
from pathlib import Path

from cdc_pusher.embedded import EmbeddedPostgres
from page.browser import DESK, PHONE, Scheme, browsing
from page.scene import Scene, changes, fails, scene

STATIONS = 500
SCHEMES: tuple[Scheme, ...] = ("light", "dark")


def views(made: Scene) -> dict[str, str]:
    """The views by name, and where they are."""
    return {
        "overview": "/",
        "problems": "/problems",
        "station": f"/stations/{made.rejected}",
        "map": "/map?emp=roamer",
        "search": "/search?text=straße",
    }


async def main(directory: Path) -> None:
    """Set the scene, and photograph it."""
    with EmbeddedPostgres() as server, tempfile.TemporaryDirectory() as scratch:
        async with scene(server.dsn(), Path(scratch), STATIONS) as made:
            await changes(made, 70)
            await fails(made)
            await asyncio.sleep(25)  # until the minute is written, and the counts are read
            for size in (DESK, PHONE):
                for scheme in SCHEMES:
                    async with browsing(made.url, size=size, scheme=scheme) as page:
                        for name, path in views(made).items():
                            await page.goto(path)
                            if name == "map":
                                await page.wait_for_selector("#map[data-complete='true']")
                            await page.screenshot(path=directory / f"{name}-{size[0]}-{scheme}.png")


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(exist_ok=True)
    asyncio.run(main(Path(sys.argv[1])))
