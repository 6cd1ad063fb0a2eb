"""OIOI v4 on the wire: every field, every rule, every shape of an answer."""

import dataclasses
import enum
import json
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_pusher import oioi
from cdc_pusher.model import STATION_COLUMNS, Connector, Held, Kind, Payload, Station

HOURS = [{"times": ["07:30", "19:00"], "days": ["Mo", "Fr"]}, {"times": ["00:00", "24:00"], "days": ["Sa", "Sa"]}]
CONNECTOR = Connector(evse_id="DE*8PS*E1", type="Type2", speed_kw=22, status="Available")
SMALLEST = Station(
    station_id="4711",
    name="Rathaus",
    latitude=52.5,
    longitude=13.25,
    street="Hauptstraße",
    street_number="123a",
    city="Köln",
    zip="01067",
    country="DE",
    phone="+49 30 1234",
    cpo="8ps",
    is_open_24=True,
    connectors=(CONNECTOR,),
)
FULL = dataclasses.replace(
    SMALLEST,
    description="Hinter dem Haus\n\tlinks",
    fax="+49 30 1235",
    web="https://example.org",
    email="info@example.org",
    is_open_24=False,
    open_hour_notes=HOURS,
    notes="Schranke\r\nbei Nacht zu",
    is_reservable=True,
    is_free_charge=False,
    is_green_power_available=True,
    is_plugin_charge=False,
    is_roofed=True,
    is_private=False,
    floor_level=-1,
    total_parking=4,
    connectors=(
        Connector(evse_id="DE*8PS*E2", type="Combo", speed_kw=Decimal("49.9"), status="Occupied"),
        CONNECTOR,
    ),
)


def changed(station: Station, changes: dict[str, Any]) -> Station:
    return dataclasses.replace(station, **changes)


def encoded(**changes: Any) -> Payload:
    payload = oioi.encode_station(dataclasses.replace(SMALLEST, **changes), cpo_id="DE*8PS")
    assert not isinstance(payload, Held), payload.reason
    return payload


def held(**changes: Any) -> str:
    answer = oioi.encode_station(dataclasses.replace(SMALLEST, **changes), cpo_id="DE*8PS")
    assert isinstance(answer, Held)
    return answer.reason


def one(**changes: Any) -> tuple[Connector]:
    return (CONNECTOR._replace(**changes),)


# --- a station on the wire


def test_every_field_of_a_station_has_its_name_its_type_and_its_place() -> None:
    payload = oioi.encode_station(FULL, cpo_id="DE*8PS")
    assert isinstance(payload, dict)
    assert oioi.body("station", payload, partner_identifier="0123456789abcdef").decode() == (
        '{"station-post":{"station":{"id":"4711","name":"Rathaus","description":"Hinter dem Haus\\n\\tlinks","latitude":52.5,'
        '"longitude":13.25,"address":{"street":"Hauptstraße","street-number":"123a","city":"Köln","zip":"01067","country":"DE"},'
        '"contact":{"phone":"+49 30 1234","fax":"+49 30 1235","web":"https://example.org","email":"info@example.org"},'
        '"cpo-id":"DE*8PS","is-open-24":false,"connectors":[{"id":"DE*8PS*E1","name":"Type2","speed":22},'
        '{"id":"DE*8PS*E2","name":"Combo","speed":49.9}],"open-hour-notes":[{"times":["07:30","19:00"],"days":["Mo","Fr"]},'
        '{"times":["00:00","24:00"],"days":["Sa","Sa"]}],"notes":"Schranke\\r\\nbei Nacht zu","is-reservable":true,'
        '"is-free-charge":false,"is-green-power-available":true,"is-plugin-charge":false,"is-roofed":true,"is-private":false,'
        '"floor-level":-1,"total-parking":4,"deleted":false},"partner-identifier":"0123456789abcdef"}}'
    )


def test_optional_fields_without_a_value_are_left_out() -> None:
    assert encoded() == {
        "id": "4711",
        "name": "Rathaus",
        "latitude": 52.5,
        "longitude": 13.25,
        "address": {"street": "Hauptstraße", "street-number": "123a", "city": "Köln", "zip": "01067", "country": "DE"},
        "contact": {"phone": "+49 30 1234"},
        "cpo-id": "DE*8PS",
        "is-open-24": True,
        "connectors": [{"id": "DE*8PS*E1", "name": "Type2", "speed": 22}],
        "deleted": False,
    }


