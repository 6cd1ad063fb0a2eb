"""The minutes of each EMP: what this daemon delivered, what failed, and how late that was; taken from its metrics, kept in a table.

So the hot path counts nothing twice, a minute in which nothing was sent costs nothing, and what is shown outlasts the daemon.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime

from cdc_pusher import metrics
from cdc_pusher.database import Connection, as_json
from cdc_pusher.sql import queries

_sql = queries("history")

KEPT_DAYS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Since the daemon has started; `buckets`: by their upper bounds (seconds), how many were delivered within that."""

    delivered: int = 0
    failed: int = 0
    buckets: Mapping[float, int] = field(default_factory=dict)

    def since(self, before: "Totals") -> "Totals":
        """What has come since."""
        return Totals(
            delivered=self.delivered - before.delivered,
            failed=self.failed - before.failed,
            buckets={bound: count - before.buckets.get(bound, 0) for bound, count in self.buckets.items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Minute:
    """One row of the table."""

    emp: str
    minute: datetime
    daemon: str
    delivered: int
    failed: int
    lag_p50_s: float | None
    lag_p99_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The rows to write, and where counting stands when they are written."""

    minutes: Sequence[Minute]
    totals: Mapping[str, Totals]
    next_minute: datetime
    began: Mapping[str, Totals]


class History:
    """Of one daemon."""

    def __init__(self, daemon: str) -> None:
        self._daemon = daemon
        self._minute: datetime | None = None
        self._began: Mapping[str, Totals] = {}
        self._written: Mapping[str, Totals] = {}

    def look(self, now: datetime) -> Look:
        """The rows of the minute that are not written yet as they are; a look just after it has ended completes it and begins the next.

        What is not reported as written (`wrote`) is there again the next time; a clock that is set back prolongs the minute.
        """
        totals, this = read(), now.replace(second=0, microsecond=0)
        minute = self._minute or this
        changed = {emp: found.since(self._began.get(emp, Totals())) for emp, found in totals.items() if found != self._written.get(emp)}
        rows = [self._row(emp, minute, found) for emp, found in sorted(changed.items()) if found.delivered or found.failed]
        return Look(minutes=rows, totals=totals, next_minute=max(this, minute), began=totals if this > minute else self._began)

    def wrote(self, look: Look) -> None:
        """The rows of this look are written."""
        self._minute, self._began, self._written = look.next_minute, look.began, look.totals

    def _row(self, emp: str, minute: datetime, found: Totals) -> Minute:
        p50, p99 = (percentile(found.buckets, share) for share in (0.5, 0.99))
        return Minute(
            emp=emp, minute=minute, daemon=self._daemon, delivered=found.delivered, failed=found.failed, lag_p50_s=p50, lag_p99_s=p99
        )


def read() -> dict[str, Totals]:
    """What the metrics say now, by EMP."""
    delivered: dict[str, int] = defaultdict(int)
    failed: dict[str, int] = defaultdict(int)
    buckets: dict[str, dict[float, int]] = defaultdict(lambda: defaultdict(int))
    for sample in (sample for family in metrics.requests.collect() for sample in family.samples):
        if sample.name.endswith("_total"):
            counts = delivered if sample.labels["outcome"] == "accepted" else failed
            counts[sample.labels["emp"]] += int(sample.value)
    for sample in (sample for family in metrics.delivery_lag.collect() for sample in family.samples):
        if sample.name.endswith("_bucket"):
            buckets[sample.labels["emp"]][float(sample.labels["le"])] += int(sample.value)
    return {emp: Totals(delivered=delivered[emp], failed=failed[emp], buckets=dict(buckets[emp])) for emp in {*delivered, *failed}}


def percentile(buckets: Mapping[float, int], share: float) -> float | None:
    """The value below which that share lies, between the bounds of its bucket; beyond the last bound, that bound. None: there is nothing.

    >>> percentile({0.1: 0, 0.2: 10, float("inf"): 10}, 0.5), percentile({1.0: 1, float("inf"): 9}, 0.99), percentile({1.0: 0}, 0.5)
    (0.15, 1.0, None)
    """
    bounds = sorted(buckets)
    wanted = share * buckets[bounds[-1]] if bounds else 0.0
    below, lower = 0, 0.0
    for bound in bounds:
        if buckets[bound] >= wanted > below:
            if bound == float("inf"):
                return lower
            return round(lower + (bound - lower) * (wanted - below) / (buckets[bound] - below), 6)
        below, lower = buckets[bound], bound
    return None


async def write(conn: Connection, minutes: Sequence[Minute]) -> None:
    """Write rows, anew if they are there."""
    await conn.execute(_sql.write, {"minutes": as_json([asdict(one) for one in minutes])})


async def forget(conn: Connection) -> None:
    """Let go of rows that are older than `KEPT_DAYS`."""
    await conn.execute(_sql.forget, {"kept_days": KEPT_DAYS})
