"""The encoder: any station is held with a reason, or is a message of bounded size that a strict EMP takes."""

import dataclasses
import json
from decimal import Decimal
from typing import Any

from effort import at_most, examples
from hypothesis import assume, example, given
from hypothesis import strategies as st

from cdc_pusher import oioi
from cdc_pusher.model import STATION_COLUMNS, Connector, Held, Station
from cdc_pusher.sandbox.rules import read_message

PARTNER = "p" * 16
LARGEST = 3 * 2**20  # bytes of a message: 65,536 characters of notes, twelve texts of 10,000, a thousand connectors and notes
MEMORY = 32 * 2**20
PLAIN = Station(
    station_id="1",
    name="n",
    latitude=1,
    longitude=2,
    street="s",
    street_number="1",
    city="c",
    zip="z",
    country="DE",
    phone="p",
    cpo="8ps",
    is_open_24=True,
    connectors=(Connector(evse_id="DE*8PS*E1", type="Type2", speed_kw=22, status="Available"),),
)

odd = st.sampled_from(
    [
        Decimal("sNaN"),
        Decimal("1E+999999"),
        10**5000,
        -0.0,
        2**63,
        "\x00",
        "\x9b31m",
        "\u202e",
        "\ud800",
        "x" * 70_001,
        b"x",
        [[]],
        {"a": {}},
    ]
)
texts = st.text(st.characters(exclude_categories=()), max_size=30) | st.text(
    st.characters(exclude_categories=["C"]), min_size=1, max_size=30
)
anything = st.none() | st.booleans() | st.integers() | st.floats() | st.decimals() | texts | odd
notes = st.lists(
    st.fixed_dictionaries({"times": st.just(["07:30", "24:00"]), "days": st.just(["Mo", "Su"]) | st.lists(anything)}), max_size=3
)
connectors = st.lists(
    st.builds(
        Connector,
        evse_id=st.from_regex(r"(DE|FR|XX)\*?[A-Z0-9]{3}\*?E[A-Z0-9*]{1,30}", fullmatch=True) | anything,
        type=st.sampled_from(sorted(oioi.CONNECTOR_TYPES)) | anything,
        speed_kw=st.floats(0, 1e299) | st.decimals(0, 400) | anything,
        status=st.sampled_from(sorted(oioi.STATUSES)) | anything,
    ),
    max_size=4,
).map(tuple)
# Few fields at once, or nothing would ever be sent.
changes = st.dictionaries(st.sampled_from(STATION_COLUMNS), anything, max_size=2).flatmap(
    lambda few: st.fixed_dictionaries({}, optional={"connectors": connectors, "open_hour_notes": notes}).map(lambda more: {**few, **more})
)
FULL: dict[str, Any] = {
    **dict.fromkeys(
        ("name", "description", "street", "street_number", "city", "zip", "phone", "fax", "web", "email"), "\U0001f50c" * 10_000
    ),
    "notes": "\U0001f50c" * 65_536,
    "open_hour_notes": [{"times": ["07:30", "24:00"], "days": ["Mo", "Su"]}] * 1000,
    "connectors": tuple(Connector(evse_id=f"DE*8PS*E{n:030}", type="3PinSquare", speed_kw=1 / 3, status="Available") for n in range(1000)),
}


@examples(400)
@given(changes=changes)
@example(changes=FULL)
@example(changes={"latitude": Decimal("1E-999999"), "floor_level": Decimal("-0")})
@example(changes={"connectors": (Connector(evse_id="DE*8PS*E1", type="Type2", speed_kw=Decimal("1E+299"), status="Available"),)})
@example(changes={"name": "\x7f"})
def test_any_station_is_held_or_a_message_that_a_strict_emp_takes(changes: dict[str, Any]) -> None:
    station = dataclasses.replace(PLAIN, **changes)
    encoded = oioi.encode_station(station, cpo_id="DE*8PS")
    if isinstance(encoded, Held):
        assert 0 < len(encoded.reason) <= 1000
        assert encoded.reason.isprintable()
        return
    assume(all(connector["speed"] < 1e300 for connector in encoded["connectors"]))  # the sandbox takes more for infinity
    for payload in (encoded, oioi.deleted(encoded), oioi.with_id(encoded, oioi.successor(encoded["id"]))):
        body = oioi.body("station", payload, partner_identifier=PARTNER)
        assert len(body) <= LARGEST
        message = read_message(body, partner_identifier=PARTNER)
        assert (message.refusal, message.kind, message.key) == (None, "station", payload["id"])
        assert json.loads(json.dumps(payload, allow_nan=False)) == message.payload


@examples(200)
@given(connectors=connectors)
def test_any_status_is_held_or_a_message_that_a_strict_emp_takes(connectors: tuple[Connector, ...]) -> None:
    for evse_id, encoded in oioi.encode_statuses(dataclasses.replace(PLAIN, connectors=connectors)).items():
        if isinstance(encoded, Held):
            assert encoded.reason.isprintable()
            continue
        message = read_message(oioi.body("status", encoded, partner_identifier=PARTNER), partner_identifier=PARTNER)
        assert (message.refusal, message.kind, message.key) == (None, "status", evse_id)


def test_memory_for_the_largest_station_is_bounded() -> None:
    with at_most(MEMORY):
        encoded = oioi.encode_station(dataclasses.replace(PLAIN, **FULL), cpo_id="DE*8PS")
        assert not isinstance(encoded, Held)
        oioi.body("station", encoded, partner_identifier=PARTNER)


@examples(200)
@given(station_id=st.text(min_size=1), times=st.integers(1, 5))
@example(station_id="x~1000000000", times=2)
@example(station_id="~2", times=1)
def test_every_successor_is_another_id_and_known_as_one(station_id: str, times: int) -> None:
    assume(not oioi.is_successor(station_id))  # such ids of the CPO are held
    seen = [station_id]
    for _ in range(times):
        seen.append(oioi.successor(seen[-1]))
        assert oioi.is_successor(seen[-1])
    assert len({*seen}) == len(seen)
