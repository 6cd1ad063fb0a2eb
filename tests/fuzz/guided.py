"""Fuzzing that is guided by coverage: `python tests/fuzz/guided.py decode 60` for a minute. Ends with what breaks the property.

Atheris makes the bytes, Hypothesis makes values of them. What is found becomes an `@example` of the test.
"""

import atexit
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

SEEDS = (
    b'{"result": {"code": 0, "message": "Success."}}',
    b'{"station-post": {"success": true}, "connector-post-status": {"success": false, "error": "x"}}',
    b'{"error": {"message": "\\u001b[31m"}, "result": {"code": 300}}',
)
TESTS = {
    "answers": ("test_fuzz_decode", "test_any_bytes_are_an_answer"),
    "verdicts": ("test_fuzz_decode", "test_any_answer_has_a_verdict_that_waits_for_an_hour_at_most"),
    "stations": ("test_fuzz_encode", "test_any_station_is_held_or_a_message_that_a_strict_emp_takes"),
    "statuses": ("test_fuzz_encode", "test_any_status_is_held_or_a_message_that_a_strict_emp_takes"),
}


def raw() -> Callable[[bytes], None]:
    """The decoder with the very bytes that Atheris makes."""
    from cdc_pusher import oioi

    return lambda content: import_module("test_fuzz_decode").check(oioi.decode(200, content, kind="station"))


def main(name: str, seconds: str) -> None:
    import atheris  # which is there only for this

    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    with atheris.instrument_imports(include=["cdc_pusher"]):
        if name == "decode":
            one = raw()
        else:
            module, test = TESTS[name]
            one = getattr(import_module(module), test).hypothesis.fuzz_one_input
    corpus = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, corpus)
    for n, seed in enumerate(SEEDS):
        (corpus / str(n)).write_bytes(seed)
    atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", "-max_len=4096", "-timeout=10", "-rss_limit_mb=1024", str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
