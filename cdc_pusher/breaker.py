"""When to leave an EMP alone that fails as a whole, and when to try again. Pure: `now` (seconds, monotonic) and chance are arguments.

    closed ──LIMIT messages fail in a row, or we are configured wrong──▶ open ──its wait is over──▶ half open
      ▲                                                                   ▲                            │
      └──────────── an answer that settles a message, whichever ──────────┼────────────────────────────┤
                                                                          └── one probe fails: twice the wait

Messages, not attempts: one that the EMP always fails on says nothing about the others. It never stays open for good: however often
probes fail, the next one comes after `CAP_S` at most, or when the EMP said (`Retry-After`).
"""

from dataclasses import dataclass, field
from typing import Literal

from cdc_pusher.policy import CONFIGURATION_RETRY_S

LIMIT = 5  # messages that fail, and none that does not
BASE_S, CAP_S = 1.0, 60.0

State = Literal["closed", "open", "half open"]


@dataclass(slots=True)
class Breaker:
    """Of one EMP. `reason` says why it is not closed, `trips` how often in a row it has opened, `wait_s` for how long."""

    reason: str | None = None
    trips: int = 0
    wait_s: float = 0.0
    _failing: set[str] = field(default_factory=set)
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

    def failed(
        self, now: float, message: str, reason: str, *, configuration: bool = False, after_s: float = 0.0, chance: float = 1.0
    ) -> None:
        """The EMP did not settle this message; `configuration`: it refuses us, and can settle none. `chance`: uniform in [0, 1)."""
        state = self.state(now)
        if state == "closed":
            self._failing.add(message)
        if state == "open" or (state == "closed" and len(self._failing) < LIMIT and not configuration):
            return  # an answer to what was sent before it opened says nothing new
        base_s = CONFIGURATION_RETRY_S if configuration else BASE_S
        backoff_s = min(CAP_S, base_s * 2.0 ** min(self.trips, 16))
        self.wait_s = max(after_s, backoff_s * (0.5 + chance / 2))
        self.reason, self.trips, self._probe_at = reason, self.trips + 1, now + self.wait_s

    def answered(self) -> bool:
        """The EMP accepted or refused a message for good: it works. Returns whether that closes the breaker."""
        was_closed = self.reason is None
        self.reason, self.trips, self.wait_s = None, 0, 0.0
        self._failing.clear()
        return not was_closed
