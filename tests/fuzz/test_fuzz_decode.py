"""The decoder: whatever bytes an EMP answers, there is an `Answer` within its bounds, and a verdict; nothing is raised."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from effort import at_most, examples
from hypothesis import example, given
from hypothesis import strategies as st

from cdc_pusher import oioi, policy
from cdc_pusher.client import ANSWER_LIMIT
from cdc_pusher.model import Accepted, Answer, Failure, Kind, Rejected, Retry, StationMissing

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MEMORY = 24 * 2**20  # bytes; objects of Python take many times the 64 KB that they were read from
KINDS: st.SearchStrategy[Kind] = st.sampled_from(["station", "status"])

names = st.sampled_from(["result", "code", "message", "error", "station-post", "connector-post-status", "success"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=30)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names | st.text(max_size=5), inner, max_size=5))
encodings = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
pieces = st.sampled_from(
    [b'{"result":', b'{"code":', b"0", b"}", b"]", b"[", b'"', b",", b"\\u", b"\\ud800", b"1e999", b"NaN", b"-", b"\xff"]
)


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """JSON in any encoding, pieces of it in any order, or any bytes; cut off anywhere."""
    written = json.dumps(draw(values), ensure_ascii=draw(st.booleans())).encode(
        draw(encodings), "surrogatepass" if draw(st.booleans()) else "replace"
    )
    content = draw(st.sampled_from([written, draw(st.binary(max_size=200)), b"".join(draw(st.lists(pieces, max_size=20)))]))
    return content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content


def check(answer: Answer) -> None:
    assert answer.code is None or (type(answer.code) is int and abs(answer.code) < 2**31)
    assert len(answer.message) <= 500
    assert answer.message.isprintable()


@examples(400)
@given(content=answers(), kind=KINDS)
@example(content=b"\xff\xfe", kind="station")
@example(content=b'{"result": {"code": 0, "message": "\\ud800\\udfff\\u202e\\u0000"}}', kind="station")
@example(content=b'{"result": {"code": ' + b"9" * 5000 + b"}}", kind="station")
@example(content=b'{"result": {"code": 1e400}}', kind="status")
@example(content=b'{"a": "\\x1b[31m', kind="status")
def test_any_bytes_are_an_answer(content: bytes, kind: Kind) -> None:
    check(oioi.decode(200, content, kind=kind))


LARGE = {
    "lists in lists": b"[" * ANSWER_LIMIT,
    "objects in objects": b'{"result":' * (ANSWER_LIMIT // 10),
    "many lists": b"[" + b"[]," * (ANSWER_LIMIT // 3 - 1) + b"[]]",
    "many objects": b"[" + b"{}," * (ANSWER_LIMIT // 3 - 1) + b"{}]",
    "many keys": b"{" + b",".join(b'"%x":0' % n for n in range(7000)) + b"}",
    "one key": b"{" + b'"a":0,' * 10000 + b'"a":0}',
    "digits": b"1" * ANSWER_LIMIT,
    "a fraction": b"0." + b"1" * ANSWER_LIMIT,
    "an exponent": b"1e" + b"9" * 1000,
    "escapes": b'{"error": "' + b"\\u0000" * 10000 + b'"}',
    "half of an escape": b'{"error": "' + b"\\ud800" * 10000 + b'"}',
    "terminal sequences": b'{"error": "' + b"\\u001b[" * 8000 + b'"}',
    "open terminal sequences": (b"\x1b[" + b"0;" * 900) * 30,
    "zeros": bytes(ANSWER_LIMIT),
    "spaces": b" " * ANSWER_LIMIT,
}


@pytest.mark.parametrize("content", LARGE.values(), ids=LARGE)
def test_memory_is_bounded_by_what_is_read_of_an_answer(content: bytes) -> None:
    with at_most(MEMORY):
        check(oioi.decode(500, content[:ANSWER_LIMIT], kind="station"))


@examples(200)
@given(code=st.integers(-(2**31) + 1, 2**31 - 1), message=st.text(), http_status=st.integers(100, 599))
def test_code_of_a_well_formed_answer_is_what_it_says(code: int, message: str, http_status: int) -> None:
    content = json.dumps({"result": {"code": code, "message": message}}).encode()
    answer = oioi.decode(http_status, content, kind="station")
    assert (answer.http_status, answer.code) == (http_status, code)
    if message.isprintable():
        assert answer.message == " ".join(message.split())[:500]


later = (
    st.text(st.characters(exclude_categories=()))
    | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ [\d:]+ ?[A-Z+\-\d]*")
    | st.datetimes().map(str)
)
judged = st.builds(
    Answer,
    http_status=st.integers(0, 999),
    code=st.none() | st.integers(-(2**31) + 1, 2**31 - 1),
    message=st.text(),
    retry_after=st.none() | later,
) | st.builds(Failure, error=st.text(), applied=st.booleans(), timed_out=st.booleans())


@examples(400)
@given(answer=judged, kind=KINDS, attempts=st.integers(0, 100))
@example(answer=Answer(http_status=503, retry_after="9" * 8000), kind="station", attempts=0)
@example(answer=Answer(http_status=503, retry_after="Thu, 01 Jan 99999 12:00:30 GMT"), kind="station", attempts=0)
@example(answer=Answer(http_status=503, retry_after="Thu, 01 Jan 2026 12:00:30 +9999999999"), kind="station", attempts=0)
@example(answer=Answer(http_status=503, retry_after="\u0664"), kind="station", attempts=0)
def test_any_answer_has_a_verdict_that_waits_for_an_hour_at_most(answer: Any, kind: Kind, attempts: int) -> None:
    match policy.judge(answer, kind=kind, attempts=attempts, now=NOW):
        case Retry(after_s=after_s):
            assert after_s is None or 0 <= after_s <= 3600
        case Accepted():
            assert answer.http_status == 200
            assert 0 <= answer.code <= 99
        case verdict:
            assert isinstance(verdict, StationMissing | Rejected)