def test_every_column_of_the_mapping_matters() -> None:
    full = oioi.encode_station(FULL, cpo_id="DE*8PS")
    without: dict[str, Any] = {column: changed(FULL, {column: None}) for column in STATION_COLUMNS}
    unused = [column for column, station in without.items() if oioi.encode_station(station, cpo_id="DE*8PS") == full]
    assert unused == []


def test_a_status_on_the_wire_is_exactly_the_protocols_example() -> None:
    payload = {"connector-id": "DE*8PS*E123456", "status": "Available"}
    assert json.loads(oioi.body("status", payload, partner_identifier="…")) == {
        "connector-post-status": {"connector-id": "DE*8PS*E123456", "partner-identifier": "…", "status": "Available"}
    }


def test_a_body_is_compact_utf_8() -> None:
    written = oioi.body("status", {"connector-id": "E", "status": "ü"}, partner_identifier="p")
    assert b" " not in written
    assert "ü".encode() in written


def test_headers_carry_the_key_and_a_content_type_without_charset() -> None:
    assert oioi.headers("geheim") == {"Authorization": "key=geheim", "Content-Type": "application/json"}


def test_the_order_of_rows_does_not_matter() -> None:
    connectors = [
        Connector(evse_id=f"DE*8PS*E{number}", type=kind, speed_kw=speed)
        for number in (1, 2)
        for kind in ("Type2", "Combo")
        for speed in (Decimal("11"), 3.7)
    ]
    shuffled = random.Random(1).sample(connectors, len(connectors))
    assert encoded(connectors=tuple(shuffled)) == encoded(connectors=tuple(connectors))
    assert [tuple(c.values()) for c in encoded(connectors=tuple(shuffled))["connectors"][:2]] == [
        ("DE*8PS*E1", "Combo", 3.7),
        ("DE*8PS*E1", "Combo", 11),
    ]


def test_a_deletion_is_the_same_station_marked_deleted() -> None:
    station = encoded()
    gone = oioi.deleted(station)
    assert gone == {**station, "deleted": True}
    assert (oioi.is_deleted(station), oioi.is_deleted(gone)) == (False, True)
    assert list(gone) == list(station)


def test_evse_ids_are_a_sorted_multiset_also_of_a_deleted_station() -> None:
    station = encoded(connectors=(*one(evse_id="DE*8PS*E2"), CONNECTOR, *one(type="Schuko")))
    assert oioi.evse_ids(station) == oioi.evse_ids(oioi.deleted(station)) == ("DE*8PS*E1", "DE*8PS*E1", "DE*8PS*E2")


@pytest.mark.parametrize("field", ["station_id", "street_number", "zip", "phone", "fax"])
def test_an_integer_column_becomes_the_string_that_the_protocol_wants(field: str) -> None:
    payload = encoded(**{field: 1067})
    found = {"station_id": payload["id"], "fax": payload["contact"].get("fax"), "phone": payload["contact"]["phone"]}
    assert {**found, "street_number": payload["address"]["street-number"], "zip": payload["address"]["zip"]}[field] == "1067"


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (22, "22"),
        (22.0, "22"),
        (Decimal("22.00"), "22"),
        (Decimal("3.70"), "3.7"),
        (0.5, "0.5"),
        (Decimal("1E+2"), "100"),
        (10**300, "1e+300"),
    ],
)
def test_speed_is_a_number_integral_where_it_can_be(value: Any, sent: str) -> None:
    assert json.dumps(encoded(connectors=one(speed_kw=value))["connectors"][0]["speed"]) == sent


@pytest.mark.parametrize(("value", "sent"), [(-90, -90), (90.0, 90), (Decimal("52.123456"), 52.123456), (-0.0, 0)])
def test_coordinates_may_be_any_kind_of_number(value: Any, sent: float) -> None:
    assert repr(encoded(latitude=value, longitude=value)["latitude"]) == repr(sent)


@pytest.mark.parametrize("value", [3, 3.0, Decimal("3"), Decimal("3.00")])
def test_integers_may_come_as_any_integral_number(value: Any) -> None:
    payload = encoded(floor_level=value, total_parking=value)
    assert [type(payload[key]) for key in ("floor-level", "total-parking")] == [int, int]


@pytest.mark.parametrize("value", ["a\u00a0b", "soft\u00adhyphen", "a\u200db", "  spaced  ", "\u202etfel", "\x7f"])
def test_unusual_text_is_sent_as_it_is(value: str) -> None:
    assert encoded(name=value)["name"] == value


