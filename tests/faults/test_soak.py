"""A short soak: what shows within a minute; a slow leak shows in `make soak`."""

from pathlib import Path

import pytest

from faults.flat import BOUNDS
from faults.soak import PER_SECOND, soak

SECONDS = 40.0


@pytest.mark.timeout(240)
async def test_nothing_grows_while_faults_strike(tmp_path: Path) -> None:
    outcome = await soak(SECONDS, 1, tmp_path, every_s=(1.0, 4.0))
    assert not outcome.wrong, "\n".join(outcome.wrong)
    assert [line for line in outcome.lines if not line.is_flat] == []
    assert outcome.changes > PER_SECOND * SECONDS / 2
    assert outcome.requests > outcome.changes
    assert sum(outcome.injected.values()) > 3
    sampled = [line.what for line in outcome.lines]
    assert [name for name in BOUNDS if not any(what.startswith(name) for what in sampled)] == []
    assert {"table change, MB", "index outbox_due, MB", "attempt, MB"} <= set(sampled)
