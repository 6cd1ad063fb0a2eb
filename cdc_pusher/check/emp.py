"""One EMP without sending it anything: where its API key comes from, what its URL says, and whether its host can be reached.

Nothing of a key is told, not even its length.
"""

import asyncio
import contextlib
import ipaddress
import os
import socket
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path

from cdc_pusher import client, config
from cdc_pusher.check.finding import Finding, ok, problem, warning
from cdc_pusher.config import EmpSettings
from cdc_pusher.errors import ConfigurationError

REACH_S = 5.0  # seconds to connect and to agree on TLS


async def check(name: str, emp: EmpSettings, config_file: Path | None) -> list[Finding]:
    """Look at one EMP of a configuration as `config.read` returns it."""
    return [_key(name, emp, config_file), *_scheme(name, emp), await _reach(name, emp)]


def _key(name: str, emp: EmpSettings, config_file: Path | None) -> Finding:
    subject = f"API key of {name}"
    try:
        config.with_api_key(name, emp, config_file)
    except ConfigurationError as error:
        return problem(subject, str(error).removeprefix(f"emp.{name}: "))
    file = config.key_origin(name, emp, config_file)
    if file is None:
        return ok(subject, "comes from the environment")
    if file.stat().st_mode & stat.S_IRGRP:
        return warning(subject, f"stands in {file}, which its group may read: is that the daemon's own?")
    return ok(subject, f"comes from {file}")


def _scheme(name: str, emp: EmpSettings) -> Iterator[Finding]:
    if emp.url.scheme != "https" and not is_loopback(emp.url.host or ""):
        yield problem(f"emp.{name}.url", "sends the API key unencrypted: it has to begin with https://")


def is_loopback(host: str) -> bool:
    """Whether a host of a URL is this machine, so that nobody can listen in.

    >>> is_loopback("127.0.0.1"), is_loopback("[::1]"), is_loopback("localhost"), is_loopback("example.com")
    (True, True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


async def _reach(name: str, emp: EmpSettings) -> Finding:
    """Connect, agree on TLS as the lanes do, and hang up."""
    subject, secure = f"host of {name}", emp.url.scheme == "https"
    host, port = (emp.url.host or "").strip("[]"), emp.url.port or (443 if secure else 80)
    try:
        context = client.tls(emp) if secure else None
    except ConfigurationError as error:
        return problem(subject, str(error))
    if emp.proxy is not None:
        return ok(subject, f"{host}:{port} is behind {emp.proxy.host}: it was not tried to reach it")
    try:
        async with asyncio.timeout(REACH_S):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
    except UnicodeError:
        said = "that is no name of a host: look at the URL"
    except TimeoutError:
        said = f"no answer within {REACH_S:g} s: is there a firewall in between?"
    except socket.gaierror:
        said = "there is no such name in the DNS, or no DNS: look at the URL"
    except ssl.SSLCertVerificationError as error:
        said = f"its certificate is refused: {error.verify_message}"
    except ssl.SSLError as error:
        said = f"it does not speak TLS as we do: {error.reason or error}"
    except OSError as error:
        said = f"it cannot be reached: {os.strerror(error.errno) if error.errno else error}"
    else:
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            await writer.wait_closed()
        return ok(subject, f"{host}:{port} can be reached" + (", and its certificate is good" if secure else "") + "; nothing was sent")
    return problem(subject, f"{host}:{port}: {said}")
