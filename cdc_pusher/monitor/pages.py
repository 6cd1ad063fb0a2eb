"""Each view as a page for people and as JSON for their scripts; the map and the files that pages need. Never writes anything.

Whatever the tables hold is text: templates escape it, and what moves a cursor or hides is shown as an escape (`plain`).
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib.resources import files
from typing import Any
from urllib.parse import quote, urlencode

import orjson
import psycopg
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from cdc_pusher import __version__
from cdc_pusher.database import one_line
from cdc_pusher.errors import CdcPusherError, DatabaseUnavailable
from cdc_pusher.monitor import plot
from cdc_pusher.monitor.looking import LOOK_S, Eyes
from cdc_pusher.monitor.station import NotFound
from cdc_pusher.monitor.views import VIEWS, BadRequest, View, openapi
from cdc_pusher.plain import plain

TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
STATIC = {one.name: one.read_bytes() for one in (files(__package__) / "static").iterdir() if one.name.rpartition(".")[2] in TYPES}

Read = Callable[[Request], Awaitable[Any]]


def routes(eyes: Eyes) -> list[Route]:
    """The routes of all views."""
    found = [Route("/map", partial(_page, eyes, "map.html", _nothing))]
    for view in VIEWS:
        if view.template is not None:
            found.append(Route(view.path, partial(_page, eyes, view.template, partial(_read, eyes, view))))
        found.append(Route(view.api_path, partial(_json, partial(_read, eyes, view))))
    found.append(Route("/api/openapi.json", partial(_json, _openapi)))
    found.append(Route("/static/{name}", _static))
    return found


async def _read(eyes: Eyes, view: View, request: Request) -> Any:
    """What the view says. Raises HTTPException."""
    try:
        async with asyncio.timeout(LOOK_S):
            return await view.read(eyes, {**request.query_params, **request.path_params})
    except NotFound as error:
        raise HTTPException(404, str(error)) from None
    except BadRequest as error:
        raise HTTPException(400, str(error)) from None
    except DatabaseUnavailable:
        raise HTTPException(503, "the database cannot be reached: the daemon's log says why") from None
    except CdcPusherError as error:
        raise HTTPException(503, str(error)) from None
    except TimeoutError:
        raise HTTPException(503, "looking takes too long: the database is busy, or others look, too") from None
    except psycopg.Error as error:
        raise HTTPException(503, f"the database said: {one_line(error)}") from None


async def _nothing(request: Request) -> Any:
    return None


async def _openapi(_: Request) -> Any:
    return openapi()


async def _json(read: Read, request: Request) -> Response:
    return Response(orjson.dumps(await read(request)), media_type="application/json")


async def _page(eyes: Eyes, template: str, read: Read, request: Request) -> Response:
    found = await read(request)
    shared = {"emps": eyes.emps(None), "query": dict(request.query_params), "path": request.url.path, "now": datetime.now(UTC)}
    return HTMLResponse(_templates.get_template(template).render(found=found, **shared))


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if (content := STATIC.get(name)) is None:
        raise HTTPException(404, "no such file")
    return Response(content, media_type=TYPES[name.rpartition(".")[2]])


async def _error(request: Request, error: Exception) -> Response:
    """In the form that was asked for: one line of text, JSON or a page."""
    assert isinstance(error, HTTPException)
    if request.url.path.startswith("/api/"):
        answer: Response = Response(orjson.dumps({"error": error.detail}), error.status_code, media_type="application/json")
    elif "text/html" in request.headers.get("accept", ""):
        page = _templates.get_template("error.html")
        shared = {"emps": [], "query": {}, "path": request.url.path, "now": datetime.now(UTC)}
        answer = HTMLResponse(page.render(status=error.status_code, message=error.detail, **shared), error.status_code)
    else:
        answer = PlainTextResponse(f"{plain(error.detail)}\n", error.status_code)
    answer.headers.update(error.headers or {})
    return answer


EXCEPTION_HANDLERS = {HTTPException: _error}


# ── what templates call ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def duration(seconds: float) -> str:
    """A length of time for people.

    >>> [duration(s) for s in (0.004, 0.25, 3.14159, 75, 3700, 200000)]
    ['4 ms', '250 ms', '3.1 s', '1 min 15 s', '1 h 1 min', '2 d 7 h']
    """
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    for unit, name, below, smaller in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= unit:
            return f"{int(seconds // unit)} {name} {int(seconds % unit // below)} {smaller}"
    raise AssertionError(seconds)


def moment(value: datetime) -> str:
    """A time, to the second, in UTC."""
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def address(*parts: str, **parameters: Any) -> str:
    """An address of ours: the parts of its path, whatever they hold, and the parameters that have a value.

    >>> address("stations", "a/../b?"), address("problems", emp="x&y", state=None)
    ('/stations/a%2F..%2Fb%3F', '/problems?emp=x%26y')
    """
    given = {name: value for name, value in parameters.items() if value}
    return "".join(f"/{quote(part, safe='')}" for part in parts) + (f"?{urlencode(given)}" if given else "")


def _as_text(value: Any) -> Any:
    """What stands in `{{ … }}`: never anything but what can be printed."""
    return plain(value) if isinstance(value, str) and not hasattr(value, "__html__") else "" if value is None else value


_templates = Environment(
    loader=PackageLoader("cdc_pusher.monitor"),
    autoescape=select_autoescape(),
    undefined=StrictUndefined,
    finalize=_as_text,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.globals |= {"version": __version__, "plot": plot, "address": address}
_templates.filters |= {"duration": duration, "moment": moment, "count": "{:,}".format, "fields": asdict}
