"""One figure, and the goal that it is held against."""

from dataclasses import asdict, dataclass, fields
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
    def has_goal(self) -> bool:
        return self.at_most is not None or self.at_least is not None

    @property
    def row(self) -> dict[str, Any]:
        return asdict(self) | {"met": self.met}

    @classmethod
    def of(cls, row: dict[str, Any]) -> "Result":
        """The result that a `row` was made of."""
        return cls(**{field.name: row[field.name] for field in fields(cls)})

    @property
    def line(self) -> str:
        goal = f"≤ {self.at_most:g}" if self.at_most is not None else f"≥ {self.at_least:g}" if self.at_least is not None else ""
        verdict = "" if not goal else "ok" if self.met else "MISSED"
        name = f"{self.arm}: {self.name}" if self.arm else self.name
        value = f"{self.value:,.0f}" if abs(self.value) >= 1000 else f"{self.value:.3g}"
        return f"{name:<66}{value:>10} {self.unit:<4} {goal:<10} {verdict:<7} {self.note}".rstrip()
