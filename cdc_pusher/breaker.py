"""When to leave an EMP alone that fails as a whole, and when to try again. Pure: `now` (seconds, monotonic) and chance are arguments.

    closed ──LIMIT failures in a row, or one that says we are configured wrong──▶ open ──its wait is over──▶ half open
      ▲                                                                             ▲                            │
      └──────────── an answer that does not blame the EMP, to whichever request ────┼────────────────────────────┤
                                                                                    └── one probe fails: twice the wait

It never stays open for good: however often probes fail, the next one comes after `CAP_S` at most, or when the EMP said (`Retry-After`).
"""

from dataclasses import dataclass, field
from typing import Literal

from cdc_pusher.policy import CONFIGURATION_RETRY_S

LIMIT = 5  # failures in a row
BASE_S, CAP_S = 1.0, 60.0

State = Literal["closed", "open", "half open"]


@dataclass(slots=True)
class Breaker:
    """Of one EMP. `reason` says why it is not closed, `trips` how often in a row it has opened, `wait_s` for how long."""

    reason: str | None = None
    trips: int = 0
    wait_s: float = 0.0
    _failures: int = 0
    _probe_at: float = field(default=float("-inf"))

    def state(self, now: float) -> State:
        """What it is now: closed, open or half open."""
        if self.reason is None:
            return "closed"
        return "open" if now < self._probe_at else "half open"

    def room(self, now: float, in_flight: int, *, most: int) -> int:
        """How many more requests may be sent, of `most` at once: none while it is open, one alone when it is half open."""
        match self.state(now):
            case "closed":
                return most - in_flight
            case "open":
                return 0
            case "half open":
                return 1 if in_flight == 0 else 0

    def failed(self, now: float, reason: str, *, configuration: bool = False, after_s: float = 0.0, chance: float = 1.0) -> None:
        """The EMP failed as a whole; `configuration`: it refuses us, and no message can succeed. `chance`: uniform in [0, 1)."""
        self._failures += 1
        state = self.state(now)
        if state == "open" or (state == "closed" and self._failures < LIMIT and not configuration):
            return  # an answer to what was sent before it opened says nothing new
        base_s = CONFIGURATION_RETRY_S if configuration else BASE_S
        backoff_s = min(CAP_S, base_s * 2.0 ** min(self.trips, 16))
        self.wait_s = max(after_s, backoff_s * (0.5 + chance / 2))
        self.reason, self.trips, self._probe_at = reason, self.trips + 1, now + self.wait_s

    def answered(self) -> bool:
        """The EMP answered as one that works, whatever it made of the message. Returns whether that closes the breaker."""
        was_closed = self.reason is None
        self.reason, self.trips, self.wait_s, self._failures = None, 0, 0.0, 0
        return not was_closed