def test_an_optional_text_may_be_empty() -> None:
    assert encoded(web="")["contact"]["web"] == ""


def test_an_enum_of_text_counts_as_text() -> None:
    class Plug(enum.StrEnum):
        TYPE2 = "Type2"

    assert json.dumps(encoded(connectors=one(type=Plug.TYPE2))["connectors"][0]["name"]) == '"Type2"'


def test_the_country_codes_are_the_assigned_ones() -> None:
    assert len(oioi._COUNTRIES) == 249
    assert {"DE", "GB", "GR", "AX", "CW", "SS", "ZW"} <= oioi._COUNTRIES
    assert oioi._COUNTRIES.isdisjoint({"UK", "EL", "EU", "XK", "AN", "SU", "ZZ", "AA"})


@pytest.mark.skipif(not Path("/usr/share/zoneinfo/iso3166.tab").exists(), reason="no tzdata on this machine")
def test_the_country_codes_are_those_of_tzdata() -> None:
    lines = Path("/usr/share/zoneinfo/iso3166.tab").read_text(encoding="utf-8").splitlines()
    assert {line[:2] for line in lines if not line.startswith("#")} == oioi._COUNTRIES


def test_connector_types_and_statuses_are_the_protocols() -> None:
    types = ["Type1", "Type2", "Type3", "Combo", "Chademo", "Schuko", "CeeBlue", "CeeRed", "CeePlus", "Cee2Poles", "3PinSquare"]
    assert {*types, "Tesla", "Scame", "Nema5", "T13", "T15", "T23", "Marechal", "TypeE"} == oioi.CONNECTOR_TYPES
    assert {"Available", "Occupied", "Offline", "Reserved", "Unknown"} == oioi.STATUSES


# --- a station that is held


REQUIRED_TEXT = ["station_id", "name", "street", "street_number", "city", "zip", "phone"]
OPTIONAL_TEXT = ["description", "fax", "web", "email", "notes"]
INTEGER_TEXT = ["station_id", "street_number", "zip", "phone", "fax"]


@pytest.mark.parametrize("field", [*REQUIRED_TEXT, "latitude", "longitude", "country", "is_open_24"])
def test_a_required_field_that_is_missing_is_named(field: str) -> None:
    assert held(**{field: None}) == f"{field}: is missing (None)"


@pytest.mark.parametrize("field", REQUIRED_TEXT)
@pytest.mark.parametrize("value", ["", "  ", "\u00a0"])
def test_a_required_text_may_not_be_blank(field: str, value: str) -> None:
    assert held(**{field: value}).startswith(f"{field}: is blank ('")


@pytest.mark.parametrize("field", REQUIRED_TEXT + OPTIONAL_TEXT)
@pytest.mark.parametrize("value", [True, 1.5, Decimal("12"), b"x", ["x"], {"x": 1}])
def test_a_text_is_text(field: str, value: Any) -> None:
    fault = "must be text or an integer" if field in INTEGER_TEXT else "must be text"
    assert held(**{field: value}) == f"{field}: {fault} ({value!r})"


@pytest.mark.parametrize("field", INTEGER_TEXT)
def test_an_integer_that_python_refuses_to_print_is_held(field: str) -> None:
    assert held(**{field: 10**5000}) == f"{field}: must be text or an integer (a value of type int)"


@pytest.mark.parametrize("field", sorted({*REQUIRED_TEXT, *OPTIONAL_TEXT} - {*INTEGER_TEXT}))
def test_only_numbers_and_codes_may_be_integers(field: str) -> None:
    assert held(**{field: 12}) == f"{field}: must be text (12)"


@pytest.mark.parametrize("field", REQUIRED_TEXT + OPTIONAL_TEXT)
@pytest.mark.parametrize("character", ["\x00", "\x1b", "\x0b", "\x1f", chr(0xD800), chr(0xDFFF)])
def test_control_characters_and_lone_surrogates_are_never_sent(field: str, character: str) -> None:
    assert held(**{field: f"a{character}b"}) == (f"{field}: has the character U+{ord(character):04X} at position 2 ({f'a{character}b'!r})")


@pytest.mark.parametrize("field", sorted({*REQUIRED_TEXT, *OPTIONAL_TEXT} - {"description", "notes"}))
@pytest.mark.parametrize("character", ["\n", "\r", "\t"])
def test_only_description_and_notes_have_lines(field: str, character: str) -> None:
    assert held(**{field: f"a{character}b"}).startswith(f"{field}: has the character U+000")


