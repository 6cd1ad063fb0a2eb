"""What an EMP was told lately, in case the database does not have it: an answer that could not be recorded while the database was away, and
what it loses when it fails over to a server that had not got it yet.

It outlives the lane that fills it, but not the lease under which that works: between two leases others may tell the EMP more.
Never more than `MOST` messages; when older ones are forgotten, `since` says from when on everything is remembered.
"""

import time
from dataclasses import dataclass, replace
from datetime import datetime

import orjson

from cdc_pusher.claims import Claim, Result
from cdc_pusher.model import Kind

MOST = 10_000  # messages

Message = tuple[str, str]  # kind, key


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the EMP was told, or may have been; kept in case the database loses its record. `late`: it may still be processed."""

    kind: Kind
    key: str
    station_id: str
    payload: bytes  # JSON
    late: bool = False

    def made_late(self) -> "Told":
        """The same, but a request may be processed after it."""
        return replace(self, late=True)


def told(claim: Claim, *, late: bool = False) -> Told:
    """What this claim's request has told the EMP."""
    payload = bytes(memoryview(orjson.dumps(claim.payload)))  # what orjson returns holds on to more memory than it says
    return Told(kind=claim.kind, key=claim.key, station_id=claim.station_id, payload=payload, late=late)


@dataclass(frozen=True, slots=True)
class _Last:
    told: Told
    late_at: float | None  # when a request ended that may be processed after it; seconds, monotonic


class Memory:
    """Of one EMP.

    `epoch`: of the lease under which it is filled. `results`: what is answered and not recorded yet; `strays`: what was told, perhaps, by
    requests whose claims the database has lost, and is not in doubt there yet. `now`: by the database's clock, when books were kept last;
    `since`: by the same clock, from when on everything is remembered, None: all that was told under the lease. `has_gap`: another
    server may lack records of what we do not remember either.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.results: list[Result] = []
        self.strays: list[Told] = []
        self.now: datetime | None = None
        self.since: datetime | None = None
        self.has_gap = False
        self._last: dict[Message, _Last] = {}
        self._sending: dict[Message, Claim] = {}

    def begin(self, epoch: int, *, has_gap: bool = False) -> None:
        """What follows is told under the lease of this epoch; what was told under another may have been overtaken, and counts no more.

        `has_gap`: others may have told the EMP something since we did.
        """
        if epoch != self.epoch:
            self.epoch, self.since, self.has_gap = epoch, None, False
            self._last.clear()
        self.has_gap = self.has_gap or has_gap

    def close_gap(self) -> None:
        """The server has all records, or is to send everything: so has any other that has records of later than now."""
        self.since, self.has_gap = self.now, False

    @property
    def is_new(self) -> bool:
        """Whether the EMP has never been told anything, by nobody."""
        return self.epoch <= 1 and not self.has_gap and not self._last and not self._sending

    def sent(self, claim: Claim) -> None:
        """Its request goes out now."""
        self._sending[claim.kind, claim.key] = claim

    def answered(self, claim: Claim, *, accepted: bool, uncertain: bool) -> None:
        """Its request has ended: accepted, refused for sure, or nobody knows (`uncertain`)."""
        message = claim.kind, claim.key
        self._sending.pop(message, None)
        if not accepted and not uncertain:
            return
        before = self._last.pop(message, None)
        late_at = time.monotonic() if uncertain else before.late_at if before else None
        self._last[message] = _Last(told(claim), late_at)
        if len(self._last) > MOST:
            del self._last[next(iter(self._last))]
            self.since = self.now

    def all(self, *, quiet_s: float) -> list[Told]:
        """The last word of each message; `late` if a request may still be processed after it, which is over after `quiet_s` seconds."""
        quiet_since = time.monotonic() - quiet_s
        words = {
            message: last.told.made_late() if last.late_at is not None and last.late_at > quiet_since else last.told
            for message, last in self._last.items()
        }
        sending = {message: told(claim, late=True) for message, claim in self._sending.items()}
        return list({**words, **sending}.values())
