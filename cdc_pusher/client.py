"""One EMP over HTTP: sends one message, and whatever happens comes back as an `Answer` or a `Failure`. Never retries, never logs.

By aiohttp, which takes a quarter of the processor time of httpx, also of httpx over aiohttp (ARCHITECTURE.md, "HTTP"). Redirects are never
followed (the key would go along), no proxy or certificate is taken from the environment, and of an answer at most 64 KB are read.
"""

import asyncio
import base64
import ssl
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import replace
from types import TracebackType
from typing import Any

import aiohttp
import httpx

from cdc_pusher import __version__, oioi
from cdc_pusher.config import EmpSettings
from cdc_pusher.errors import ConfigurationError
from cdc_pusher.keyfile import require_private
from cdc_pusher.model import Answer, Failure, Kind, Payload

ANSWER_LIMIT = 64 * 1024  # bytes
_in_time: ContextVar[Callable[[], bool]] = ContextVar("in_time")  # of the request that this task is about to send


class TooLate(Exception):
    """The request was not sent: when the connection was there, it was no longer ours to send."""


class _Connector(aiohttp.TCPConnector):
    """Asks once more when a connection is there, which may have taken long: the process may have been stopped meanwhile."""

    async def connect(self, req: Any, traces: Any, timeout: aiohttp.ClientTimeout) -> Any:  # noqa: ASYNC109  # theirs
        connection = await super().connect(req, traces, timeout)
        if not _in_time.get()():
            connection.close()
            raise TooLate
        return connection


class EmpClient:
    """An async context manager; `send` may run any number of times at once."""

    _http: aiohttp.ClientSession

    def __init__(self, settings: EmpSettings) -> None:
        assert settings.api_key is not None, "config.load has seen to it"
        self._url = str(settings.url)
        proxy = httpx.Proxy(str(settings.proxy)) if settings.proxy else None  # with the credentials apart: errors repeat its address
        self._proxy = str(proxy.url) if proxy else None
        credentials = base64.b64encode(":".join(proxy.auth).encode()).decode() if proxy and proxy.auth else None
        self._proxy_headers = {"Proxy-Authorization": f"Basic {credentials}"} if credentials else None
        self._partner_identifier = settings.partner_identifier
        self._timeout_s = settings.request_timeout_s
        self._connect_timeout_s = min(settings.connect_timeout_s, self._timeout_s)
        self._read_timeout_s = min(settings.read_timeout_s or self._timeout_s, self._timeout_s)
        self._concurrency = settings.concurrency
        self._secret = settings.api_key.get_secret_value()
        # Of each request, not of the session: aiohttp would send those to the proxy, too, with the key as the credentials.
        self._headers = {**oioi.headers(self._secret), "Accept": "application/json", "User-Agent": f"cdc-pusher/{__version__}"}
        if self._url.startswith("http:"):  # the proxy reads the request itself
            self._headers |= self._proxy_headers or {}
        self._tls = tls(settings)

    async def __aenter__(self) -> "EmpClient":
        self._http = aiohttp.ClientSession(
            connector=_Connector(ssl=self._tls, limit=self._concurrency),
            skip_auto_headers=("Accept-Encoding",),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(sock_connect=self._connect_timeout_s, sock_read=self._read_timeout_s),
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._http.close()

    async def send(self, kind: Kind, payload: Payload, in_time: Callable[[], bool] = lambda: True) -> Answer | Failure:
        """Send one message and read the answer, all within `request_timeout_s` seconds.

        Raises `TooLate` if `in_time`, asked when there is a connection, says so: then nothing was sent.
        """
        _in_time.set(in_time)
        content = oioi.body(kind, payload, partner_identifier=self._partner_identifier)
        proxy: dict[str, Any] = {"proxy": self._proxy, "proxy_headers": self._proxy_headers}
        post = self._http.post(self._url, data=content, headers=self._headers, allow_redirects=False, **proxy)
        try:
            async with asyncio.timeout(self._timeout_s), post as response:
                received = await _read(response)
        except TooLate:
            raise
        except aiohttp.ClientError as error:
            return self._failure(error)
        except TimeoutError:
            return Failure(error=f"no answer within {self._timeout_s:g} s", timed_out=True)
        except Exception as error:  # of ssl and the rest that aiohttp lets through
            return self._failure(error)
        # An EMP may repeat the key in an error; nothing of it may reach a table or a log. Once more when JSON's escapes are undone.
        received = received.replace(self._secret.encode(), b"[key]")
        answer = oioi.decode(response.status, received, kind=kind, retry_after=response.headers.get("Retry-After"))
        return replace(answer, message=answer.message.replace(self._secret, "[key]")) if self._secret in answer.message else answer

    def _failure(self, error: Exception) -> Failure:
        never_sent = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
        return Failure(error=_words(error, self._secret), applied=not never_sent, timed_out=isinstance(error, TimeoutError))


def tls(settings: EmpSettings) -> ssl.SSLContext:
    """How we speak TLS with the EMP: its certificate is always verified, by `ca_file` or the authorities that everybody trusts.

    Raises `ConfigurationError`: a file that cannot be read, or holds no certificate or key, or a key that everybody may read.
    """
    try:
        context = ssl.create_default_context(cafile=settings.ca_file) if settings.ca_file else httpx.create_ssl_context(trust_env=False)
        context.minimum_version = ssl.TLSVersion.TLSv1_2  # where a distribution leaves that to a file of its own
        if settings.client_certificate_file:
            require_private(settings.client_key_file or settings.client_certificate_file, "the client certificate's key file")
            context.load_cert_chain(settings.client_certificate_file, settings.client_key_file, password=_no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        files = [str(file) for file in (settings.ca_file, settings.client_certificate_file, settings.client_key_file) if file]
        said = getattr(error, "reason", None) or error
        raise ConfigurationError(f"certificates in {', '.join(files)}: {said}") from error
    return context


def _no_password() -> str:
    raise ValueError("the key is protected by a password: nobody is there to type it in")


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The first 64 KB of the body."""
    received = bytearray()
    async for part in response.content.iter_any():
        received += part
        if len(received) >= ANSWER_LIMIT:
            break
    return bytes(received[:ANSWER_LIMIT])


def _words(error: Exception, secret: str) -> str:
    """What went wrong, in at most 200 printable characters without the secret.

    >>> _words(aiohttp.SocketTimeoutError(), "s3cret")
    'SocketTimeoutError'
    >>> _words(aiohttp.ClientOSError("refused\\n  with s3cret"), "s3cret")
    'ClientOSError: refused with [key]'
    """
    text = " ".join("".join(c if c.isprintable() else " " for c in str(error).replace(secret, "[key]")).split())
    return f"{type(error).__name__}: {text}"[:200] if text else type(error).__name__
