"""One figure, and the goal that it is held against."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """`value` in `unit`; with a goal it has to be at most, or at least, that. `arm`: whose figure of that name it is."""

    name: str
    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""
    arm: str = ""

    @property
    def met(self) -> bool:
        return (self.at_most is None or self.value <= self.at_most) and (self.at_least is None or self.value >= self.at_least)

    @property
    def row(self) -> dict[str, Any]:
        return asdict(self) | {"met": self.met}

    @property
    def line(self) -> str:
        goal = f"≤ {self.at_most:g}" if self.at_most is not None else f"≥ {self.at_least:g}" if self.at_least is not None else ""
        verdict = "" if not goal else "ok" if self.met else "MISSED"
        name = f"{self.arm}: {self.name}" if self.arm else self.name
        return f"{name:<58}{self.value:>12,.3g} {self.unit:<6} {goal:<10} {verdict:<7} {self.note}".rstrip()
