"""No station is sent before its EMP was told of its CPO."""

import csv
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hand import Hand, hand
from rig import Rig, rig, until

from cdc_pusher import cpos, enqueue
from cdc_pusher.config import SourceSettings
from cdc_pusher.sandbox import Sandbox, SandboxSettings

UNCONFIRMED = "cpo: is not confirmed for this EMP (cdc-pusher cpo confirm) ('8ps')"


@pytest.fixture
async def cpo(dsn: str, tmp_path: Path) -> AsyncIterator[Rig]:
    """Two stations of 8ps, one of another CPO, one of none that can be told."""
    async with rig(dsn, tmp_path) as made:
        await made.build("s1", "s2", "t1", "u1")
        await made.sql("UPDATE station SET cpo = 'zz' WHERE id = 't1'")
        await made.sql("UPDATE station SET cpo = '' WHERE id = 'u1'")
        yield made


async def reasons(cpo: Rig, emp: str = "a") -> dict[str, str | None]:
    rows = await cpo.sql("SELECT key, reason FROM cdc_pusher.outbox WHERE kind = 'station' AND emp = %(emp)s ORDER BY key", emp=emp)
    return {row["key"]: row["reason"] for row in rows}


async def confirmed(cpo: Rig) -> dict[tuple[str, str], bool]:
    rows = await cpo.sql("SELECT cpo, coalesce(cpo_id, '-') AS cpo_id, confirmed_at IS NOT NULL AS yes FROM cdc_pusher.cpo")
    return {(row["cpo"], row["cpo_id"]): row["yes"] for row in rows}


def registered(daemon: Hand, **options: object) -> Hand:
    emp = daemon.settings.emp["a"].model_copy(update=options)
    return Hand(daemon.settings.model_copy(update={"emp": {"a": emp}}), daemon.conn, daemon.source)


async def test_stations_are_held_until_their_cpo_is_confirmed_and_every_cpo_is_known(cpo: Rig) -> None:
    async with hand(cpo.dsn, confirm_cpos="manual") as daemon:
        await daemon.capture()
        assert await reasons(cpo) == {
            "s1": UNCONFIRMED,
            "s2": UNCONFIRMED,
            "t1": "cpo: has no cpo-id for this EMP ('zz')",
            "u1": "cpo: has no cpo-id for this EMP ('')",
        }
        assert await daemon.deliver() == []
        assert await confirmed(cpo) == {("8ps", "DE*8PS"): False, ("zz", "-"): False}
        assert await enqueue.confirm_cpos(daemon.conn, daemon.settings, "a", ["8ps"]) == ["8ps"]
        await daemon.capture()
        assert [key for key in await daemon.deliver() if key.startswith("s")] == ["s1", "s2"]
        assert await enqueue.confirm_cpos(daemon.conn, daemon.settings, "a", ["8ps"]) == []
        assert await cpo.value("SELECT walk FROM cdc_pusher.emp") is None, "nothing new, nothing to go through"


async def test_cpo_can_be_confirmed_before_the_first_start(cpo: Rig) -> None:
    async with hand(cpo.dsn, "b", confirm_cpos="manual") as daemon:
        as_a = daemon.settings.model_copy(update={"emp": {"a": daemon.settings.emp["b"]}})
        assert await enqueue.confirm_cpos(daemon.conn, as_a, "a", ["8ps"]) == ["8ps"]
        await enqueue.register(daemon.conn, as_a)
        await Hand(as_a, daemon.conn, daemon.source).capture()
        assert (await reasons(cpo))["s1"] is None


async def test_automatic_confirmation_needs_nobody_and_can_be_turned_on_later(cpo: Rig) -> None:
    async with hand(cpo.dsn, confirm_cpos="manual") as daemon:
        await daemon.capture()
        automatic = registered(daemon, confirm_cpos="automatic")
        assert await enqueue.register(automatic.conn, automatic.settings) == {"a": "resync"}
        await automatic.capture()
        assert (await reasons(cpo))["s1"] is None
        assert await confirmed(cpo) == {("8ps", "DE*8PS"): True, ("zz", "-"): False}


