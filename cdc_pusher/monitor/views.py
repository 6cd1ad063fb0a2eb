"""The views there are: one list, from which the pages, the JSON and its description are made.

A view is a function: its parameters are those of the address, its answer is a frozen value whose docstrings are the documentation.
"""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cdc_pusher import __version__
from cdc_pusher.errors import CdcPusherError
from cdc_pusher.monitor import overview, places, problems, searching, station
from cdc_pusher.monitor.looking import Eyes


class BadRequest(CdcPusherError):
    """A parameter is not there, or nonsense."""


@dataclass(frozen=True)
class View:
    """`path` is that of the page, and under /api that of the JSON; `template` None: there is only JSON."""

    path: str
    look: Callable[..., Awaitable[Any]]
    template: str | None = None

    @cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        return {name: one for name, one in inspect.signature(self.look).parameters.items() if name != "eyes"}

    @cached_property
    def answer(self) -> TypeAdapter[Any]:
        return TypeAdapter(inspect.signature(self.look).return_annotation)

    @property
    def api_path(self) -> str:
        return f"/api{self.path if self.path != '/' else '/overview'}"

    async def read(self, eyes: Eyes, given: Mapping[str, str]) -> Any:
        """Look, with these parameters. Raises `BadRequest`, and what looking raises."""
        if unknown := sorted(given.keys() - self.parameters.keys()):
            raise BadRequest(f"no such parameter: {', '.join(unknown)}; there is {', '.join(self.parameters) or 'none'}")
        values = {}
        for name, parameter in self.parameters.items():
            if given.get(name):
                values[name] = _value(name, given[name], parameter)
            elif parameter.default is parameter.empty:
                raise BadRequest(f"{name} is missing")
        return await self.look(eyes, **values)


def _value(name: str, text: str, parameter: inspect.Parameter) -> Any:
    if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in text):
        raise BadRequest(f"{name}: has characters that no database holds")
    try:
        return TypeAdapter(parameter.annotation).validate_strings(text)
    except ValidationError as error:
        raise BadRequest(f"{name}: {error.errors()[0]['msg']}") from None


VIEWS = (
    View("/", overview.look, "overview.html"),
    View("/problems", problems.look, "problems.html"),
    View("/stations/{station_id:path}", station.look, "station.html"),
    View("/search", searching.look, "search.html"),
    View("/map", places.look),
    View("/map/behind", places.behind),
)


def openapi() -> dict[str, Any]:
    """The description of all that is under /api, by OpenAPI 3.1."""
    paths, schemas = {}, {}
    for view in VIEWS:
        schema = view.answer.json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        paths[view.api_path.replace(":path", "")] = {
            "get": {
                "summary": (inspect.getdoc(view.look) or "").splitlines()[0],
                "parameters": [_parameter(view, name, one) for name, one in view.parameters.items()],
                "responses": {
                    "200": {"description": schema.get("description", ""), "content": {"application/json": {"schema": schema}}},
                    **{status: {"$ref": "#/components/responses/Error"} for status in ("400", "404", "503")},
                },
            }
        }
    error = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "cdc-pusher", "version": __version__, "description": "What the EMPs know, and what they do not. Reads only."},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {"Error": {"description": "What is wrong, in one line", "content": {"application/json": {"schema": error}}}},
        },
    }


def _parameter(view: View, name: str, one: inspect.Parameter) -> dict[str, Any]:
    in_path = f"{{{name}" in view.path
    return {
        "name": name,
        "in": "path" if in_path else "query",
        "required": one.default is one.empty,
        "schema": TypeAdapter(one.annotation).json_schema(),
    }
