"""Who should have which lease: decided by every daemon for itself, from the same tables, with the same result. Pure.

The living share the leases evenly. A free one goes to whoever has least; a daemon that has two more than another one, which has lived for
some time, gives one away, `CAPTURE` last, since who captures reads the source anew.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

CAPTURE = "capture"


def lane(emp: str) -> str:
    """The name of the lease of an EMP's lane.

    >>> lane("alpha")
    'lane alpha'
    """
    return f"lane {emp}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """The living daemons with the leases that each could have, and who has which (None: nobody). `settled`: not just started."""

    daemons: Mapping[str, Set[str]]
    holders: Mapping[str, str | None]
    settled: Set[str] = frozenset()

    def to_take(self, me: str) -> Sequence[str]:
        """The free leases that are mine to take.

        >>> Roster(daemons={"a": {"x", "y"}, "b": {"x", "y"}}, holders={"x": "a", "y": None}).to_take("b")
        ['y']
        """
        load = self._load()
        mine = []
        for name, holder in sorted(self.holders.items()):
            if holder is None and (able := self._able(name)):
                least = min(able, key=lambda daemon: (load[daemon], daemon))
                load[least] += 1
                if least == me:
                    mine.append(name)
        return mine

    def to_give(self, me: str) -> str | None:
        """A lease of mine that another daemon should have. None: all is even, or there are free ones to be shared first.

        >>> Roster(daemons={"a": {"x", "y"}, "b": {"x", "y"}}, holders={"x": "a", "y": "a"}, settled={"b"}).to_give("a")
        'y'
        """
        load = self._load()
        if me not in load or any(holder is None and self._able(name) for name, holder in self.holders.items()):
            return None
        mine = sorted((name for name, holder in self.holders.items() if holder == me), key=lambda name: (name == CAPTURE, name))
        lanes = [name for name in mine if name != CAPTURE]
        for name in [*reversed(lanes), *(mine[len(lanes) :])]:
            if any(load[me] - load[other] >= 2 for other in self._able(name) if other in self.settled):
                return name
        return None

    def _able(self, name: str) -> list[str]:
        return [daemon for daemon, leases in self.daemons.items() if name in leases]

    def _load(self) -> dict[str, int]:
        held = list(self.holders.values())
        return {daemon: held.count(daemon) for daemon in self.daemons}
