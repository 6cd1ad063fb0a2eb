"""The last results of each benchmark, a JSON file each under dist/bench, which is not committed."""

import json
from collections.abc import Sequence
from pathlib import Path

from bench.result import Result

DIRECTORY = Path(__file__).parents[1] / "dist" / "bench"


def save(name: str, results: Sequence[Result]) -> None:
    """Keep the results of this benchmark instead of those that it had before."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    (DIRECTORY / f"{name}.json").write_text(json.dumps([result.row for result in results], indent=1) + "\n")


def saved(name: str) -> list[Result]:
    """This benchmark's last results; none if it has not been run."""
    file = DIRECTORY / f"{name}.json"
    return [Result.of(row) for row in json.loads(file.read_text())] if file.is_file() else []
