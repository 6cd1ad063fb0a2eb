"""What is under /api: as described, the same as the pages show, and refused clearly when the question is nonsense."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jsonschema
import pytest
import pytest_asyncio
from psycopg.conninfo import make_conninfo
from rig import CONNECTOR, KEY, STATION, connected, until

from cdc_pusher.monitor.views import VIEWS, openapi
from page.scene import Scene, fails

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(made: Scene) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=made.url, trust_env=False) as client:
        yield client


async def asked(http: httpx.AsyncClient, path: str, **parameters: str) -> Any:
    return (await http.get(f"/api{path}", params=parameters)).raise_for_status().json()


def everything(made: Scene) -> list[tuple[str, dict[str, str]]]:
    """Every page, and every answer under /api, with parameters."""
    of = {"/map": {"emp": "roamer"}, "/map/behind": {"emp": "roamer"}, "/search": {"text": "straße"}}
    found = []
    for view in VIEWS:
        path, parameters = view.path.replace("{station_id:path}", made.rejected), of.get(view.path, {})
        found.append((view.api_path.replace("{station_id:path}", made.rejected), parameters))
        if view.template is not None or path == "/map":
            found.append((path, parameters))
    return found


async def test_every_answer_is_as_described(made: Scene, http: httpx.AsyncClient) -> None:
    described = await asked(http, "/openapi.json")
    assert described == json.loads(json.dumps(openapi()))
    parameters = {"/api/map": {"emp": "roamer"}, "/api/map/behind": {"emp": "roamer"}, "/api/search": {"text": "straße"}}
    assert len(described["paths"]) == len(VIEWS)
    for path, methods in described["paths"].items():
        assert list(methods) == ["get"]
        assert methods["get"]["summary"]
        found = await asked(http, path.removeprefix("/api").replace("{station_id}", made.rejected), **parameters.get(path, {}))
        schema = methods["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(found, {**schema, "components": described["components"], "unevaluatedProperties": False})


async def test_station_says_what_the_database_has_beside_what_the_emp_was_told(made: Scene, http: httpx.AsyncClient) -> None:
    station = made.fleet.stations[30].station_id
    before = await asked(http, f"/stations/{station}")
    assert [emp["emp"] for emp in before["emps"]] == ["driveline", "roamer"]
    assert [f["name"] for emp in before["emps"] for f in emp["fields"] if f["differs"]] == []
    # Behind the back of the triggers, so that it stays as it is.
    await made.rigged.sql("SET session_replication_role = replica")
    try:
        await made.rigged.sql("UPDATE station SET name = 'Another' WHERE id = %(id)s", id=station)
        await made.rigged.sql("UPDATE connector SET status = 'Reserved' WHERE station_id = %(id)s", id=station)
    finally:
        await made.rigged.sql("RESET session_replication_role")
    after = await asked(http, f"/stations/{station}")
    for emp in after["emps"]:
        assert [(f["name"], f["database"]) for f in emp["fields"] if f["differs"]] == [("name", "Another")]
        assert {s["database"] for s in emp["statuses"]} == {"Reserved"}
        assert any(s["differs"] for s in emp["statuses"])
    assert {a["kind"] for a in after["attempts"]} == {"station", "status"}
    assert after["attempts"] == sorted(after["attempts"], key=lambda a: a["sent_at"], reverse=True)


async def test_what_cannot_be_sent_says_why(made: Scene, http: httpx.AsyncClient) -> None:
    held = await asked(http, f"/stations/{made.held}")
    assert all("Neverland" in emp["wrong"] and "Neverland" in emp["reason"] for emp in held["emps"])
    found = await asked(http, "/problems", emp="driveline", state="held", text="neverland")
    assert [(one["key"], one["kind"]) for one in found["problems"]] == [(made.held, "station")]
    assert [(one["messages"], "Neverland" in one["reason"]) for one in found["groups"]] == [(1, False)]


async def test_station_is_found_by_an_evse_of_it_and_before_it_is_captured(made: Scene, http: httpx.AsyncClient) -> None:
    station = made.fleet.stations[70]
    assert (await asked(http, f"/stations/{station.connectors[0].evse_id}"))["station_id"] == station.station_id
    await made.rigged.sql("SET session_replication_role = replica")
    try:
        await made.rigged.sql(STATION, ids=["new/../one"])
        await made.rigged.sql(CONNECTOR, stations=["new/../one"], evses=["DE*8PS*ENEW*1"])
        found = await asked(http, "/stations/new%2F..%2Fone")
        await made.rigged.sql("DELETE FROM connector WHERE station_id = 'new/../one'")
        await made.rigged.sql("DELETE FROM station WHERE id = 'new/../one'")
    finally:
        await made.rigged.sql("RESET session_replication_role")
    assert [(emp["emp"], emp["state"]) for emp in found["emps"]] == [("driveline", "not captured yet"), ("roamer", "not captured yet")]
    assert [(s["evse_id"], s["database"], s["told"]) for s in found["emps"][0]["statuses"]] == [("DE*8PS*ENEW*1", "Available", None)]


async def test_nothing_differs_where_nothing_can_be_compared(made: Scene, http: httpx.AsyncClient) -> None:
    station = made.fleet.stations[80].station_id
    await made.rigged.sql("ALTER TABLE station RENAME COLUMN city TO town")
    try:
        found = await asked(http, f"/stations/{station}")
    finally:
        await made.rigged.sql("ALTER TABLE station RENAME COLUMN town TO city")
    assert "city" in found["unread"]
    for emp in found["emps"]:
        assert len(emp["fields"]) > 10
        assert not any(one["differs"] for one in [*emp["fields"], *emp["statuses"]])
    await made.rigged.sql("UPDATE station SET country = 'Nowhere' WHERE id = %(id)s", id=station)
    await made.rigged.quiet()
    found = await asked(http, f"/stations/{station}")
    assert all("Nowhere" in emp["wrong"] and not any(one["differs"] for one in emp["fields"]) for emp in found["emps"])
    assert ["country", "Nowhere"] in found["columns"]


async def test_station_that_is_gone_is_said_to_be_gone(made: Scene, http: httpx.AsyncClient) -> None:
    station = made.fleet.stations[50].station_id
    await made.rigged.sql("DELETE FROM connector WHERE station_id = %(id)s", id=station)
    await made.rigged.sql("DELETE FROM station WHERE id = %(id)s", id=station)
    await made.rigged.quiet()
    found = await asked(http, f"/stations/{station}")
    assert all(emp["deleted"] and "does not return it" in emp["wrong"] for emp in found["emps"])


@pytest.mark.parametrize("spelled", [str, str.lower])
async def test_everything_is_found_by_how_its_id_begins(made: Scene, http: httpx.AsyncClient, spelled: Any) -> None:
    station = made.fleet.stations[60]
    evse = station.connectors[0].evse_id
    assert station.station_id in [hit["key"] for hit in (await asked(http, "/search", text=spelled(station.station_id[:-1])))["hits"]]
    hits = (await asked(http, "/search", text=spelled(evse)))["hits"]
    assert [(hit["key"], hit["station_id"]) for hit in hits if hit["key"] == evse] == [(evse, station.station_id)]
    assert [emp for emp, _ in next(hit for hit in hits if hit["key"] == evse)["states"]] == ["driveline", "roamer"]


async def test_stations_are_found_by_words_of_name_and_place(made: Scene, http: httpx.AsyncClient) -> None:
    station = made.fleet.stations[60]
    words = f"{str(station.street).split()[0][:5]} {str(station.city)[:4]}"
    assert station.station_id in [hit["key"] for hit in (await asked(http, "/search", text=words))["hits"]]
    assert (await asked(http, "/search", text="xyzzy"))["hits"] == []
    names = {
        "P+R Nord/Ost": ("Ost", "Nord/Ost"),
        "A7/E45 Rast": ("e45",),
        "St.Gallen Halle-7": ("St.Gallen", "gallen 7"),
        "L'Or": ("L'Or",),
    }
    for name, words_of_it in names.items():
        await made.rigged.sql("UPDATE station SET name = %(name)s WHERE id = %(id)s", name=name, id=station.station_id)
        await made.rigged.quiet()
        for text in words_of_it:
            assert station.station_id in [hit["key"] for hit in (await asked(http, "/search", text=text))["hits"]], (name, text)
    assert (await asked(http, "/search", text="' | & !('"))["hits"] == []


async def test_map_has_every_station_once_page_by_page(made: Scene, http: httpx.AsyncClient) -> None:
    found: list[tuple[str, float, float]] = []
    after: str | None = ""
    while after is not None:
        page = await asked(http, "/map", emp="driveline", limit="50", **({"after": after} if after else {}))
        found += page["stations"]
        after = page["after"]
    places = {s.station_id: [float(s.longitude), float(s.latitude)] for s in made.fleet.stations}
    assert len({key for key, *_ in found}) == len(found) > 100
    assert all(places[key] == pytest.approx([x, y]) for key, x, y in found)


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/api/map", 400, "emp is missing"),
        ("/api/map?emp=roamer&limit=0", 400, "limit: "),
        ("/api/map?emp=roamer&limit=x", 400, "limit: "),
        ("/api/problems?state=pending", 400, "state: "),
        ("/api/problems?what=else", 400, "no such parameter: what"),
        ("/api/problems?text=%00", 400, "text: "),
        ("/api/stations/nobody%27s", 404, "nobody's"),
        ("/api/nothing", 404, "Not Found"),
        ("/stations/%1b%5b31m", 404, "'\\x1b[31m'"),
        ("/api/stations/a%c2%a0b", 404, "a\\xa0b"),
        ("/stations/x%2F..%2Fy", 404, "'x/../y'"),
    ],
)
async def test_nonsense_is_refused_in_one_line(http: httpx.AsyncClient, path: str, status: int, said: str) -> None:
    answer = await http.get(path)
    assert answer.status_code == status
    line = answer.json()["error"] if path.startswith("/api") else answer.text.rstrip("\n")
    assert said in line
    assert line.isprintable()


async def test_no_answer_holds_a_key_or_how_to_connect(made: Scene, http: httpx.AsyncClient) -> None:
    for path, parameters in everything(made):
        answer = await http.get(path, params=parameters, headers={"Accept": "text/html"})
        assert answer.status_code == 200, path
        assert KEY not in answer.text
        assert made.rigged.dsn not in answer.text
    # A database that lets nobody in says its name, its address and the user, but not here.
    database = str(await made.rigged.value("SELECT current_database()"))
    elsewhere = await connected(make_conninfo(made.rigged.dsn, dbname="postgres"))
    try:
        await elsewhere.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false".encode())
        for path, parameters in everything(made):
            answer = await http.get(path, params=parameters)
            assert answer.status_code == (503 if path != "/map" else 200), path
            assert [word for word in (KEY, f'database "{database}"', "postgres", "/tmp/", "socket") if word in answer.text] == [], (
                answer.text
            )
    finally:
        await elsewhere.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true".encode())
        await elsewhere.close()


async def test_of_many_problems_those_that_are_asked_for_are_found(made: Scene, http: httpx.AsyncClient) -> None:
    filled = """INSERT INTO cdc_pusher.outbox (emp, kind, key, station_id, state, reason, changed_at)
        SELECT 'driveline', 'status', 'many' || n, 'many', 'held', 'status: ' || quote_literal('x' || n) || ' is wrong', now()
        FROM generate_series(1, 10500) AS n"""
    await made.rigged.sql(filled)
    try:
        (one,) = (await asked(http, "/problems", text="MANY10500"))["problems"]
        assert one["key"] == "many10500"
        found = await asked(http, "/problems")
        assert found["are_more"]
        assert len(found["problems"]) == 200
        assert found["groups"][0]["reason"] == "status: … is wrong"
        assert made.rejected in [one["key"] for one in (await asked(http, "/problems", emp="roamer"))["problems"]]
        assert {one["emp"] for one in found["groups"]} == {"driveline", "roamer"}
    finally:
        await made.rigged.sql("DELETE FROM cdc_pusher.outbox WHERE station_id = 'many'")


async def test_whoever_leaves_is_worked_for_no_longer(made: Scene, http: httpx.AsyncClient) -> None:
    host, _, port = made.url.removeprefix("http://").partition(":")
    blocker = await connected(made.rigged.dsn)
    try:
        await blocker.execute("BEGIN")
        await blocker.execute("LOCK TABLE cdc_pusher.minute")
        for _ in range(100):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await writer.drain()
            writer.transport.abort()

        async def nobody_looks() -> bool:
            looks = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cdc-pusher page' AND datname = current_database()"
            return bool(await made.rigged.value(looks) == 0)

        await until(nobody_looks, "nobody is looked for any more", 4.0)
    finally:
        await blocker.close()
    assert (await http.get("/")).status_code == 200


async def test_what_fails_is_seen_at_once_and_the_minute_tells_of_it(made: Scene, http: httpx.AsyncClient) -> None:
    await fails(made)

    async def roamer() -> Any:
        return next(emp for emp in (await asked(http, "/overview"))["emps"] if emp["name"] == "roamer")

    async def is_told() -> bool:
        found = await roamer()
        return bool(found["state"] == "fails" and found["minutes"] and found["minutes"][-1]["failed"] > 0)

    await until(is_told, "the overview tells of it", 60)
    found = await roamer()
    assert not found["is_well"]
    assert "HTTP 503" in found["breaker_reason"]
    assert "HTTP 503" in found["last_error"]
    assert sum(minute["delivered"] for minute in found["minutes"]) > 100
    assert 0 < found["minutes"][0]["lag_p50_s"] <= found["minutes"][0]["lag_p99_s"] < 60
    overview = await asked(http, "/overview")
    assert any("roamer fails" in one for one in overview["wrong"])
    assert next(emp for emp in overview["emps"] if emp["name"] == "driveline")["is_well"]
    made.bad.set_faults([])
    await made.rigged.quiet()
