"""The status page with 100,000 stations and 400,000 EVSEs, of which 20,000 messages wait, while a walk goes through all of them.

The outbox is filled by SQL, as if an EMP had accepted everything. First paint is Chromium's own figure (skipped where there is none), the
rest is the time that an answer takes over HTTP. All of it on one machine, with everything else that runs.
"""

import json
import re
import shutil
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psycopg

from bench.large import CONFIG, FILL, REFERENCE_SCHEMA, STATIONS
from bench.processes import cdc_pusher, configured
from bench.result import Result
from cdc_pusher.embedded import EmbeddedPostgres

TIMES = 9
DELIVERED = (
    "INSERT INTO cdc_pusher.emp (name) VALUES ('bench')",
    """INSERT INTO cdc_pusher.outbox (emp, kind, key, station_id, payload, acknowledged, desired_gen, delivered_gen, state, delivered_at)
    SELECT 'bench', 'station', s.id, s.id, m.payload, m.payload, 1, 1, 'delivered', now()
    FROM station AS s
    CROSS JOIN LATERAL (SELECT jsonb_build_object(
        'id', s.id, 'name', s.name, 'latitude', s.latitude, 'longitude', s.longitude, 'deleted', false, 'cpo-id', 'DE*8PS',
        'address', jsonb_build_object('street', s.street, 'city', s.city, 'zip', s.zip),
        'connectors', (SELECT jsonb_agg(jsonb_build_object('id', c.evse_id)) FROM connector AS c WHERE c.station_id = s.id)
    ) AS payload) AS m""",
    """INSERT INTO cdc_pusher.outbox (emp, kind, key, station_id, payload, acknowledged, desired_gen, delivered_gen, state, delivered_at)
    SELECT 'bench', 'status', evse_id, station_id, m.payload, m.payload, 1, 1, 'delivered', now()
    FROM connector
    CROSS JOIN LATERAL (SELECT jsonb_build_object('connector-id', evse_id, 'status', status) AS payload) AS m""",
    """UPDATE cdc_pusher.outbox SET state = 'pending', desired_gen = 2, next_attempt_at = now(), changed_at = now()
    WHERE kind = 'status' AND key LIKE '%5*1'""",
    """UPDATE cdc_pusher.outbox SET state = 'held', reason = 'country: ''XX'' is no country', desired_gen = 2, changed_at = now()
    WHERE kind = 'station' AND key LIKE '%77'""",
    "VACUUM ANALYZE cdc_pusher.outbox",
)
PAINTED = """() => new Promise((paint) => new PerformanceObserver((list) => {
  for (const entry of list.getEntriesByName("first-contentful-paint")) paint(entry.startTime);
}).observe({ type: "paint", buffered: true }))"""
WORDS = ("Station 4711", "street 4999", "city 299", "s777", "DE*8PS*E4711*", "station", "nothing at all", "de*8ps*e99999*1")


def run() -> list[Result]:
    with EmbeddedPostgres(settings={"fsync": "off"}) as server, TemporaryDirectory() as directory:
        config = Path(directory) / "config.toml"
        configured(config, CONFIG.format(dsn=json.dumps(server.dsn()), interval=1e6) + '[monitoring]\nlisten = "127.0.0.1:0"\n')
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            for statement in (REFERENCE_SCHEMA.read_text(), *FILL):
                conn.execute(statement.encode())
            with cdc_pusher("migrate", "--config", str(config)) as process:
                process.wait()
            for statement in DELIVERED:
                conn.execute(statement.encode())
        log = Path(directory) / "log"
        with log.open("w") as stderr, cdc_pusher("run", "--config", str(config), stderr=stderr):
            url = _address(log)
            return [*_first_paint(url), *_answers(url)]


def _address(log: Path) -> str:
    deadline = time.monotonic() + 60
    while (found := re.search(r'"address": "([^"]+)", "event": "metrics are served"', log.read_text())) is None:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    return f"http://{found[1]}"


def _answers(url: str) -> list[Result]:
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:

        def slowest(path: str, **parameters: str) -> float:
            times = []
            for _ in range(TIMES):
                began = time.monotonic()
                http.get(path, params=parameters).raise_for_status()
                times.append(time.monotonic() - began)
            return max(times) * 1000

        searches = {words: slowest("/search", text=words) for words in WORDS}
        worst = max(searches, key=searches.__getitem__)
        began, stations = time.monotonic(), 0
        after: str | None = ""
        while after is not None:
            page = http.get("/api/map", params={"emp": "bench", **({"after": after} if after else {})}).raise_for_status().json()
            stations, after = stations + len(page["stations"]), page["after"]
        return [
            Result(name=f"search: the slowest of {len(WORDS)} x {TIMES}", value=searches[worst], unit="ms", at_most=300.0, note=worst),
            Result(name="overview: slowest answer", value=slowest("/"), unit="ms"),
            Result(name="problems: slowest answer", value=slowest("/problems"), unit="ms"),
            Result(name="station: slowest answer", value=slowest("/stations/s4711"), unit="ms"),
            Result(name="map, those behind: slowest answer", value=slowest("/api/map/behind", emp="bench"), unit="ms"),
            Result(name="map, all of it", value=time.monotonic() - began, unit="s", note=f"{stations} stations of {STATIONS}"),
        ]


def _first_paint(url: str) -> list[Result]:
    chromium = shutil.which("chromium")
    if chromium is None:
        return []
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
        times = []
        for _ in range(TIMES):
            page = browser.new_page()
            page.goto(url)
            times.append(page.evaluate(PAINTED))
            page.close()
        browser.close()
    return [
        Result(name="overview: first paint, median", value=statistics.median(times), unit="ms", at_most=1000.0),
        Result(name="overview: first paint, slowest", value=max(times), unit="ms"),
    ]
