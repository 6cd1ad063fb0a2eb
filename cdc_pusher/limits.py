"""How fast and how wide one EMP is served. Pure: `now` (seconds, monotonic) is an argument."""

from dataclasses import dataclass

SHRINK_EVERY_S = 1.0  # answers that come together tell the same once


@dataclass(slots=True)
class TokenBucket:
    """At most `rate` requests a second, of which `burst` may come at once after a pause (the generic cell rate algorithm)."""

    rate: float
    burst: int = 1
    _full_at: float = float("-inf")

    def room(self, now: float, within_s: float) -> int:
        """How many could be taken now that would not have to wait for longer than `within_s` seconds.

        >>> bucket = TokenBucket(rate=10, burst=2)
        >>> bucket.room(5.0, 0.0), bucket.room(5.0, 0.25), [bucket.take(5.0) for _ in range(2)], bucket.room(5.0, 0.0)
        (2, 4, [0.0, 0.0], 0)
        """
        slack_s = now + within_s + (self.burst - 1) / self.rate - max(self._full_at, now)
        return max(0, int(slack_s * self.rate + 1 + 1e-9))

    def take(self, now: float) -> float:
        """Take the next place in line; returns the seconds to wait for it.

        >>> bucket = TokenBucket(rate=10, burst=2)
        >>> [round(bucket.take(5.0), 3) for _ in range(4)], round(bucket.take(6.0), 3)
        ([0.0, 0.0, 0.1, 0.2], 0.0)
        """
        full_at = max(self._full_at, now)
        self._full_at = full_at + 1.0 / self.rate
        return max(0.0, full_at - (self.burst - 1) / self.rate - now)


@dataclass(slots=True)
class Window:
    """How many requests may be in flight: `most`, half as many whenever the EMP cannot keep up, one more with each full round."""

    most: int
    _size: float = 0.0
    _shrunk_at: float = float("-inf")

    def __post_init__(self) -> None:
        self._size = float(self.most)

    @property
    def size(self) -> int:
        """Requests at once, at least one."""
        return max(1, int(self._size))

    def keep_up(self) -> None:
        """The EMP took a request in time.

        >>> window = Window(4); window.shrink(1.0); window.size
        2
        >>> for _ in range(6): window.keep_up()
        >>> window.size
        4
        """
        self._size = min(float(self.most), self._size + 1.0 / self._size)

    def shrink(self, now: float) -> None:
        """The EMP throttles, is overloaded, or does not answer in time."""
        if now - self._shrunk_at >= SHRINK_EVERY_S:
            self._size = max(1.0, self._size / 2)
            self._shrunk_at = now
