"""A hook of mkdocs: what the pages link to outside docs/ becomes a page of the site, so that one link serves there and on a code host.

A Markdown file is shown as it reads, its own links followed; any other file as text; a directory as the list of its files, or its README.
A link that leads nowhere is left as it is, which fails the build.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from posixpath import dirname, join, normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
DOCS, SOURCE = "docs/", "source/"
LINK = re.compile(r"(?<=\]\()[^()\s#:]+(?=(#[^()\s]*)?\))")  # a relative one, without its anchor
FENCE = "`" * 8


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for everything outside docs/ that a page leads to."""
    read = [DOCS + file.src_uri for file in files if file.is_documentation_page()]
    found: set[str] = set()
    for path in read:  # grows
        for target in leads_to(path):
            if not target.startswith(DOCS) and (uri := page_of(target)) not in found:
                found.add(uri)
                read.append(target)
                files.append(File.generated(config, uri, content=content(target)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to those pages."""
    uri = page.file.src_uri
    here = DOCS + uri if not uri.startswith(SOURCE) else uri.removeprefix(SOURCE)
    if FENCE in markdown:
        return markdown  # a file that is shown as it is

    def rewritten(link: re.Match[str]) -> str:
        target = normpath(join(dirname(here), link[0]))
        return relpath(page_of(target), dirname(uri) or ".") if (ROOT / target).exists() else link[0]

    return LINK.sub(rewritten, markdown)


def page_of(path: str) -> str:
    """Where in the site a file or directory of the project is.

    >>> page_of("docs/roles.md"), page_of("README.md"), page_of("mkdocs.yml"), page_of("systemd")
    ('roles.md', 'source/README.md', 'source/mkdocs.yml.md', 'source/systemd/index.md')
    """
    if path.startswith(DOCS):
        return path.removeprefix(DOCS)
    if (ROOT / path).is_dir():
        return f"{SOURCE}{path}/{'README' if (ROOT / path / 'README.md').exists() else 'index'}.md"
    return SOURCE + path if path.endswith(".md") else f"{SOURCE}{path}.md"


def content(path: str) -> str:
    """The page for a file or directory outside docs/."""
    file = ROOT / path
    if file.is_dir() and (file / "README.md").exists():
        return (file / "README.md").read_text(encoding="utf-8")
    if file.is_dir():
        listed = sorted(entry.name for entry in file.iterdir() if entry.is_file())
        return f"# {path}/\n\n" + "\n".join(f"- [{name}]({name})" for name in listed)
    text = file.read_text(encoding="utf-8")
    return text if path.endswith(".md") else f"# {path}\n\n{FENCE}\n{text}\n{FENCE}\n"


def leads_to(path: str) -> Iterator[str]:
    """What the links of a file or directory of the project lead to, as paths of the project; only what exists."""
    is_dir = (ROOT / path).is_dir()
    if is_dir or path.endswith(".md"):
        text = content(path) if not path.startswith(DOCS) else (ROOT / path).read_text(encoding="utf-8")
        base = path if is_dir else dirname(path)
        for link in LINK.finditer(text):
            target = normpath(join(base, link[0]))
            if (ROOT / target).exists():
                yield target
