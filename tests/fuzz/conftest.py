"""With FUZZ_EXAMPLES a test may take as long as it takes."""

from pathlib import Path

import pytest
from effort import EXAMPLES

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if EXAMPLES:
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.timeout(0))