async def test_another_cpo_id_has_to_be_confirmed_again(cpo: Rig) -> None:
    async with hand(cpo.dsn, confirm_cpos="manual") as daemon:
        await enqueue.confirm_cpos(daemon.conn, daemon.settings, "a", ["8ps"])
        await daemon.capture()
        await daemon.deliver()
        await enqueue.register(daemon.conn, daemon.settings)
        assert await confirmed(cpo) == {("8ps", "DE*8PS"): True, ("zz", "-"): False}, "starting again changes nothing"
        other = registered(daemon, cpos={"8ps": "DE*9PS"})
        await enqueue.register(other.conn, other.settings)
        assert (await confirmed(cpo))["8ps", "DE*9PS"] is False
        await other.capture()
        assert (await reasons(cpo))["s1"] == UNCONFIRMED
        without = registered(daemon, cpos={})
        await enqueue.register(without.conn, without.settings)
        assert (await confirmed(cpo))["8ps", "-"] is False


async def test_daemon_with_the_old_cpo_id_does_not_take_the_confirmation_of_another(cpo: Rig) -> None:
    """The operator mends the configuration and confirms before starting the daemon again."""
    async with hand(cpo.dsn, confirm_cpos="manual", cpos={"8ps": "DE*TYP"}) as old:
        await old.capture()
        corrected = registered(old, cpos={"8ps": "DE*8PS"})
        assert await enqueue.confirm_cpos(corrected.conn, corrected.settings, "a", ["8ps"]) == ["8ps"]
        await old.capture()
        assert (await reasons(cpo))["s1"] == UNCONFIRMED
        assert await old.deliver() == []
        await enqueue.register(corrected.conn, corrected.settings)
        await corrected.capture()
        assert "s1" in await corrected.deliver()


async def test_listing_counts_what_the_mapping_says_and_names_what_the_configuration_has_for_nothing(cpo: Rig) -> None:
    named = SourceSettings().stations.replace("SELECT ", "SELECT 'CPO ' || cpo AS cpo_name, ", 1)
    async with hand(
        cpo.dsn, confirm_cpos="manual", source=SourceSettings(stations=named), cpos={"8ps": "DE*8PS", "gone": "DE*XXX"}
    ) as daemon:
        await enqueue.confirm_cpos(daemon.conn, daemon.settings, "a", ["8ps"])
        found = await cpos.listing(daemon.settings, ["a"])
    assert [(one.cpo, one.name, one.cpo_id, one.stations, one.confirmed_at is not None) for one in found] == [
        ("8ps", "CPO 8ps", "DE*8PS", 2, True),
        ("", "CPO ", None, 1, False),
        ("zz", "CPO zz", None, 1, False),
        ("gone", None, "DE*XXX", 0, False),
    ]


async def test_commands_list_export_and_confirm_while_the_daemon_runs(cpo: Rig) -> None:
    async with Sandbox(SandboxSettings()) as emp:
        cpo.add_emp("plug", emp, confirm_cpos="manual")
        listed = json.loads(await cpo.command("cpo", "list", "--json"))
        assert [(row["cpo"], row["stations"], row["confirmed_at"]) for row in listed] == [("8ps", 2, None), ("", 1, None), ("zz", 1, None)]
        rows = list(csv.reader(io.StringIO(await cpo.command("cpo", "export", "--emp", "plug"))))
        assert rows == [
            ["internal identifier", "name", "cpo-id", "stations"],
            ["8ps", "", "DE*8PS", "2"],
            ["", "", "", "1"],
            ["zz", "", "", "1"],
        ]
        await cpo.ready_daemon()
        await cpo.quiet()
        assert emp.stations == {}
        assert "no: cdc-pusher cpo confirm" in await cpo.command("cpo", "list")
        assert await cpo.command("cpo", "confirm", "8ps") == "plug: 8ps confirmed\n"
        await until(lambda: sorted(emp.stations) == ["s1", "s2"], "the stations are sent")
        assert await cpo.command("cpo", "confirm", "--all") == "plug: nothing that was not confirmed\n"
