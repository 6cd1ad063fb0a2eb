"""How long is fuzzed: a few seconds each in `make test`, and as many examples as FUZZ_EXAMPLES says in `make fuzz`."""

import os
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings

Test = TypeVar("Test", bound=Callable[..., Any])

EXAMPLES = os.environ.get("FUZZ_EXAMPLES")


def examples(most: int) -> Callable[[Test], Test]:
    """So many unless FUZZ_EXAMPLES says another number, which may take as long as it takes."""
    checks = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture, HealthCheck.large_base_example)
    effort = settings(max_examples=int(EXAMPLES or most), deadline=None, suppress_health_check=checks)

    def decorate(test: Test) -> Test:
        return pytest.mark.timeout(0)(effort(test)) if EXAMPLES else effort(test)

    return decorate


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
