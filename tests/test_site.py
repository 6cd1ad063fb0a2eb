"""The built documentation: complete, without a dead link or anchor, and without anything from elsewhere."""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parent.parent
WHEREVER = "404.html"  # is shown at any address, so its links are absolute
ASSETS = {("link", "href"), ("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("object", "data")}


class Html(HTMLParser):
    """What a page leads to, what it loads, and which anchors it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.assets: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if (tag, name) in ASSETS and value:
                self.assets.append(value)
            elif (tag, name) == ("a", "href") and value:
                self.links.append(value)
            elif name in ("id", "name") and value:
                self.anchors.add(value)


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--config-file", str(config), "--site-dir", str(site)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("built") / "site"
    built = build(ROOT / "mkdocs.yml", directory)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return directory


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Html]:
    return {path: Html(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def test_every_page_of_docs_is_in_the_site_and_in_its_navigation(site: Path, pages: dict[Path, Html]) -> None:
    names = {f"{path.stem}.html" for path in (ROOT / "docs").glob("*.md")}
    assert names <= {path.name for path in pages if path.parent == site}
    assert names <= set(pages[site / "roles.html"].links) | {"roles.html"}


def test_nothing_in_the_site_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Html]) -> None:
    loaded = [(page, asset) for page, html in pages.items() for asset in html.assets]
    for sheet in site.rglob("*.css"):
        urls = re.findall(r"url\(['\"]?([^'\")]+)|@import ['\"]([^'\"]+)", sheet.read_text(encoding="utf-8"))
        loaded += [(sheet, one or other) for one, other in urls if not one.startswith("data:")]
    assert len(loaded) > 100
    assert [(page, asset) for page, asset in loaded if re.match(r"(https?:)?//", asset)] == []
    local = {(page.parent / unquote(re.split("[?#]", asset)[0])) for page, asset in loaded if page.name != WHEREVER}
    assert [path for path in local if not path.exists()] == []


def test_no_link_in_the_site_is_dead(pages: dict[Path, Html]) -> None:
    looked_at = 0
    for page, html in pages.items():
        if page.name == WHEREVER:
            continue
        for link in html.links:
            if re.match(r"[a-z]+:", link):
                continue
            looked_at += 1
            target, _, anchor = unquote(link).partition("#")
            path = (page.parent / target).resolve() if target else page
            path = path / "index.html" if path.is_dir() else path
            assert path.is_file(), f"{page.name}: {link}"
            assert not anchor or anchor in pages[path].anchors, f"{page.name}: {link}"
    assert looked_at > 1000


def test_what_a_page_links_to_outside_docs_is_a_page_of_the_site(site: Path, pages: dict[Path, Html]) -> None:
    assert "source/systemd/index.html" in pages[site / "operations.html"].links
    shown = (site / "source" / "systemd" / "cdc-pusher.service.html").read_text(encoding="utf-8")
    assert "LimitCORE=0" in shown
    assert "cdc-pusher.toml.html" in pages[site / "source" / "examples" / "citrineos" / "index.html"].links


@pytest.mark.parametrize(
    "broken", ["[x](nowhere.md)", "[x](roles.md#no-such-heading)", "[x](../tests/nowhere.py)", "[x](/roles.md)"], ids=lambda link: link
)
def test_a_dead_link_fails_the_build(tmp_path: Path, broken: str) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    with (tmp_path / "docs" / "emps.md").open("a") as page:
        page.write(f"\n{broken}\n")
    config = tmp_path / "mkdocs.yml"
    inherited, hook = json.dumps(str(ROOT / "mkdocs.yml")), json.dumps(str(ROOT / "packaging" / "site_pages.py"))
    config.write_text(f"INHERIT: {inherited}\nhooks: [{hook}]\n")
    built = build(config, tmp_path / "site")
    assert built.returncode == 1, "warnings are errors (and --quiet would hide them from mkdocs itself)"
    assert "emps.md" in built.stderr
