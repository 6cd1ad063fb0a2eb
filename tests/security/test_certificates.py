"""The certificate of an EMP is verified, name, time and authority: to anybody else nothing is sent, and so nothing was applied."""

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from cdc_pusher.client import EmpClient, tls
from cdc_pusher.config import EmpSettings
from cdc_pusher.errors import ConfigurationError
from cdc_pusher.model import Answer, Failure

KEY = "s3cret-key-of-this-emp"
LONG_AGO, AGO, LATER, LATE = "20010101000000Z", "20200101000000Z", "20990101000000Z", "20990201000000Z"
AUTHORITY = """
[ca]
default_ca = made
[made]
database = {0}/index.txt
new_certs_dir = {0}
rand_serial = yes
default_md = sha256
unique_subject = no
copy_extensions = copy
policy = any
[any]
commonName = supplied
"""


def openssl(*arguments: str | Path) -> None:
    try:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl command to make certificates with")


class Authority:
    """An authority of its own, in a directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory, self.certificate = directory, directory / "ca.pem"
        self._key, self._config = directory / "ca.key", directory / "ca.cnf"
        self._config.write_text(AUTHORITY.format(directory))
        (directory / "index.txt").touch()
        subject = ("-subj", "/CN=authority", "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, "-keyout", self._key, "-out", self.certificate)

    def issue(self, name: str, *, since: str = AGO, until: str = LATER, own: bool = False) -> ssl.SSLContext:
        """A server's side of TLS with a certificate for this name; `own`: signed by itself."""
        key, request, certificate = (self.directory / f"leaf.{kind}" for kind in ("key", "csr", "pem"))
        names = ("-subj", "/CN=leaf", "-addext", f"subjectAltName={name}")
        openssl("req", "-newkey", "rsa:2048", "-nodes", *names, "-keyout", key, "-out", request)
        signing = ("-selfsign", "-keyfile", key) if own else ("-cert", self.certificate, "-keyfile", self._key)
        dates = ("-startdate", since, "-enddate", until)
        openssl("ca", "-batch", "-notext", "-config", self._config, *signing, *dates, "-in", request, "-out", certificate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates") / "trusted")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates") / "stranger")


@contextmanager
def emp(context: ssl.SSLContext, *, proxies: bool = False) -> Iterator[tuple[int, list[bytes]]]:
    """An EMP that accepts everything, in a thread; yields its port, and what it has received beneath TLS.

    `proxies`: it is a proxy, which says that it connects, and then speaks itself.
    """
    received: list[bytes] = []

    def serve() -> None:
        while True:
            conn, _ = listener.accept()
            conn.settimeout(10)
            if proxies:
                conn.recv(65536)
                conn.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            with conn, suppress(OSError), context.wrap_socket(conn, server_side=True) as secured:
                if said := secured.recv(65536):
                    received.append(said)
                    secured.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 23\r\nConnection: close\r\n\r\n{"result": {"code": 0}}')

    def until_closed() -> None:
        with suppress(OSError):
            serve()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=until_closed)
        thread.start()
        try:
            yield listener.getsockname()[1], received
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


async def ask(url: str, **options: Any) -> Answer | Failure:
    said = {"url": url, "partner_identifier": "p" * 16, "api_key": KEY, **options}
    async with EmpClient(EmpSettings.model_validate(said)) as client:
        return await client.send("status", {"connector-id": "DE*8PS*E1", "status": "Available"})


GOOD: dict[str, Callable[[Authority], ssl.SSLContext]] = {
    "name": lambda a: a.issue("DNS:localhost"),
    "one of several names": lambda a: a.issue("DNS:emp.example,DNS:localhost"),
}
BAD: dict[str, tuple[Callable[[Authority], ssl.SSLContext], str]] = {
    "expired": (lambda a: a.issue("DNS:localhost", since=LONG_AGO, until=AGO), "certificate has expired"),
    "not valid yet": (lambda a: a.issue("DNS:localhost", since=LATER, until=LATE), "certificate is not yet"),
    "another name": (lambda a: a.issue("DNS:emp.example"), "Hostname mismatch"),
    "a name that only begins alike": (lambda a: a.issue("DNS:localhost.emp.example"), "Hostname mismatch"),
    "an address instead": (lambda a: a.issue("IP:127.0.0.1"), "Hostname mismatch"),
    "signed by itself": (lambda a: a.issue("DNS:localhost", own=True), "self-signed certificate"),
}


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD)
async def test_good_certificate_is_taken(authority: Authority, make: Callable[[Authority], ssl.SSLContext]) -> None:
    with emp(make(authority)) as (port, received):
        assert isinstance(await ask(f"https://localhost:{port}/", ca_file=authority.certificate), Answer)
        assert KEY.encode() in received[0]


@pytest.mark.parametrize(("make", "words"), BAD.values(), ids=BAD)
async def test_bad_certificate_is_refused_and_sent_nothing(
    authority: Authority, make: Callable[[Authority], ssl.SSLContext], words: str
) -> None:
    with emp(make(authority)) as (port, received):
        answer = await ask(f"https://localhost:{port}/", ca_file=authority.certificate)
        assert isinstance(answer, Failure)
        assert words in answer.error
        assert not answer.applied
        assert received == []


async def test_authority_that_is_not_named_is_refused(authority: Authority, stranger: Authority) -> None:
    with emp(stranger.issue("DNS:localhost")) as (port, received):
        for trusted in (authority.certificate, None):
            answer = await ask(f"https://localhost:{port}/", ca_file=trusted)
            assert isinstance(answer, Failure)
            assert "unable to get local issuer" in answer.error
            assert not answer.applied
        assert received == []


async def test_proxy_does_not_stand_in_for_the_emp(authority: Authority, stranger: Authority) -> None:
    with emp(stranger.issue("DNS:localhost"), proxies=True) as (port, received):
        answer = await ask("https://localhost/", ca_file=authority.certificate, proxy=f"http://127.0.0.1:{port}")
        assert isinstance(answer, Failure)
        assert "certificate verify failed" in answer.error
        assert received == []


def test_old_versions_of_tls_are_not_spoken() -> None:
    said = {"url": "https://emp.example/", "partner_identifier": "p" * 16, "api_key": KEY}
    context = tls(EmpSettings.model_validate(said))
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_key_of_our_certificate_that_everybody_may_read_is_refused(authority: Authority, tmp_path: Path) -> None:
    authority.issue("DNS:client")
    key = tmp_path / "client.key"
    key.write_bytes((authority.directory / "leaf.key").read_bytes())
    said = {"url": "https://emp.example/", "partner_identifier": "p" * 16, "api_key": KEY, "client_key_file": key}
    settings = EmpSettings.model_validate({**said, "client_certificate_file": authority.directory / "leaf.pem"})
    for mode in (0o600, 0o640):
        key.chmod(mode)
        tls(settings)
    for mode in (0o644, 0o602):
        key.chmod(mode)
        with pytest.raises(ConfigurationError, match=r"client\.key is open to everybody: chmod o="):
            tls(settings)