@pytest.mark.parametrize(("field", "limit"), [*((field, 10_000) for field in [*REQUIRED_TEXT, *OPTIONAL_TEXT[:-1]]), ("notes", 65_536)])
def test_an_absurdly_long_text_is_held(field: str, limit: int) -> None:
    encoded(**{field: "x" * limit})
    assert held(**{field: "x" * (limit + 1)}).startswith(f"{field}: has more than {limit} characters ('xxx")


@pytest.mark.parametrize(("field", "limit"), [("latitude", 90), ("longitude", 180)])
@pytest.mark.parametrize(
    "value",
    [180.5, -181, "52.5", True, float("nan"), float("inf"), Decimal("NaN"), Decimal("-Infinity"), Decimal("sNaN"), 10**400, [1]],
)
def test_coordinates_are_finite_numbers_in_range(field: str, limit: int, value: Any) -> None:
    assert held(**{field: value}).startswith(f"{field}: must be a number from -{limit} to {limit} (")


def test_latitude_ends_at_the_poles() -> None:
    assert held(latitude=Decimal("90.5")) == "latitude: must be a number from -90 to 90 (Decimal('90.5'))"
    assert encoded(longitude=90.5)["longitude"] == 90.5


@pytest.mark.parametrize("value", ["de", "DEU", "D", "", "UK", "XK", "EU", "DE ", 49, ["DE"], {}])
def test_country_is_an_assigned_upper_case_code(value: Any) -> None:
    assert held(country=value) == f"country: is no assigned ISO 3166-1 code of two upper-case letters ({value!r})"


BOOLEANS = ["is_reservable", "is_free_charge", "is_green_power_available", "is_plugin_charge", "is_roofed", "is_private"]


@pytest.mark.parametrize("field", [*BOOLEANS, "is_open_24"])
@pytest.mark.parametrize("value", [0, 1, "true", "", [], Decimal(1)])
def test_a_boolean_is_nothing_else(field: str, value: Any) -> None:
    assert held(**{field: value}) == f"{field}: must be true or false ({value!r})"


@pytest.mark.parametrize("field", ["floor_level", "total_parking"])
@pytest.mark.parametrize("value", [True, 1.5, Decimal("0.1"), "1", float("nan"), float("inf"), 2**31, -(10**400), []])
def test_an_integer_is_integral_and_has_32_bits(field: str, value: Any) -> None:
    assert held(**{field: value}).startswith(f"{field}: must be an integer of 32 bits (")


@pytest.mark.parametrize("value", ["{}", {}, HOURS[0], 1, True, HOURS * 501])
def test_open_hour_notes_are_a_list_of_bounded_length(value: Any) -> None:
    assert held(open_hour_notes=value).startswith("open_hour_notes: must be a list of at most 1000 notes (")


@pytest.mark.parametrize(
    "note",
    [
        None,
        "Mo-Fr",
        {},
        {"times": ["07:30", "19:00"]},
        {"times": ["07:30", "19:00"], "days": ["Mo", "Fr"], "more": 1},
        {"times": ["07:30"], "days": ["Mo", "Fr"]},
        {"times": ["07:30", "19:00", "20:00"], "days": ["Mo", "Fr"]},
        {"times": "07", "days": ["Mo", "Fr"]},
        {"times": ["7:30", "19:00"], "days": ["Mo", "Fr"]},
        {"times": ["07:30", "24:01"], "days": ["Mo", "Fr"]},
        {"times": ["07:60", "19:00"], "days": ["Mo", "Fr"]},
        {"times": ["07:30", "19:00\n"], "days": ["Mo", "Fr"]},
        {"times": ["07:30", "1\u0669:00"], "days": ["Mo", "Fr"]},
        {"times": [7, 19], "days": ["Mo", "Fr"]},
        {"times": ["07:30", "19:00"], "days": ["Mo"]},
        {"times": ["07:30", "19:00"], "days": ["mo", "Fr"]},
        {"times": ["07:30", "19:00"], "days": ["Mo", None]},
        {"times": None, "days": None},
    ],
)
def test_an_open_hour_note_is_two_times_and_two_days(note: Any) -> None:
    assert held(open_hour_notes=[HOURS[0], note]).startswith("open_hour_notes: must be like {")


