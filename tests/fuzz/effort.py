"""How long is fuzzed: a few seconds each in `make test`, and as many examples as FUZZ_EXAMPLES says in `make fuzz`."""

import os
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hypothesis import HealthCheck, settings

EXAMPLES = os.environ.get("FUZZ_EXAMPLES")


def examples(most: int) -> settings:
    """So many unless FUZZ_EXAMPLES says another number; time is bounded by what a test says of it, not for each example."""
    checks = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture, HealthCheck.large_base_example)
    return settings(max_examples=int(EXAMPLES or most), deadline=None, suppress_health_check=checks)


@contextmanager
def at_most(peak_bytes: int) -> Iterator[None]:
    """Fails if more memory than that was held at once within the block, beside what was held before."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= peak_bytes, f"{peak:,} bytes at once"


def peak_of(work: Callable[[], object]) -> int:
    """How many bytes were held at once, beside what was held before."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
