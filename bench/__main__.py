"""`python -m bench NAME`: run one benchmark, and keep its results for `bench.plots`; exit code 1 if a goal is missed.

`python -m bench goals NAME …`: what was measured last of that for which there is a goal.
"""

import argparse
import json
import signal
import sys
from collections.abc import Callable

from bench import heartbeat, host, idle, isolation, killed, large, latency, load, longtx, many, page, storm, trigger
from bench.result import Result
from bench.saved import save, saved

BENCHMARKS: dict[str, Callable[[], list[Result]]] = {
    "storm": storm.run,
    "latency": latency.run,
    "host": host.run,
    "heartbeat": heartbeat.run,
    "load": load.run,
    "idle": idle.run,
    "many": many.run,
    "longtx": longtx.run,
    "killed": killed.run,
    "trigger": trigger.run,
    "isolation": isolation.run,
    "large": large.run,
    "page": page.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", choices=[*BENCHMARKS, "goals"])
    parser.add_argument("of", nargs="*", choices=[[], *BENCHMARKS], help="whose goals")
    parser.add_argument("--json", action="store_true", help="for machines")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started ends, too
    if arguments.name == "goals":
        return _show([result for name in arguments.of or BENCHMARKS for result in saved(name) if result.has_goal], is_json=arguments.json)
    results = BENCHMARKS[arguments.name]()
    save(arguments.name, results)
    return _show(results, is_json=arguments.json)


def _show(results: list[Result], *, is_json: bool) -> int:
    if is_json:
        sys.stdout.write(json.dumps([result.row for result in results]) + "\n")
    else:
        sys.stdout.writelines(f"{result.line}\n" for result in results)
    return 0 if all(result.met for result in results) else 1


sys.exit(main())