def test_a_bad_open_hour_note_is_shown_and_not_its_neighbours() -> None:
    assert held(open_hour_notes=[*HOURS, {"times": "x"}]).endswith("([{'times': 'x'}])")


def test_a_station_without_connectors_is_held() -> None:
    assert held(connectors=()) == "connectors: must be 1 to 1000 (0)"


def test_more_than_a_thousand_connectors_are_held() -> None:
    encoded(connectors=one() * 1000)
    assert held(connectors=one() * 1001) == "connectors: must be 1 to 1000 (1001)"


GOOD_EVSE_IDS = ["DE*8PS*E1", "DE8PSE1", "de*8ps*E1", "DE8PS*E1*2*3", "DE*8PS*E" + "1" * 30, "CH*ABC*E*"]
BAD_EVSE_IDS = ["", " ", "DE*8PS*1", "DE*8PS*E", "DE*8PS*E" + "1" * 31, "DE*8P*E1", "DE*8PS*E1\n", " DE*8PS*E1", "DE*8PS*e1", "DÉ*8PS*E1"]
FOREIGN_EVSE_IDS = ["XX*8PS*E1", "uk*8PS*E1", "EU8PSE1"]


@pytest.mark.parametrize("evse_id", GOOD_EVSE_IDS)
def test_an_evse_id_is_sent_as_it_is(evse_id: str) -> None:
    assert oioi.evse_ids(encoded(connectors=one(evse_id=evse_id))) == (evse_id,)


@pytest.mark.parametrize("evse_id", [*BAD_EVSE_IDS, 1, b"DE*8PS*E1", ["DE*8PS*E1"]])
def test_an_evse_id_matches_its_pattern_entirely(evse_id: Any) -> None:
    assert held(connectors=one(evse_id=evse_id)) == f"evse_id: is no EVSE id ({evse_id!r})"


@pytest.mark.parametrize("evse_id", FOREIGN_EVSE_IDS)
def test_an_evse_id_starts_with_an_assigned_country_code(evse_id: str) -> None:
    assert held(connectors=one(evse_id=evse_id)) == f"evse_id: starts with no assigned ISO 3166-1 country code ({evse_id!r})"


def test_a_missing_evse_id_is_named() -> None:
    assert held(connectors=one(evse_id=None)) == "evse_id: is missing (None)"


@pytest.mark.parametrize("kind", ["type2", "UNKNOWN", "ThreePinSquare", "", 2, ["Type2"], {}])
def test_a_connector_type_is_one_of_the_protocols(kind: Any) -> None:
    assert held(connectors=one(type=kind)) == f"type: is no OIOI connector type, at 'DE*8PS*E1' ({kind!r})"


@pytest.mark.parametrize(
    "speed", [0, -1, 0.0, "22", True, float("nan"), float("inf"), Decimal("NaN"), Decimal("1E+400"), Decimal("1E-400"), 10**400]
)
def test_speed_is_a_finite_number_above_zero(speed: Any) -> None:
    assert held(connectors=one(speed_kw=speed)).startswith("speed_kw: must be a number above 0, at 'DE*8PS*E1' (")


def test_a_cpo_that_the_emp_was_not_told_is_named() -> None:
    assert oioi.encode_station(SMALLEST, cpo_id=None) == Held(reason="cpo: has no cpo-id for this EMP ('8ps')")


@pytest.mark.parametrize("cpo_id", ["", "  "])
def test_a_cpo_id_may_not_be_blank(cpo_id: str) -> None:
    assert oioi.encode_station(SMALLEST, cpo_id=cpo_id) == Held(reason=f"cpo-id: is blank ({cpo_id!r})")


# --- the reason


def test_all_problems_of_a_station_are_one_reason() -> None:
    changes = {"name": " ", "latitude": "x", "connectors": (*one(speed_kw=None), *one(evse_id="DE*8PS*E2", type="IEC", speed_kw=None))}
    assert oioi.encode_station(changed(SMALLEST, changes), cpo_id=None) == Held(
        reason="name: is blank (' '); latitude: must be a number from -90 to 90 ('x'); cpo: has no cpo-id for this EMP ('8ps'); "
        "speed_kw: is missing, at 'DE*8PS*E1' (None); type: is no OIOI connector type, at 'DE*8PS*E2' ('IEC'); "
        "speed_kw: is missing, at 'DE*8PS*E2' (None)"
    )


