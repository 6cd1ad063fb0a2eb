"""What happens between two states, in words."""

from typing import NamedTuple

from model.state import State

NAMES = ("the station", "E1", "E2")


class Label(NamedTuple):
    """What happens, to which entity, in which daemon (-1: none)."""

    verb: str
    entity: int = -1
    daemon: int = -1

    def __str__(self) -> str:
        subject = f"daemon {self.daemon + 1} " if self.daemon >= 0 else ""
        return f"{subject}{self.verb}" + (f": {NAMES[self.entity]}" if self.entity >= 0 else "")


Step = tuple[Label, State]
