"""`python -m bench NAME`: run one benchmark; exit code 1 if a goal is missed."""

import argparse
import json
import sys
from collections.abc import Callable

from bench import heartbeat, isolation, large, longtx, trigger
from bench.result import Result

BENCHMARKS: dict[str, Callable[[], list[Result]]] = {
    "large": large.run,
    "heartbeat": heartbeat.run,
    "trigger": trigger.run,
    "isolation": isolation.run,
    "longtx": longtx.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", choices=BENCHMARKS)
    parser.add_argument("--json", action="store_true", help="for machines")
    arguments = parser.parse_args()
    results = BENCHMARKS[arguments.name]()
    if arguments.json:
        sys.stdout.write(json.dumps([result.row for result in results]) + "\n")
    else:
        sys.stdout.writelines(f"{result.line}\n" for result in results)
    return 0 if all(result.met for result in results) else 1


sys.exit(main())