def test_the_same_problem_is_said_once() -> None:
    assert held(connectors=one(evse_id=None) * 3) == "evse_id: is missing (None)"


def test_a_reason_is_bounded_and_counts_what_it_leaves_out() -> None:
    reason = held(connectors=tuple(Connector(evse_id=f"x{number}") for number in range(1000)))
    assert len(reason) <= 1000
    shown = reason.split("; ")
    assert shown[-1] == f"… and {3000 - (len(shown) - 1)} more"


@pytest.mark.parametrize("value", ["x" * 20_000, [10**5000], [["x" * 50] * 50] * 50, {"a": {"b": "c" * 500}}, b"x" * 500], ids=type)
def test_a_value_is_shown_in_sixty_characters(value: Any) -> None:
    shown = held(name=value).split(" (", 1)[1].removesuffix(")")
    assert 10 < len(shown) <= 60


def test_a_value_that_cannot_be_shown_hides_no_reason() -> None:
    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError

    assert held(name=Odd()).startswith("name: must be text (<Odd instance at ")
    assert held(name=10**5000) == "name: must be text (a value of type int)"


# --- statuses


ORDER = ["Occupied", "Reserved", "Available", "Unknown", "Offline"]


@pytest.mark.parametrize("first", ORDER)
@pytest.mark.parametrize("second", ORDER)
def test_connectors_with_one_evse_id_have_the_status_that_ranks_first(first: str, second: str) -> None:
    station = Station(station_id="1", connectors=(*one(status=first), *one(status=second), *one(status=first)))
    status = ORDER[min(ORDER.index(first), ORDER.index(second))]
    assert oioi.encode_statuses(station) == {"DE*8PS*E1": {"connector-id": "DE*8PS*E1", "status": status}}


def test_each_evse_id_has_its_own_status() -> None:
    station = Station(station_id="1", connectors=(*one(status="Offline"), *one(evse_id="DE*8PS*E2", status="Reserved")))
    assert oioi.encode_statuses(station) == {
        "DE*8PS*E1": {"connector-id": "DE*8PS*E1", "status": "Offline"},
        "DE*8PS*E2": {"connector-id": "DE*8PS*E2", "status": "Reserved"},
    }


@pytest.mark.parametrize("status", ["available", "Charging", "", 1, True, ["Available"], {}])
def test_a_status_that_the_protocol_does_not_know_holds_its_evse_only(status: Any) -> None:
    station = Station(station_id="1", connectors=(*one(), *one(status=status), *one(evse_id="DE*8PS*E2")))
    assert oioi.encode_statuses(station) == {
        "DE*8PS*E1": Held(reason=f"status: is no OIOI status ({status!r})"),
        "DE*8PS*E2": {"connector-id": "DE*8PS*E2", "status": "Available"},
    }


def test_a_missing_status_holds_its_evse() -> None:
    assert oioi.encode_statuses(Station(station_id="1", connectors=one(status=None))) == {
        "DE*8PS*E1": Held(reason="status: is missing (None)")
    }


@pytest.mark.parametrize("evse_id", [*BAD_EVSE_IDS[1:], *FOREIGN_EVSE_IDS])
def test_a_bad_evse_id_holds_its_status_too(evse_id: str) -> None:
    found = oioi.encode_statuses(Station(station_id="1", connectors=one(evse_id=evse_id)))
    assert list(found) == [evse_id]
    assert isinstance(found[evse_id], Held)


@pytest.mark.parametrize("evse_id", [None, "", 1, ["DE*8PS*E1"]])
def test_a_connector_without_an_evse_id_has_no_status(evse_id: Any) -> None:
    assert oioi.encode_statuses(Station(station_id="1", connectors=one(evse_id=evse_id))) == {}


def test_a_bad_status_does_not_hold_the_station() -> None:
    encoded(connectors=one(status="Charging"))


# --- answers


def code(content: Any, kind: Kind = "station") -> int | None:
    return oioi.decode(200, content if isinstance(content, bytes) else json.dumps(content).encode(), kind=kind).code


def message(content: Any) -> str:
    return oioi.decode(200, content if isinstance(content, bytes) else json.dumps(content).encode(), kind="station").message


def test_an_answer_carries_code_message_status_and_retry_after() -> None:
    answer = oioi.decode(503, b'{"result":{"code":312,"message":"Try later."}}', kind="status", retry_after="120")
    assert (answer.http_status, answer.code, answer.message, answer.retry_after) == (503, 312, "Try later.", "120")


