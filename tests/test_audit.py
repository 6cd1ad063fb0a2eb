"""The audit tells what a package index knows of pins, and that nothing was audited where none answers."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

AUDIT = Path(__file__).parent.parent / ".ci" / "audit.py"
PINS = "# ours\nGood_One==1.0\nbad.one==2.0.post1\n"


def release(filename: str, yanked: bool | str = False) -> dict[str, Any]:
    return {"filename": filename, "yanked": yanked}


FILES = [release("good_one-0.9.tar.gz", "old"), release("good_one-1.0-py3-none-any.whl"), release("good_one-1.0.tar.gz")]
GOOD = {
    "/simple/good-one/": {"files": FILES},
    "/simple/bad-one/": {"files": [release("bad_one-2.0.post1.tar.gz"), release("bad_one-2.0.tar.gz", "broken")]},
    "/pypi/good-one/1.0/json": {"vulnerabilities": [{"id": "X-1", "withdrawn": "2026-01-01T00:00:00Z"}]},
    "/pypi/bad-one/2.0.post1/json": {"vulnerabilities": []},
}
BAD = {
    **GOOD,
    "/simple/bad-one/": {"files": [release("bad_one-2.0.post1.tar.gz", "it eats files")]},
    "/pypi/bad-one/2.0.post1/json": {"vulnerabilities": [{"id": "X-2", "aliases": ["CVE-1"], "fixed_in": ["2.1"]}]},
}


@contextmanager
def index(pages: Mapping[str, Any]) -> Iterator[str]:
    """A package index that has these pages."""

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = pages.get(self.path)
            self.send_response(404 if found is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/simple"
        finally:
            server.shutdown()
            thread.join()


def audit(directory: Path, address: str) -> tuple[int, str]:
    pins = directory / "pins.txt"
    pins.write_text(PINS)
    environment = {**os.environ, "PIP_INDEX_URL": address, "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run([sys.executable, AUDIT, pins], env=environment, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout


def test_nothing_is_wrong_with_good_pins(tmp_path: Path) -> None:
    with index(GOOD) as address:
        assert audit(tmp_path, address) == (0, "withdrawn: 2 of 2 pins were looked at\nvulnerable: 2 of 2 pins were looked at\n")


def test_withdrawn_and_vulnerable_releases_are_named(tmp_path: Path) -> None:
    with index(BAD) as address:
        exit_code, said = audit(tmp_path, address)
    assert exit_code == 1
    assert "bad-one 2.0.post1 was withdrawn: it eats files\n" in said
    assert "bad-one 2.0.post1 is vulnerable: X-2, CVE-1; fixed in 2.1\n" in said
    assert "good-one" not in said


def test_where_nobody_answers_nothing_was_audited(tmp_path: Path) -> None:
    exit_code, said = audit(tmp_path, "http://127.0.0.1:1/simple")
    assert exit_code == 0
    assert said.count("nothing was audited") == 2
