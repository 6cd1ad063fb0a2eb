"""The systems that `storm`, `latency`, `host` and `killed` compare: each gets a database of its own on the same server."""

from collections.abc import Sequence

from bench.arms.arm import Arm
from bench.arms.ours import Ours
from bench.arms.peers import PEERS
from bench.result import Result

OURS = Ours()


def present(arms: Sequence[Arm] = (OURS, *PEERS)) -> tuple[list[Arm], list[Result]]:
    """Those that can take part, installed if need be; and for each that cannot a row that says why."""
    missing = {arm.name: arm.missing() for arm in arms}
    rows = [Result(arm=name, name="skipped", value=0, note=reason) for name, reason in missing.items() if reason]
    return [arm for arm in arms if not missing[arm.name]], rows
