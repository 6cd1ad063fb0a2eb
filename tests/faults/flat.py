"""Whether what was sampled stays flat: a line of least squares through the second half of each series. Pure.

The first half is the warm-up: the full load, caches that fill, tables that find the size at which vacuum keeps up with what dies in them.

Where that half is long, a slope must be below what the bound says `per_hour`. Where it is short, a series is not smooth enough for that:
vacuum comes once a minute, an EMP that was away leaves a backlog, an allocator takes five megabytes at once, a lane with its sixteen
connections goes over to the other daemon, and the line through a few minutes of it rises by chance. So there the line may rise by
`scatter` in all, which is more of a slope the shorter the run is: a leak that shows in an hour may pass in a minute.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

HOUR_S = 3600.0
LONG_S = 1200.0

Series = Sequence[tuple[float, float]]  # seconds since the beginning, value


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What a series may grow in an hour; and in all, where the time was short."""

    per_hour: float
    scatter: float

    def over(self, seconds: float) -> float:
        """The slope that is allowed over that time, an hour.

        >>> bound = Bound(per_hour=5.0, scatter=2.0)
        >>> bound.over(1800.0), bound.over(360.0)
        (5.0, 20.0)
        """
        return self.per_hour if seconds >= LONG_S else max(self.per_hour, self.scatter * HOUR_S / seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What became of one series in the second half; `bound` is None where growth is nobody's fault. Slopes an hour."""

    what: str
    begin: float
    end: float
    slope: float
    bound: float | None

    @property
    def is_flat(self) -> bool:
        return self.bound is None or self.slope <= self.bound


# By what the name of a series begins with; the first that fits. What is not here is not judged.
BOUNDS: Mapping[str, Bound] = {
    "survivor: memory": Bound(per_hour=5.0, scatter=10.0),
    "survivor: descriptors": Bound(per_hour=40.0, scatter=40.0),
    "survivor: threads": Bound(per_hour=1.0, scatter=1.0),
    "survivor: sessions": Bound(per_hour=4.0, scatter=4.0),
    "all: sessions": Bound(per_hour=4.0, scatter=6.0),
    "table": Bound(per_hour=1.0, scatter=1.0),
    "index": Bound(per_hour=0.5, scatter=0.5),
    "dead": Bound(per_hour=20_000.0, scatter=40_000.0),
    "rows": Bound(per_hour=200.0, scatter=200.0),
    "log": Bound(per_hour=500.0, scatter=3_000.0),
    "undelivered": Bound(per_hour=500.0, scatter=3_000.0),
    "oldest": Bound(per_hour=5.0, scatter=15.0),
}


def slope(series: Series) -> float:
    """How much the line of least squares rises in a second.

    >>> slope([(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)])
    2.0
    >>> slope([(0.0, 1.0), (1.0, 2.0), (2.0, 1.0)])
    0.0
    """
    times, values = zip(*series, strict=True)
    return statistics.linear_regression(times, values).slope


def second_half(series: Series, until_s: float) -> Series:
    """What was sampled after half of the time.

    >>> second_half([(0.0, 1.0), (4.0, 2.0), (6.0, 3.0), (10.0, 4.0)], 10.0)
    [(6.0, 3.0), (10.0, 4.0)]
    """
    return [(at, value) for at, value in series if at > until_s / 2]


def line(what: str, series: Series) -> Line:
    """How a series has gone; `begin` and `end` are the medians of a tenth of it.

    >>> grows = line("survivor: memory, MB", [(float(n), 90.0 + n / 50) for n in range(1000)])
    >>> round(grows.begin), round(grows.end), round(grows.slope), round(grows.bound), grows.is_flat
    (91, 109, 72, 36, False)
    >>> line("attempt, MB", [(0.0, 1.0), (1.0, 3.0)]).is_flat
    True
    """
    tenth = max(1, len(series) // 10)
    bound = next((bound for name, bound in BOUNDS.items() if what.startswith(name)), None)
    return Line(
        what=what,
        begin=statistics.median(value for _, value in series[:tenth]),
        end=statistics.median(value for _, value in series[-tenth:]),
        slope=slope(series) * HOUR_S,
        bound=None if bound is None else bound.over(series[-1][0] - series[0][0]),
    )
