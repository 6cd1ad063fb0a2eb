"""docs/oioi.md says of every result code and every other answer what the program really does about it."""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pages import DOCS, table

from cdc_pusher import oioi, policy
from cdc_pusher.model import Accepted, Answer, Failure, Kind, Rejected, Retry, StationMissing, Verdict

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PAGE = (DOCS / "oioi.md").read_text(encoding="utf-8")
PROTOCOL = Path(__file__).parent.parent.parent / "shared" / "oioi-v4.md"
STATUSES = (200, 202, *range(300, 600))
FAILURES = {
    "no connection": Failure(error="refused", applied=False),
    "the connection broke": Failure(error="reset"),
    "no answer in time": Failure(error="no answer within 10 s", timed_out=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a row of a table says."""

    follows: str
    blames: str
    doubt: str


def rows(heading: str) -> dict[str, Told]:
    """The rows below a heading, by their first cell."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    header, *cells = table(section)
    assert header[2:] == ["what follows", "to blame", "in doubt"]
    return {first: Told(follows=follows, blames=blames, doubt=doubt) for first, _, follows, blames, doubt in cells}


CODES, OTHERS = rows("Result codes"), rows("Answers without a code")
NAMED_CODES = {int(code): told for first, told in CODES.items() if " to " not in first for code in re.findall(r"\d+", first)}
NAMED_STATUSES = {int(s): told for first, told in OTHERS.items() for s in re.findall(r"\b\d{3}\b", first)}


def told_of_code(code: int, http_status: int, kind: Kind) -> Told:
    if 0 <= code <= 99:
        return CODES["`0` to `99`, with HTTP 200" if http_status == 200 else "`0` to `99`, with another status"]
    if code == 181:
        return CODES[f"`181`, on a {kind}"]
    return NAMED_CODES.get(code, CODES["any other code"])


def told_of_status(http_status: int) -> Told:
    first = ["", "2xx ", "3xx"][http_status // 100 - 1].strip() if http_status < 400 else ""
    whole = OTHERS[f"HTTP {first}"] if first else OTHERS[f"any other HTTP {http_status // 100}xx"]
    return NAMED_STATUSES.get(http_status, whole)


def answered(http_status: int, code: int | None, kind: Kind) -> Answer:
    said = b"" if code is None else json.dumps({"result": {"code": code, "message": "said"}}).encode()
    return oioi.decode(http_status, said, kind=kind)


def done(verdict: Verdict) -> Told:
    """A verdict in the words of the page."""
    match verdict:
        case Accepted():
            return Told(follows="delivered", blames="", doubt="no")
        case StationMissing():
            return Told(follows="station first", blames="", doubt="no")
        case Rejected(uncertain=False):
            return Told(follows="rejected", blames="", doubt="no")
        case Retry(blames=blames, after_s=after_s, uncertain=uncertain, late=late, overloaded=overloaded):
            pause = ", half a minute later or more" if (after_s or 0) >= 30 else ", with fewer at once" if overloaded else ""
            return Told(
                follows=f"tried again{pause}",
                blames="EMP" if blames == "emp" else blames,
                doubt="late" if late else "yes" if uncertain else "no",
            )
    raise AssertionError(verdict)


@pytest.mark.parametrize("kind", ["station", "status"])
@pytest.mark.parametrize("http_status", [200, 202, 400, 404])
def test_every_result_code_is_told_as_it_is(http_status: int, kind: Kind) -> None:
    for code in range(1000):
        verdict = policy.judge(answered(http_status, code, kind), kind=kind, attempts=0, now=NOW)
        assert done(verdict) == told_of_code(code, http_status, kind), (code, http_status)


@pytest.mark.parametrize("kind", ["station", "status"])
def test_every_answer_without_a_code_is_told_as_it_is(kind: Kind) -> None:
    for http_status in STATUSES:
        verdict = policy.judge(answered(http_status, None, kind), kind=kind, attempts=0, now=NOW)
        assert done(verdict) == told_of_status(http_status), http_status


@pytest.mark.parametrize("first", FAILURES)
def test_every_failure_is_told_as_it_is(first: str) -> None:
    assert done(policy.judge(FAILURES[first], kind="status", attempts=0, now=NOW)) == OTHERS[first]


@pytest.mark.parametrize("http_status", [429, 500, 503])
def test_a_code_that_is_tried_again_counts_as_the_fault_of_an_emp_that_fails(http_status: int) -> None:
    for code in (100, 302, 777):
        verdict = policy.judge(answered(http_status, code, "status"), kind="status", attempts=0, now=NOW)
        assert isinstance(verdict, Retry)
        assert verdict.blames == "emp"


def test_the_third_time_that_an_evse_is_not_found_rejects_the_status() -> None:
    verdicts = [policy.judge(answered(200, 181, "status"), kind="status", attempts=n, now=NOW) for n in range(3)]
    assert [type(verdict) for verdict in verdicts] == [StationMissing, StationMissing, Rejected]


def test_no_row_is_there_for_nothing() -> None:
    used = {id(told_of_code(code, status, kind)) for code in range(1000) for status in (200, 202) for kind in ("station", "status")}
    assert [first for first, told in CODES.items() if id(told) not in used] == []
    used = {id(told_of_status(status)) for status in STATUSES}
    assert [first for first, told in OTHERS.items() if id(told) not in used and first not in FAILURES] == []


def test_every_code_and_status_of_the_protocol_has_a_row_of_its_own() -> None:
    if not PROTOCOL.exists():
        pytest.skip("the description of the protocol is not beside the project (../shared)")
    section = PROTOCOL.read_text(encoding="utf-8").partition("## Result codes")[2].partition("\n## ")[0]
    cells = " ".join(row[0] for row in table(section)[1:])
    codes = {int(code) for group in re.findall(r"`(\d[\d ]*)`", cells) for code in group.split()}
    statuses = {int(status) for group in re.findall(r"HTTP ((?:\d{3}(?:, )?)+)", cells) for status in group.split(", ") if status}
    assert len(codes) == 18
    assert codes - {0, 200} - NAMED_CODES.keys() == set()
    assert statuses - {200, 425} - NAMED_STATUSES.keys() == set(), "425 is like any other"
