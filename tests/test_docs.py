"""Every command, configuration and query in docs/*.md and README.md is executed here, or at least read by what would execute it."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pages import DOCS, ROOT, Block, blocks
from scratch import STATIONS, Scratch, Zygote, simple_commands

from cdc_pusher import config
from cdc_pusher.cli import app
from cdc_pusher.config import Settings
from cdc_pusher.embedded import EmbeddedPostgres
from cdc_pusher.errors import ConfigurationError

PAGES = {str(path.relative_to(ROOT)): list(blocks(path)) for path in sorted([*DOCS.glob("*.md"), ROOT / "README.md"])}
SMALLEST = next(block.text for block in PAGES["README.md"] if block.language == "toml")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
EXECUTED = ("console", "sh", "sql", "toml", "yaml", "ini")

# What is only read, and why.
ONLY_READ = {
    "make": "its targets are the tests, or take minutes; each has to be there, with the variables that it is given",
    "pip": "`make wheel-check` installs the wheel where there is nothing else",
    "apt": "`make deb-check` installs the package into a clean Debian",
    "systemctl": "there is no systemd where tests run; tests/test_systemd.py plays its part",
    "systemd-tmpfiles": "as systemctl",
    "journalctl": "as systemctl; the words that are looked for stand in the program",
    ".venv/bin/python": "takes minutes; the module has to be there",
    "grep": "of what a command before it says",
    "ssh": "needs another machine",
}
NOT_PLAYED = {"docs/cookbook.md": "tests/test_cookbook.py asks each question, and looks at the answer"}
# What pages begin with; the others with a sandbox and a daemon at work.
QUICK_START = "docs/quick-start.md"
NOTHING = (QUICK_START, "docs/roles.md")
SANDBOX = ("README.md", "docs/mapping.md", "docs/operations.md", "docs/sandbox.md")
# What has to be there before the SQL below a heading.
BEFORE_SQL = {
    ("docs/mapping.md", "Keys"): "CREATE TABLE unit (tenant text, no int); CREATE TABLE plug (tenant text, no int)",
    ("docs/mapping.md", "Documents"): "CREATE TABLE doc (id text, body jsonb)",
    ("docs/roles.md", "By hand"): "CREATE ROLE deploy",
}
BEFORE_BY_HAND = "cdc-pusher uninstall --yes --dsn postgresql:///cpo"


def lines(block: Block) -> list[str]:
    """The commands of a console; a prompt is `$`, or `#` of root."""
    text = re.sub(r"\\\n\s+", " ", block.text)
    return [line[2:] for line in text.splitlines() if line.startswith(("$ ", "# "))]


def is_executed(block: Block) -> bool:
    return block.language == "sql" or any(c[0] in ("cdc-pusher", "curl") for line in lines(block) for c in simple_commands(line))


PLAYED = [page for page, found in PAGES.items() if page not in NOT_PLAYED and any(map(is_executed, found))]


# ── played, page by page ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    """A server of our own: the pages make roles, and name their database."""
    with EmbeddedPostgres(settings={"fsync": "off"}) as started:
        yield started


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    made = Zygote()
    yield made
    made.close()


@pytest.fixture
def scratch(server: EmbeddedPostgres, zygote: Zygote, tmp_path: Path) -> Iterator[Scratch]:
    made = Scratch(server, zygote, tmp_path, SMALLEST)
    yield made
    made.close()


@pytest.mark.parametrize("page", PLAYED)
def test_what_a_page_says_can_be_done(page: str, scratch: Scratch) -> None:
    if page != QUICK_START:
        scratch.sql(STATIONS)
    if page not in NOTHING:
        scratch.start("sandbox")
    if page not in (*NOTHING, *SANDBOX):
        scratch.configure()
        scratch.run("cdc-pusher migrate")
        scratch.start("run")
    done: set[str] = set()
    for block in PAGES[page]:
        play(block, scratch, done)
        if page == QUICK_START and block.language in ("sql", "console"):
            look_at_quick_start(block, scratch)
        elif page == "docs/roles.md" and block.language == "console":
            scratch.run("cdc-pusher status")  # as the role that has just been made


def look_at_quick_start(block: Block, scratch: Scratch) -> None:
    """It leads where it says: the EMP has what was changed, what cannot be sent says why, and nothing of it stays."""
    if "/stations" in block.text:
        scratch.run("curl -s http://127.0.0.1:8099/stations")
        status = scratch.value("SELECT status FROM connector")
        assert json.loads(scratch.said)["S1"]["statuses"] == {"DE*8PS*E1": status}
        assert status == ("Occupied" if "outbox show" in block.text else "Available")
    elif "outbox_problems" in block.text:
        problem = scratch.value("SELECT problem FROM cdc_pusher.outbox_problems")
        assert "does not get the changes of station S1" in problem
        assert problem.endswith("held, because zip: is blank (' ')")
    elif "uninstall" in block.text:
        assert scratch.value("SELECT to_regnamespace('cdc_pusher')") is None


def play(block: Block, scratch: Scratch, done: set[str]) -> None:
    match block.language:
        case "toml":
            if "[emp." in block.text and "[database]" in block.text:
                scratch.configure(block.text)
            elif block.page == "docs/roles.md":
                scratch.configure(merged(SMALLEST, block.text))
        case "sql":
            ask(block, scratch, done)
        case "console":
            for line in lines(block):
                if line not in done:  # the same in each alert
                    scratch.run(line)
                    done.add(line)


def ask(block: Block, scratch: Scratch, done: set[str]) -> None:
    place = (block.page, block.heading)
    if place == ("docs/roles.md", "By hand") and "CREATE SCHEMA" in block.text:
        scratch.run(BEFORE_BY_HAND)
    if (before := BEFORE_SQL.get(place)) and before not in done:
        scratch.sql(before)
        done.add(before)
    try:
        scratch.sql(scratch.here(block.text.replace(", …", "")))
    except Exception as error:
        error.add_note(f"{block.place}\n{block.text}")
        raise
    scratch.quiet()


def merged(*parts: str) -> str:
    """Configurations in one, the later ones going first."""
    result: dict[str, Any] = {}
    for part in parts:
        _merge(result, tomllib.loads(part))
    return "\n".join(_written(result))


def _merge(into: dict[str, Any], given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if isinstance(value, dict):
            _merge(into.setdefault(name, {}), value)
        else:
            into[name] = value


def _written(table: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[str]:
    if path:
        yield f"[{'.'.join(map(json.dumps, path))}]"
    tables = {name: value for name, value in table.items() if isinstance(value, dict)}
    for name, value in table.items():
        if name not in tables and not (isinstance(value, list) and value and isinstance(value[0], dict)):
            yield f"{json.dumps(name)} = {json.dumps(value)}"
    for name, value in table.items():
        if name in tables:
            yield from _written(value, (*path, name))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for one in value:
                yield f"[[{'.'.join(map(json.dumps, (*path, name)))}]]"
                yield from _written(one)


# ── read by what would execute it ──────────────────────────────────────────────────────────────────────────────────────────────────────

CONSOLES = [block for page in PAGES.values() for block in page if block.language in ("console", "sh")]
COMMANDS = [(block.place, line) for block in CONSOLES for line in lines(block)]
SPANS = [
    (page, span.replace("\\|", "|"))
    for page in PAGES
    for span in re.findall(r"(?<!`)`((?:cdc-pusher|make) [^`\n]+)`", (ROOT / page).read_text(encoding="utf-8"))
]
USAGE: type[Exception] = typer.BadParameter.__mro__[1]
# Names of connections, which are no commands.
CONNECTIONS = re.compile(r"cdc-pusher (capture|listen|lane .*)$")


EAGER = ("--install-completion", "--show-completion")  # are done while they are read; tests/test_completion.py does them


def understands(arguments: list[str]) -> None:
    """Have the command line read a command, without executing it."""
    command: Any = typer.main.get_command(app)
    context = None
    arguments = [one for one in arguments if one not in EAGER]
    if not arguments:
        return
    while hasattr(command, "resolve_command"):
        context = command.make_context("cdc-pusher", list(arguments), parent=context)
        _, command, arguments = command.resolve_command(context, [*context._protected_args, *context.args])
    command.make_context(command.name, list(arguments), parent=context)


@pytest.mark.parametrize("wrong", ["outbox lisst", "status --no-such-option", "outbox show", "emp", "sandbox --port many"])
def test_a_command_that_is_none_is_noticed(wrong: str) -> None:
    with pytest.raises(USAGE):
        understands(wrong.split())


def makes(words: list[str]) -> None:
    """A line of make: its targets are there, and its variables are read."""
    for word in words:
        if "=" in word:
            assert re.search(rf"\b{word.partition('=')[0]}\b", MAKEFILE), word
        else:
            assert re.search(rf"^{re.escape(word)}:", MAKEFILE, re.MULTILINE), f"no target {word}"


@pytest.mark.parametrize(("place", "line"), COMMANDS, ids=[f"{place} {line[:30]}" for place, line in COMMANDS])
def test_every_command_is_one(place: str, line: str) -> None:
    assert simple_commands(line)
    for program, *arguments in simple_commands(line):
        if program == "cdc-pusher":
            understands(arguments)
        elif program == "make":
            makes(arguments)
        elif program == ".venv/bin/python":
            assert arguments[0] == "-m"
            assert (ROOT / "tests" / arguments[1] / "__main__.py").exists()
        else:
            assert program in ONLY_READ or program in ("curl", "echo", "chmod"), f"{place}: nobody has thought of {program}"
    for words in re.findall(r"journalctl.*grep '?([^'|]+)'?$", line):
        sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "cdc_pusher").rglob("*.py"))
        assert words in sources or words.startswith('"part": "'), f"the log never says: {words}"


@pytest.mark.parametrize(("page", "span"), SPANS, ids=[f"{page} {span[:40]}" for page, span in SPANS])
def test_every_command_in_a_sentence_is_one(page: str, span: str) -> None:
    if CONNECTIONS.match(span):
        return
    for program, *arguments in simple_commands(span.replace("|", "-or-").replace("…", "")):
        (understands if program == "cdc-pusher" else makes)(arguments)


TOML = [block for page in PAGES.values() for block in page if block.language == "toml"]
SOURCE = '[source]\nstations = "SELECT 1"\nconnectors = "SELECT 1"\n[[source.watch]]\ntable = "t"\nstation = "id"\n'
FRAME = '[emp.{name}]\nurl = "http://127.0.0.1:1/"\npartner_identifier = "0123456789abcdef"\n'


@pytest.mark.parametrize("block", TOML, ids=lambda block: block.place)
def test_every_configuration_is_valid(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    given = tomllib.loads(block.text)
    frames = [FRAME.format(name=name) for name in given.get("emp", {"some": {}})]
    path.write_text(merged(*frames, *([SOURCE] if "source" in given else []), block.text))
    path.chmod(0o600)
    settings = config.read(path)
    assert settings.emp
    told = settings.model_dump(mode="json")
    for section, value in given.items():
        assert section in told
        assert value


def test_a_configuration_that_is_not_valid_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(merged(FRAME.format(name="a"), "[emp.a]\nno_such_key = 1"))
    path.chmod(0o600)
    with pytest.raises(Exception, match="no_such_key"):
        config.read(path)


SETTINGS_IN_SENTENCES = [
    (page, span) for page in PAGES for span in re.findall(r"`([a-z_]+ = [\"\d\[][^`]*)`", (ROOT / page).read_text(encoding="utf-8"))
]


@pytest.mark.parametrize(("page", "span"), SETTINGS_IN_SENTENCES)
def test_every_setting_in_a_sentence_is_one(page: str, span: str, tmp_path: Path) -> None:
    def accepts(section: str) -> bool:
        path = tmp_path / "config.toml"
        path.write_text(merged(FRAME.format(name="some"), SOURCE if "source" in section else "", f"{section}\n{span}"))
        path.chmod(0o600)
        try:
            config.read(path)
        except ConfigurationError:
            return False
        return True

    rest = 'table = "t"\n' if span.startswith("station") else ""
    sections = ("[database]", "[daemon]", "[monitoring]", "[emp.some]", f"[[source.watch]]\n{rest}")
    assert any(accepts(section) for section in sections), span


@pytest.mark.parametrize("block", [b for page in PAGES.values() for b in page if b.language == "yaml"], ids=lambda block: block.place)
def test_every_yaml_is_a_scrape_configuration_as_the_alerts_want_it(block: Block) -> None:
    (job,) = yaml.safe_load(block.text)["scrape_configs"]
    wanted = set(re.findall(r'job=~"([^"]+)"', (ROOT / "monitoring" / "alerts.yml").read_text(encoding="utf-8")))
    assert wanted
    assert all(re.fullmatch(pattern, job["job_name"]) for pattern in wanted)
    assert job["static_configs"][0]["targets"] == [Settings.model_fields["monitoring"].get_default(call_default_factory=True).listen]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_executed_or_a_drawing(page: str) -> None:
    for block in PAGES[page]:
        if block.language == "":
            assert "▶" in block.text, f"{block.place}: says nothing of what it is written in"
        else:
            assert block.language in EXECUTED, f"{block.place}: nobody executes {block.language}"
        if block.language == "console":
            assert lines(block), f"{block.place}: no prompt"


def test_what_is_only_read_stands_in_the_pages() -> None:
    programs = {command[0] for _, line in COMMANDS for command in simple_commands(line)}
    assert set(ONLY_READ) - programs == set()
