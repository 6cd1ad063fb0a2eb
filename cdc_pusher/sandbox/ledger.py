"""Remembers every request that was processed, newest last, and counts them; pure (`now` is an argument)."""

from collections import Counter, deque
from itertools import islice
from typing import Any, TypedDict

from cdc_pusher.sandbox.rules import Message


class Entry(TypedDict):
    """One request. Times are Unix seconds; `finished_at` is None while the request hangs.

    `seq` gives the order in which requests were applied, without gaps. `outcome` is `accepted`, `refused:<code>` or `fault:<kind>`.
    """

    seq: int
    received_at: float
    finished_at: float | None
    kind: str | None
    key: str | None
    payload: Any
    outcome: str
    applied: bool


class Ledger:
    """At most `size` entries, and counts over everything since the start."""

    def __init__(self, *, size: int) -> None:
        self.entries: deque[Entry] = deque(maxlen=size)
        self.accepted: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._seq = 0

    def record(self, message: Message, *, outcome: str, applied: bool, received_at: float, finished_at: float | None) -> Entry:
        """Adds the request and gives its entry."""
        self._seq += 1
        entry: Entry = {
            "seq": self._seq,
            "received_at": received_at,
            "finished_at": finished_at,
            "kind": message.kind,
            "key": message.key,
            "payload": message.payload,
            "outcome": outcome,
            "applied": applied,
        }
        self.entries.append(entry)
        if outcome == "accepted" and message.kind is not None:
            self.accepted[message.kind] += 1
        elif outcome.startswith("refused:"):
            self.refused[outcome.removeprefix("refused:")] += 1
        return entry

    def after(self, seq: int) -> list[Entry]:
        """The entries with a higher `seq` that are still kept."""
        first = self._seq - len(self.entries) + 1
        return list(islice(self.entries, max(0, seq + 1 - first), None))
