"""Asks the index that pip is configured for what it knows of our pins: releases that were withdrawn, known vulnerabilities.

Exit code 1: there are some. What the index does not tell, or cannot be asked for, is said and is no failure.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pip._internal.commands import create_command

PINS = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent / "constraints.txt")
SIMPLE = "application/vnd.pypi.simple.v1+json"
TIMEOUT_S = 30


def pins() -> Iterator[tuple[str, str]]:
    """Names and versions."""
    for line in PINS.read_text().splitlines():
        if found := re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)", line):
            yield re.sub(r"[-_.]+", "-", found[1]).lower(), found[2]


def main() -> int:
    """What is wrong, a line each."""
    command = create_command("download")  # with pip's configuration: index, proxy, authorities, credentials
    options, _ = command.parse_args([])
    wrong: list[str] = []
    asked = {"withdrawn": 0, "vulnerable": 0}
    with command.main_context():
        session = command.get_default_session(options)
        index = options.index_url.rstrip("/")

        def ask(address: str) -> Any:
            try:
                answer = session.get(address, headers={"Accept": f"{SIMPLE}, application/json"}, timeout=TIMEOUT_S)
                return answer.json() if answer.ok else None
            except (OSError, ValueError):  # nobody is there; what is said is no JSON
                return None

        for name, version in pins():
            if (found := ask(f"{index}/{name}/")) is not None:
                asked["withdrawn"] += 1
                wrong += withdrawn(name, version, found)
            elif not asked["withdrawn"]:
                break
        for name, version in pins():
            if (found := ask(f"{index.removesuffix('/simple')}/pypi/{name}/{version}/json")) is not None:
                asked["vulnerable"] += 1
                wrong += vulnerable(name, version, found)
            elif not asked["vulnerable"]:
                break
    for what, count in asked.items():
        said = f"{count} of {len([*pins()])} pins were looked at" if count else "nothing was audited, the index of pip does not tell"
        sys.stdout.write(f"{what}: {said}\n")
    sys.stdout.writelines(f"{line}\n" for line in wrong)
    return bool(wrong)


def withdrawn(name: str, version: str, found: Any) -> Iterator[str]:
    """PEP 592 and 691."""
    files = [file for file in found["files"] if version_of(file["filename"], name) == version]
    if files and all(file.get("yanked") for file in files):
        yield f"{name} {version} was withdrawn: {files[0]['yanked']}"


def version_of(filename: str, name: str) -> str:
    """The version of a wheel or an sdist.

    >>> version_of("ruamel_yaml-1.0.post1-py3-none-any.whl", "ruamel-yaml"), version_of("APScheduler-3.11.3.tar.gz", "apscheduler")
    ('1.0.post1', '3.11.3')
    """
    rest = filename[len(name) + 1 :]
    return rest.split("-")[0].removesuffix(".tar.gz").removesuffix(".zip")


def vulnerable(name: str, version: str, found: Any) -> Iterator[str]:
    """The vulnerabilities of one release."""
    for one in found.get("vulnerabilities") or ():
        if not one.get("withdrawn"):
            better = ", ".join(one.get("fixed_in") or ()) or "nothing yet"
            yield f"{name} {version} is vulnerable: {', '.join([one['id'], *(one.get('aliases') or ())])}; fixed in {better}"


if __name__ == "__main__":
    sys.exit(main())
