"""Counts what is wrong with stations, by what it is and not by whom it concerns. Pure, and in constant memory.

Only the examples grow with the problems, and only if all of them are asked for.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

from cdc_pusher.check.finding import EXAMPLE_LIMIT, line
from cdc_pusher.model import Held

WORDS = 1_000  # different words that nobody mapped; beyond that they are counted together

_POSITION = re.compile(r" at position \d+")


class Faults:
    """Faults by their text, with examples: all of them, or the first `limit`."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = defaultdict(list)

    def note(self, key: str, held: Held, *, only: Callable[[str], bool] = lambda _: True) -> None:
        """Count each fault of one station or EVSE; those that `only` lets through."""
        for fault in dict.fromkeys(_POSITION.sub("", fault) for fault in held.faults or ("cannot be sent",)):
            if only(fault):
                self._counts[fault] += 1
                examples = self._examples[fault]
                if self._limit is None or len(examples) < self._limit:
                    examples.append(line(f"{line(key)}: {_part(held.reason, fault)}", EXAMPLE_LIMIT))

    def most_common(self) -> Iterator[tuple[str, int, tuple[str, ...]]]:
        """Each fault with its count and examples, the most frequent first."""
        for fault, count in sorted(self._counts.items(), key=lambda item: (-item[1], item[0])):
            yield fault, count, tuple(self._examples[fault])


class Words:
    """Words that are none of the protocol's, each with the first station it was seen at."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._stations: dict[str, str] = {}
        self.others = 0

    def note(self, word: object, station_id: str) -> None:
        """Count one connector."""
        text = line(word, 60)
        if text not in self._stations:
            if len(self._stations) == WORDS:
                self.others += 1
                return
            self._stations[text] = line(station_id)
        self._counts[text] += 1

    @property
    def connectors(self) -> int:
        return self._counts.total() + self.others

    def most_common(self) -> Iterator[tuple[str, int, str]]:
        """Each word with its connectors and a station, the most frequent first."""
        for word, count in sorted(self._counts.items(), key=lambda item: (-item[1], item[0])):
            yield word, count, self._stations[word]


def _part(reason: str, fault: str) -> str:
    """What a reason says of one of its faults.

    >>> _part("name: is blank (' '); zip: is missing (None); city: is missing (None)", "zip: is missing")
    'zip: is missing (None)'
    """
    begin = reason.find(fault)
    if begin < 0:
        return reason
    end = reason.find("); ", begin)
    return reason[begin:] if end < 0 else reason[begin : end + 1]
