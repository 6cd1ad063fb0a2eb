"""`cdc-pusher check` says where an API key comes from and never what it is, and reaches for an EMP's host without a message."""

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from checking import NOWHERE, settings, texts

from cdc_pusher import check, config
from cdc_pusher.check import Finding
from cdc_pusher.check import emp as check_emp
from cdc_pusher.client import EmpClient
from cdc_pusher.model import Answer


async def of_emp(**options: Any) -> list[Finding]:
    """What is found of an EMP, without a database."""
    return (await check.run(settings("host=/nowhere", emp=options)))[1:]


def toml(directory: Path, lines: str) -> Path:
    file = directory / "config.toml"
    file.write_text(f'[database]\ndsn = "host=/nowhere"\n[emp.a]\nurl = "{NOWHERE}"\npartner_identifier = "{"p" * 16}"\n{lines}')
    return file


@pytest.mark.parametrize(
    ("lines", "mode", "level", "words"),
    [
        ('api_key_file = "{0}/key"', 0o600, "ok", "comes from {0}/key"),
        ('api_key_file = "{0}/key"', 0o640, "warning", "stands in {0}/key, which its group may read: is that the daemon's own?"),
        ('api_key_file = "{0}/key"', 0o604, "problem", "the API key file {0}/key is open to everybody: chmod o= {0}/key"),
        ('api_key_file = "{0}/key"', 0o602, "problem", "the API key file {0}/key is open to everybody"),
        ('api_key_file = "{0}/nothing"', 0o600, "problem", "the API key file {0}/nothing cannot be read: No such file or directory"),
        ('api_key = "s3cret"', 0o600, "ok", "comes from {0}/config.toml"),
        ('api_key = "s3cret"', 0o640, "warning", "stands in {0}/config.toml, which its group may read"),
        ('api_key = "s3cret"', 0o644, "problem", "the file with its API key {0}/config.toml is open to everybody"),
        ("", 0o600, "problem", "no API key; set api_key_file, the systemd credential a.api-key or CDC_PUSHER_EMP__A__API_KEY"),
    ],
)
async def test_key_is_told_by_where_it_comes_from_and_never_itself(tmp_path: Path, lines: str, mode: int, level: str, words: str) -> None:
    (tmp_path / "key").write_text("s3cret\n")
    file = toml(tmp_path, lines.format(tmp_path))
    for one in (file, tmp_path / "key"):
        one.chmod(mode)
    found = (await check.run(config.read(file), config_file=file))[1]
    assert (found.subject, found.level) == ("API key of a", level)
    assert found.text.startswith(words.format(tmp_path))
    assert "s3cret" not in found.text


async def test_key_of_a_credential_or_the_environment_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = toml(tmp_path, "")
    (tmp_path / "a.api-key").write_text("s3cret")
    (tmp_path / "a.api-key").chmod(0o400)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert (await check.run(config.read(file), config_file=file))[1].text == f"comes from {tmp_path}/a.api-key"
    monkeypatch.setenv("CDC_PUSHER_EMP__A__API_KEY", "s3cret")
    assert (await check.run(config.read(file), config_file=file))[1].text == "comes from the environment"


async def test_key_over_plain_http_is_a_problem_but_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    assert "unencrypted" not in texts(await of_emp(url="http://localhost:1/"))
    monkeypatch.setattr(asyncio, "open_connection", refused)
    found = await of_emp(url="http://emp.example/")
    assert "sends the API key unencrypted" in texts(found)
    assert found[-1].text == "emp.example:80: there is no such name in the DNS, or no DNS: look at the URL"


async def test_host_that_is_down_is_a_problem_and_one_that_answers_is_sent_nothing() -> None:
    received = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.set_result(await reader.read())
        writer.close()

    assert (await of_emp())[-1].text == "127.0.0.1:1: it cannot be reached: Connection refused"
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert (await of_emp(url=f"http://127.0.0.1:{port}/x"))[-1].text == f"127.0.0.1:{port} can be reached; nothing was sent"
        assert await received == b""


@asynccontextmanager
async def tls_server(directory: Path, name: str, *, asks_for_certificate: bool = False) -> AsyncIterator[int]:
    """A server whose certificate, signed by itself, is for this name, and that takes only the same from clients; yields its port."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    command += ["-addext", f"subjectAltName=DNS:{name}", "-keyout", str(directory / "tls.key"), "-out", str(directory / "tls.pem")]
    try:
        await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl command to make a certificate with")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "tls.pem", directory / "tls.key")
    if asks_for_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(directory / "tls.pem")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(1):
            writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 22\r\nConnection: close\r\n\r\n{"result":{"code": 0}}')
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_certificate_is_verified_as_when_sending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with tls_server(tmp_path, "localhost") as port:
        refused = (await of_emp(url=f"https://localhost:{port}/"))[-1]
        assert (refused.level, refused.text) == ("problem", f"localhost:{port}: its certificate is refused: self-signed certificate")
        trusted = {"ca_file": str(tmp_path / "tls.pem")}
        good = (await of_emp(url=f"https://localhost:{port}/", **trusted))[-1]
        assert (good.level, good.text) == ("ok", f"localhost:{port} can be reached, and its certificate is good; nothing was sent")
        wrong = (await of_emp(url=f"https://127.0.0.1:{port}/", **trusted))[-1]
        assert "IP address mismatch" in wrong.text


async def test_emp_that_asks_for_a_certificate_is_shown_one(tmp_path: Path) -> None:
    async with tls_server(tmp_path, "localhost", asks_for_certificate=True) as port:
        common = {"url": f"https://localhost:{port}/", "partner_identifier": "p" * 16, "api_key": "k", "ca_file": tmp_path / "tls.pem"}
        ours = {"client_certificate_file": tmp_path / "tls.pem", "client_key_file": tmp_path / "tls.key"}
        for options, accepted in ((ours, True), ({}, False)):
            async with EmpClient(config.EmpSettings.model_validate(common | options)) as client:
                answer = await client.send("status", {"connector-id": "DE*8PS*E1", "status": "Available"})
            assert isinstance(answer, Answer) is accepted, answer


async def test_certificate_files_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nonsense")
    for options in ({"ca_file": str(tmp_path / "ca.pem")}, {"client_certificate_file": str(tmp_path / "nowhere.pem")}):
        found = (await of_emp(url="https://localhost:1/", **options))[-1]
        assert (found.level, found.subject) == ("problem", "host of a")
        assert found.text.startswith("certificates in ")
        assert next(iter(options.values())) in found.text


async def test_host_that_speaks_no_tls_is_a_problem() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        found = (await of_emp(url=f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"))[-1]
    assert found.level == "problem"
    assert "it does not speak TLS as we do" in found.text


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example"])
async def test_host_that_can_be_none_is_a_problem(host: str) -> None:
    options = {"url": f"https://{host}/", "partner_identifier": "p" * 16, "api_key": "k"}
    found = (await check_emp.check("a", config.EmpSettings.model_validate(options), None))[-1]
    assert (found.level, found.subject) == ("problem", "host of a")
