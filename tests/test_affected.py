"""A change of a row that stations share: its sub-select is asked after the commit, and every station that it concerns is captured."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hand import Hand, hand
from rig import Rig, rig

from cdc_pusher import capture, triggers
from cdc_pusher.config import SourceSettings
from cdc_pusher.database import connect

TABLES = (
    'CREATE TABLE "Place" (id int PRIMARY KEY, "cityName" text)',
    """INSERT INTO "Place" VALUES (1, 'Berlin'), (2, 'Bonn')""",
    'CREATE TABLE stands (station text REFERENCES station, place int REFERENCES "Place")',
)
PLACE = {
    "table": 'public."Place"',
    "columns": ["cityName"],
    "station": "SELECT s.station FROM public.stands AS s WHERE s.place = \"Place\".id AND '%' = '%'",
}


def source(**place: object) -> SourceSettings:
    default = SourceSettings()
    return SourceSettings.model_validate(
        {
            "stations": 'SELECT s.id AS station_id, p."cityName" AS city, s.name, s.latitude, s.longitude, s.street, s.street_number,'
            " s.zip, s.country, s.phone, s.cpo, s.is_open_24 FROM public.station AS s JOIN public.stands AS t ON t.station = s.id"
            ' JOIN public."Place" AS p ON p.id = t.place',
            "watch": [*default.watch, {"table": "public.stands", "station": "station"}, {**PLACE, **place}],
        }
    )


@asynccontextmanager
async def watching(cpo: Rig, settings: SourceSettings, *emps: str) -> AsyncIterator[Hand]:
    async with await connect(cpo.dsn, "test") as conn:
        await triggers.attach(conn, settings.watch)
    async with hand(cpo.dsn, *emps, source=settings) as daemon:
        await daemon.capture()
        for emp in emps or ("a",):
            await daemon.deliver(emp)
        yield daemon


@pytest.fixture
async def cpo(dsn: str, tmp_path: Path) -> AsyncIterator[Rig]:
    """Three stations in Berlin."""
    async with rig(dsn, tmp_path) as made:
        for statement in TABLES:
            await made.sql(statement)
        await made.build("s1", "s2", "s3")
        await made.sql("INSERT INTO stands SELECT id, 1 FROM station")
        yield made


async def cities(cpo: Rig, emp: str = "a") -> dict[str, str]:
    rows = await cpo.sql(
        "SELECT key, payload #>> '{address,city}' AS city FROM cdc_pusher.outbox WHERE kind = 'station' AND emp = %(emp)s", emp=emp
    )
    return {row["key"]: row["city"] for row in rows}


async def test_change_of_a_shared_row_reaches_each_of_its_stations(cpo: Rig) -> None:
    async with watching(cpo, source()) as daemon:
        await cpo.sql("""UPDATE "Place" SET "cityName" = 'Potsdam'""")
        assert await cpo.sql("SELECT station_id, source_row FROM cdc_pusher.change ORDER BY id") == [
            {"station_id": None, "source_row": {"id": "1"}},
            {"station_id": None, "source_row": {"id": "2"}},
        ]
        await daemon.capture()
        assert await cities(cpo) == dict.fromkeys(("s1", "s2", "s3"), "Potsdam")
        assert await cpo.value("SELECT walk FROM cdc_pusher.emp") is None
        changed = await cpo.value("SELECT max(changed_at) < now() AND min(changed_at) > now() - interval '1 min' FROM cdc_pusher.outbox")
        assert changed, "the age is that of the change"


async def test_station_that_moves_there_while_the_row_changes_gets_the_new_content(cpo: Rig) -> None:
    """Neither transaction sees the other; the one of the row, which commits last, does not know the station."""
    await cpo.sql("UPDATE stands SET place = 2 WHERE station = 's3'")
    async with watching(cpo, source()) as daemon, await connect(cpo.dsn, "mover") as mover, await connect(cpo.dsn, "editor") as editor:
        async with editor.transaction():
            await editor.execute("""UPDATE "Place" SET "cityName" = 'Potsdam' WHERE id = 1""")
            await mover.execute("UPDATE stands SET place = 1 WHERE station = 's3'")
            await daemon.capture()
            assert (await cities(cpo))["s3"] == "Berlin"
        await daemon.capture()
        assert await cities(cpo) == dict.fromkeys(("s1", "s2", "s3"), "Potsdam")


async def test_every_emp_gets_it_whoever_captures(cpo: Rig) -> None:
    async with watching(cpo, source(), "a", "b") as both, hand(cpo.dsn, "a", "b", source=source()) as other:
        only_a = Hand(both.settings.model_copy(update={"emp": {"a": both.settings.emp["a"]}}), other.conn, other.source)
        await cpo.sql("""UPDATE "Place" SET "cityName" = 'Potsdam' WHERE id = 1""")
        await only_a.capture()
        assert (await cities(cpo, "a"))["s1"] == "Potsdam"
        assert (await cities(cpo, "b"))["s1"] == "Berlin"
        await both.capture()
        assert (await cities(cpo, "b"))["s1"] == "Potsdam"


async def test_more_stations_than_fit_are_gone_through_page_by_page(cpo: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "AFFECTED_LIMIT", 2)
    async with watching(cpo, source()) as daemon:
        await cpo.sql("""UPDATE "Place" SET "cityName" = 'Potsdam' WHERE id = 1""")
        await capture.batch(daemon.conn, daemon.source, capture.receivers(daemon.settings), 100)
        assert await cpo.value("SELECT walk FROM cdc_pusher.emp") == "resync"
        await daemon.capture()
        assert await cities(cpo) == dict.fromkeys(("s1", "s2", "s3"), "Potsdam")


@pytest.mark.parametrize(
    "trouble",
    [
        "UPDATE cdc_pusher.change SET watch = 'cdc_pusher_00000000'",
        "ALTER TABLE stands RENAME COLUMN place TO site",
        """UPDATE cdc_pusher.change SET source_row = '{"id": "x"}'""",
        "UPDATE cdc_pusher.change SET source_row = '7'",
    ],
)
async def test_row_that_cannot_be_looked_up_has_all_stations_gone_through(cpo: Rig, trouble: str) -> None:
    settings = source()
    narrow = settings.stations.replace("t.place", '(SELECT p.id FROM public."Place" AS p ORDER BY id LIMIT 1)')
    async with watching(cpo, settings.model_copy(update={"stations": narrow})) as daemon:
        await cpo.sql("""UPDATE "Place" SET "cityName" = 'Potsdam' WHERE id = 1""")
        await cpo.sql(trouble)
        await daemon.capture()
        assert await cities(cpo) == dict.fromkeys(("s1", "s2", "s3"), "Potsdam")
        assert daemon.healed == {}


@pytest.mark.parametrize(
    ("station", "trouble"),
    [
        ('SELECT s.station FROM public.stands AS s, (SELECT pg_sleep(5)) AS p WHERE s.place = "Place".id', "SELECT 1"),
        ('SELECT station FROM public.depth(1) AS d (station) WHERE "Place".id = 1', "SELECT 1"),
        ('SELECT station FROM public.stood WHERE "Place".id = 1', "REFRESH MATERIALIZED VIEW stood WITH NO DATA"),
    ],
)
async def test_lookup_that_cannot_end_has_all_stations_gone_through_and_stops_nothing(
    cpo: Rig, station: str, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdc_pusher.source.AFFECTED_TIMEOUT", "200ms")
    await cpo.sql("CREATE MATERIALIZED VIEW stood AS SELECT station FROM stands")
    await cpo.sql("CREATE FUNCTION depth(n int) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN public.depth(n + 1); END'")
    async with watching(cpo, source(station=station)) as daemon:
        await cpo.sql(trouble)
        await cpo.sql("""UPDATE "Place" SET "cityName" = 'Potsdam' WHERE id = 1""")
        await daemon.capture()
        assert await cities(cpo) == dict.fromkeys(("s1", "s2", "s3"), "Potsdam")
        assert daemon.healed == {}


async def test_other_columns_that_may_not_be_null_do_not_matter(cpo: Rig) -> None:
    await cpo.sql("CREATE DOMAIN filled AS text NOT NULL")
    await cpo.sql("""ALTER TABLE "Place" ADD note filled DEFAULT 'x'""")
    async with watching(cpo, source()) as daemon:
        await cpo.sql("""UPDATE "Place" SET "cityName" = 'Potsdam' WHERE id = 1""")
        await capture.batch(daemon.conn, daemon.source, capture.receivers(daemon.settings), 100)
        assert await cpo.value("SELECT count(*) FROM cdc_pusher.change WHERE station_id IS NOT NULL") == 3
        assert await cpo.value("SELECT walk FROM cdc_pusher.emp") is None


async def test_table_and_its_watch_may_have_a_percent_sign(cpo: Rig) -> None:
    await cpo.sql('ALTER TABLE "Place" RENAME TO "Pl%%ce"')
    settings = source(table='public."Pl%ce"', station='SELECT s.station FROM public.stands AS s WHERE s.place = "Pl%ce".id')
    settings = settings.model_copy(update={"stations": settings.stations.replace('"Place"', '"Pl%ce"')})
    async with watching(cpo, settings) as daemon:
        await cpo.sql("""UPDATE "Pl%%ce" SET "cityName" = 'Potsdam' WHERE id = 1""")
        await daemon.capture()
        assert await cities(cpo) == dict.fromkeys(("s1", "s2", "s3"), "Potsdam")
        assert await cpo.value("SELECT walk_no FROM cdc_pusher.emp") == 0
