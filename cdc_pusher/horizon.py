"""Where to begin to look for what is to be done. Pure: `now` (seconds, monotonic) is an argument.

A transaction of somebody else that stays open for long keeps every row that we have deleted or replaced: whoever looks from the start of
an index passes all of them each time. So as soon as that is slow, a look begins where the one before ended, and only now and then at the
start, for what could not be seen then: a change with a low number that was committed late, a message that waited for another one. Nothing
is lost by that, and looking from the start takes no more than `SHARE` of the time.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

SLOW_S = 0.005  # a look from the start that takes longer is one to be spared
SHARE = 0.05


T = TypeVar("T", int, datetime)


@dataclass(slots=True)
class Pace:
    """How often to look where a look may take long: for `share` of the time.

    One look that took long may have waited for a lock, and says nothing of the next one; two do.
    """

    share: float = SHARE
    _took_s: float = 0.0

    def pause_s(self, took_s: float) -> float:
        """How long to wait after a look that took so many seconds.

        >>> pace = Pace(); [pace.pause_s(took_s) for took_s in (2.0, 0.001, 0.5, 0.2, 0.5)]
        [0.0, 0.0, 0.0, 4.0, 4.0]
        """
        took_s, self._took_s = min(took_s, self._took_s), took_s
        return took_s / self.share if took_s > SLOW_S else 0.0


@dataclass(slots=True)
class Horizon(Generic[T]):
    """Of one loop and one connection: on another server, numbers and times mean something else.

    `ends`: by priority, where looks have ended.
    """

    ends: dict[int, T]
    _pace: Pace = field(default_factory=Pace)
    _next_at: float = float("-inf")

    @property
    def parameters(self) -> dict[str, Any]:
        """Of a query that looks from here on: `priorities`, and `since` beside each."""
        return {"priorities": list(self.ends), "since": list(self.ends.values())}

    def from_the_start(self, now: float) -> bool:
        """Whether the next look is to begin at the start.

        >>> horizon = Horizon({0: 0})
        >>> horizon.looked(10.0, took_s=0.001); horizon.from_the_start(10.0)
        True
        >>> horizon.looked(9.0, took_s=0.5); horizon.looked(10.0, took_s=0.5)
        >>> horizon.from_the_start(11.0), horizon.from_the_start(20.1)
        (False, True)
        """
        return now >= self._next_at

    def looked(self, now: float, took_s: float) -> None:
        """A look from the start has ended, after so many seconds."""
        pause_s = self._pace.pause_s(took_s)
        self._next_at = now + pause_s if pause_s else float("-inf")

    def found(self, rows: Iterable[tuple[int, T]], *, up_to: T, complete: bool) -> None:
        """A look has found these rows (priority and number or time): the next one may begin after them.

        `complete`: it has found all that there was up to `up_to`. Else it has found all that is more urgent than its last row.

        >>> horizon = Horizon({0: 0, 10: 0, 20: 0})
        >>> horizon.found([(0, 5), (10, 3)], up_to=7, complete=False); horizon.ends
        {0: 7, 10: 3, 20: 0}
        >>> horizon.found([], up_to=9, complete=True); horizon.ends
        {0: 9, 10: 9, 20: 9}
        """
        last = min(self.ends)
        for priority, end in rows:
            self.ends[priority] = max(end, self.ends.get(priority, end))
            last = max(last, priority)
        for priority in self.ends:
            if complete or priority < last:
                self.ends[priority] = max(up_to, self.ends[priority])
