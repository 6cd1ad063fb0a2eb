"""Explores one configuration, by its name or by its bounds: `PYTHONPATH=tests python -m model changes=3 lost=1 kinds=rename,status`.

Without arguments: all that the tests explore. Ends with 1 if a property is broken, and tells the shortest way there.
"""

import resource
import sys
import time
from dataclasses import fields

from model.configurations import CONFIGURATIONS
from model.explorer import Explorer
from model.protocol import Bounds, Protocol


def bounds(words: list[str]) -> Bounds:
    """The bounds that these words say: numbers, yes, or kinds of changes."""
    types = {field.name: field.type for field in fields(Bounds)}
    values: dict[str, object] = {}
    for word in words:
        name, _, value = word.partition("=")
        values[name] = tuple(value.split(",")) if name == "kinds" else value == "yes" if types[name] is bool else int(value)
    return Bounds(**values)  # type: ignore[arg-type]  # by name


def main(words: list[str]) -> int:
    chosen = {" ".join(words): bounds(words)} if words else CONFIGURATIONS
    is_broken = False
    for name, one in chosen.items():
        began = time.process_time()
        found = Explorer(Protocol(one)).explore()
        took, memory = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(f"| {name} | {found.states:,} | {found.steps:,} | {found.at_rest} | {took:.1f} s | {memory} MB |")  # noqa: T201
        if found.broken:
            print(found)  # noqa: T201
            is_broken = True
    return int(is_broken)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