@pytest.mark.parametrize(
    ("number", "found"), [(0, 0), (99, 99), (181, 181), (-1, -1), (2**31 - 1, 2**31 - 1), (2**31, None), (-(10**30), None)]
)
def test_a_code_is_a_32_bit_integer(number: int, found: int | None) -> None:
    assert code({"result": {"code": number}}) == found


@pytest.mark.parametrize("number", [True, False, "0", 0.0, None, [0], {"code": 0}])
def test_what_only_looks_like_a_code_is_none(number: Any) -> None:
    assert code({"result": {"code": number}}) is None


@pytest.mark.parametrize(
    ("kind", "call", "other"), [("station", "station-post", "connector-post-status"), ("status", "connector-post-status", "station-post")]
)
def test_an_older_receivers_success_counts_for_its_own_call_only(kind: Kind, call: str, other: str) -> None:
    assert code({call: {"success": True}}, kind) == 0
    assert code({other: {"success": True}}, kind) is None


@pytest.mark.parametrize("success", [False, 1, "true", None, []])
def test_any_other_success_is_none(success: Any) -> None:
    assert code({"station-post": {"success": success}}) is None


def test_a_result_says_more_than_an_older_success() -> None:
    assert code({"result": {"code": 181}, "station-post": {"success": True}}) == 181
    assert code({"result": {"code": True}, "station-post": {"success": True}}) is None


def test_a_success_that_contradicts_itself_is_none() -> None:
    assert code({"result": {"code": 0}, "error": "no"}) is None
    assert code({"result": {"code": 0}, "station-post": {"success": False}}) is None
    assert code({"station-post": {"success": True}, "error": {"code": 1}}) is None


def test_an_error_beside_an_error_code_leaves_the_code() -> None:
    assert code({"result": {"code": 210}, "error": "no"}) == 210


@pytest.mark.parametrize("nothing", [None, "", False, {}])
def test_an_empty_error_is_no_error(nothing: Any) -> None:
    assert code({"result": {"code": 0}, "error": nothing}) == 0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"OK",
        b"<html>502 Bad Gateway</html>",
        b"\xff\xfe\x00",
        b"\x00" * 50,
        b"null",
        b"0",
        b"[]",
        b'"result"',
        b"NaN",
        b"{}",
        b'{"result":null}',
        b'{"result":[0]}',
        b'{"result":{"code":NaN}}',
        b'{"result":{"code":1e999}}',
        b'{"result":{"code":' + b"9" * 5000 + b"}}",
        b'{"result":{"code":0}',
        b'{"result":{"code":0}}{"result":{"code":0}}',
        b"[" * 200_000,
        b'{"result":' * 100_000,
    ],
    ids=lambda content: repr(content[:40]),
)
def test_a_body_that_cannot_be_read_has_no_code(content: bytes) -> None:
    assert code(content) is None


def test_of_duplicate_keys_the_last_one_counts() -> None:
    assert code(b'{"result":{"code":0,"code":210}}') == 210


def test_a_byte_order_mark_does_not_hide_the_code() -> None:
    assert code(b'\xef\xbb\xbf{"result":{"code":0}}') == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"result": {"code": 230, "message": "Bad zip"}}, "Bad zip"),
        ({"result": {"code": 0}}, ""),
        ({"station-post": {"success": True}}, ""),
        ({"station-post": {"success": False, "message": "Bad zip"}}, "Bad zip"),
        ({"station-post": {"success": False, "error": "Bad zip"}}, "Bad zip"),
        ({"station-post": {"success": False}}, '{"station-post": {"success": false}}'),
        ({"error": "Bad zip"}, "Bad zip"),
        ({"error": {"message": "Bad zip"}}, "Bad zip"),
        ({"error": 7}, '{"error": 7}'),
        ({"result": {"code": 1, "message": 7}}, ""),
        (b"<html>\r\n  <h1>502</h1>\n</html>", "<html> <h1>502</h1> </html>"),
        (b"", ""),
    ],
)
def test_the_message_is_what_the_answer_says_or_its_raw_text(content: Any, said: str) -> None:
    assert message(content) == said


def test_a_message_cannot_move_the_cursor_or_hide_text() -> None:
    assert message({"result": {"code": 1, "message": "a\x1b[31mb\x1b]0;c\x07\x00d\u202ee\u2028f\x9b2Jg\ud800"}}) == "a�b�]0;c��d�e f�g�"


