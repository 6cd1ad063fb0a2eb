"""The configuration loader: any file and any variables are settings, or one printable line that repeats no key; nothing else is raised."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from effort import at_most, examples
from hypothesis import example, given
from hypothesis import strategies as st

from cdc_pusher import config
from cdc_pusher.errors import ConfigurationError

KEY = "s3cret-key-of-this-emp"
EMP = f'[emp.plug]\nurl = "https://emp.example/"\npartner_identifier = "{"p" * 16}"\n'
MEMORY = 64 * 2**20

keys = st.sampled_from(
    [
        *("database", "source", "emp", "daemon", "monitoring", "plug", "cpos", "dsn", "watch", "table", "columns", "station", "statuses"),
        *(
            "url",
            "partner_identifier",
            "api_key",
            "api_key_file",
            "concurrency",
            "burst",
            "only",
            "proxy",
            "ca_file",
            "listen",
            "log_level",
        ),
    ]
) | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
words = st.sampled_from(
    [KEY, "", "http://[", "https://emp.example/", "p" * 16, "127.0.0.1:9465", "[::1]:1", "a:99999", "key\x00", "/", "."]
)
scalars = st.booleans() | st.integers() | st.floats() | words | st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=10)
pieces = st.sampled_from(
    ["[", "]", "[[", "]]", "=", '"', "'''", '"""', ".", ",", "\n", "{", "}", "#", "emp", "plug", "1e9", "inf", "0x", "2026-13-01", "\\u"]
)
SCHEMA = {"emp": {"plug": {"url": "https://emp.example/", "partner_identifier": "p" * 16, "api_key": KEY}}}


def toml(value: Any) -> str:
    """An inline TOML value."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {toml(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return repr(value).replace("infinity", "inf")
    return json.dumps(value).replace("\x7f", "\\u007f")


documents = (
    st.dictionaries(keys, values, max_size=4).map(
        lambda found: "\n".join(f"{json.dumps(name)} = {toml(value)}" for name, value in found.items())
    )
    | st.dictionaries(keys, scalars, max_size=4).map(
        lambda found: EMP + "\n".join(f"{json.dumps(n)} = {toml(v)}" for n, v in found.items())
    )
    | st.lists(pieces, max_size=20).map("".join)
)


@pytest.fixture(scope="module", autouse=True)
def _elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Neither files nor variables of the machine have a say."""
    before, variables = (
        Path.cwd(),
        {name for name in os.environ if name.upper().startswith("CDC_PUSHER_") or name == "CREDENTIALS_DIRECTORY"},
    )
    os.chdir(tmp_path_factory.mktemp("config"))
    with mock.patch.object(config, "DEFAULT_PATHS", ()), mock.patch.dict(os.environ):
        for name in variables:
            del os.environ[name]
        yield
    os.chdir(before)


def loads(path: Path | None) -> config.Settings | None:
    try:
        settings = config.load(path)
    except ConfigurationError as refused:
        said, cause = str(refused), refused.__cause__
    else:
        assert KEY not in repr(settings)
        return settings
    assert said.isprintable()
    assert KEY not in f"{said} {cause} {cause!r}"
    return None


def file(content: bytes) -> Path:
    path = Path("config.toml")
    path.write_bytes(content)
    path.chmod(0o600)
    return path


@examples(200)
@given(content=documents.map(str.encode) | st.binary(max_size=100))
@example(content=b"a = " + b"[" * 100_000)
@example(content=b"a = " + b"{a=" * 100_000)
@example(content=b"[" + b"a." * 10_000 + b"a]")
@example(content=b"[daemon]\ncapture_batch = " + b"9" * 10_000)
@example(content=b"[daemon]\nsweep_interval_s = 1e999")
@example(content=b'"a\\n\\u001b[31m" = 1')
@example(content=EMP.encode() + b"api_key_file = 'a\\u0000'")
@example(content=EMP.encode() + b'api_key_file = "a\\u0000"')
@example(content=EMP.encode() + b'api_key_file = "/dev/zero"')
@example(content=EMP.encode() + b'api_key_file = "pipe"')
@example(content=EMP.encode() + b'api_key_file = "' + b"x" * 5000 + b'"')
@example(content=EMP.encode() + b'api_key = "x"\nca_file = "a\\u0000"')
def test_any_file_is_settings_or_one_line(content: bytes) -> None:
    if not Path("pipe").exists():
        os.mkfifo("pipe", 0o600)  # nobody writes to it: whoever opens it waits
    with at_most(MEMORY):
        loads(file(content))


variables = st.sampled_from(
    [
        "EMP",
        "EMP__PLUG",
        "EMP__PLUG__API_KEY",
        "EMP__PLUG__CPOS",
        "DATABASE",
        "SOURCE__WATCH",
        "DAEMON__POLL_INTERVAL_S",
        "MONITORING__LISTEN",
    ]
)
said = values.map(json.dumps) | st.text(st.characters(exclude_characters="\x00", exclude_categories=()), max_size=20)


@examples(200)
@given(environment=st.dictionaries(variables, said, max_size=3))
@example(environment={"EMP": "[" * 100_000})
@example(environment={"EMP__PLUG": '{"a":' * 50_000})
@example(environment={"EMP": "3"})
@example(environment={"EMP__PLUG__API_KEY": "\udc80"})
@example(environment={"EMP": json.dumps(SCHEMA["emp"]) + "}"})
@example(environment={"EMP__PLUG__API_KEY": KEY, "EMP": "null"})
def test_any_variables_are_settings_or_one_line(environment: dict[str, str]) -> None:
    given = {f"CDC_PUSHER_{name}": value for name, value in environment.items() if _can_be_set(value)}
    with mock.patch.dict(os.environ, given):
        for content in (b"", EMP.encode() + b'api_key = "x"', b"emp = 3"):
            loads(file(content))


def _can_be_set(value: str) -> bool:
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return True


@examples(100)
@given(content=st.binary(max_size=200) | st.text(st.characters(codec="ascii"), max_size=100).map(str.encode))
@example(content=b"k" * 4096)
@example(content=b"k" * 4097)
@example(content=b"k\nk")
@example(content=b"\xef\xbb\xbfk")
def test_any_key_file_is_a_key_for_a_header_or_one_line(content: bytes) -> None:
    key_file = Path("key")
    key_file.write_bytes(content)
    key_file.chmod(0o600)
    if (settings := loads(file(EMP.encode() + b'api_key_file = "key"'))) is not None:
        key = settings.emp["plug"].api_key
        assert key is not None
        assert key.get_secret_value() == content.decode().strip()
        assert key.get_secret_value().isprintable()
