"""`python -m bench NAME`: run one benchmark, and keep its results for `bench.plots`; exit code 1 if a goal is missed."""

import argparse
import json
import signal
import sys
from collections.abc import Callable

from bench import beside, heartbeat, host, idle, isolation, killed, large, latency, load, longtx, many, storm, trigger
from bench.result import Result
from bench.saved import save

BENCHMARKS: dict[str, Callable[[], list[Result]]] = {
    "storm": storm.run,
    "latency": latency.run,
    "host": host.run,
    "killed": killed.run,
    "load": load.run,
    "beside": beside.run,
    "idle": idle.run,
    "many": many.run,
    "heartbeat": heartbeat.run,
    "trigger": trigger.run,
    "isolation": isolation.run,
    "large": large.run,
    "longtx": longtx.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", choices=BENCHMARKS)
    parser.add_argument("--json", action="store_true", help="for machines")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started ends, too
    results = BENCHMARKS[arguments.name]()
    save(arguments.name, results)
    if arguments.json:
        sys.stdout.write(json.dumps([result.row for result in results]) + "\n")
    else:
        sys.stdout.writelines(f"{result.line}\n" for result in results)
    return 0 if all(result.met for result in results) else 1


sys.exit(main())