def test_a_message_has_at_most_five_hundred_characters() -> None:
    assert message({"result": {"code": 1, "message": "x" * 10_000}}) == "x" * 500
    assert message(b"x" * 10_000) == "x" * 500


# --- nothing ever raises


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**31, 10**400]),
    st.floats(),
    st.decimals(),
    st.sampled_from([Decimal("sNaN"), Decimal("1E+999999"), Decimal("1E-999999")]),
    st.text(st.characters(exclude_categories=()), max_size=20),
    st.binary(max_size=10),
    st.sampled_from(["Type2", "Available", "DE", "DE*8PS*E1", "07:30", "Mo", "", " "]),
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4), max_leaves=8
)
notes = st.lists(st.fixed_dictionaries({"times": st.just(["07:30", "19:00"]), "days": st.just(["Mo", "Fr"]) | anything}), max_size=3)
connectors = st.lists(
    st.builds(
        Connector,
        evse_id=st.from_regex(oioi._EVSE_ID, fullmatch=True) | st.sampled_from(GOOD_EVSE_IDS) | anything,
        type=st.sampled_from(sorted(oioi.CONNECTOR_TYPES)) | anything,
        speed_kw=st.floats(1, 400) | st.decimals(1, 400) | anything,
        status=st.sampled_from(ORDER) | anything,
    ),
    max_size=4,
).map(tuple)
changes = st.fixed_dictionaries(
    {}, optional={**{column: anything for column in STATION_COLUMNS}, "open_hour_notes": notes | anything, "connectors": connectors}
)
text = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1).filter(str.strip)
number = st.floats(-90, 90) | st.decimals(-90, 90) | st.integers(-90, 90)
sendable: dict[str, st.SearchStrategy[Any]] = {
    **{column: text for column in REQUIRED_TEXT},
    **{column: text | st.none() | st.just("") for column in OPTIONAL_TEXT},
    **{column: st.booleans() for column in [*BOOLEANS, "is_open_24"]},
    **{column: number for column in ("latitude", "longitude")},
    **{column: st.none() | st.integers(-(2**31) + 1, 2**31 - 1) for column in ("floor_level", "total_parking")},
}
few = st.dictionaries(st.sampled_from(STATION_COLUMNS), anything, max_size=1)


@given(changes=st.fixed_dictionaries({}, optional=sendable))
def test_any_valid_station_is_sent(changes: dict[str, Any]) -> None:
    payload = oioi.encode_station(changed(FULL, changes), cpo_id="DE*8PS")
    assert not isinstance(payload, Held)
    assert json.loads(json.dumps(payload, allow_nan=False)) == payload
    assert json.loads(oioi.body("station", payload, partner_identifier="p"))["station-post"]["station"] == payload


@given(changes=changes | few, cpo_id=st.none() | st.just("DE*8PS") | st.text(max_size=5))
def test_any_station_is_held_with_a_reason_or_becomes_json_that_survives(changes: dict[str, Any], cpo_id: str | None) -> None:
    answer = oioi.encode_station(dataclasses.replace(FULL, **changes), cpo_id=cpo_id)
    if isinstance(answer, Held):
        assert 0 < len(answer.reason) <= 1000
        assert answer.reason.isprintable()
        return
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    assert json.loads(oioi.body("station", answer, partner_identifier="p"))["station-post"]["station"] == answer
    assert len(oioi.evse_ids(answer)) == len(answer["connectors"])


@given(connectors=connectors)
def test_any_connectors_have_statuses_or_reasons(connectors: tuple[Connector, ...]) -> None:
    for evse_id, status in oioi.encode_statuses(Station(station_id="1", connectors=connectors)).items():
        if isinstance(status, Held):
            assert 0 < len(status.reason) <= 1000
            assert status.reason.isprintable()
        else:
            assert status["connector-id"] == evse_id
            assert status["status"] in oioi.STATUSES


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["result", "code", "message", "error", "station-post", "success"]) | st.text(), inner, max_size=4)
    ),
)


@given(content=st.binary() | json_values.map(lambda value: json.dumps(value).encode()), kind=st.sampled_from(["station", "status"]))
def test_any_answer_is_read_without_an_error(content: bytes, kind: Kind) -> None:
    answer = oioi.decode(200, content, kind=kind)
    assert answer.code is None or type(answer.code) is int
    assert len(answer.message) <= 500
    assert answer.message.isprintable()
