"""Goes through every state that can be reached, and finds the shortest way to one that must not be."""

import gc
from array import array
from dataclasses import dataclass, field

from model import properties
from model.protocol import Protocol
from model.state import State, canonical
from model.step import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the exploration came to. `broken`: the property that does not hold, and `trace` the shortest way there."""

    states: int
    steps: int
    at_rest: int
    labels: frozenset[str]
    broken: str | None = None
    trace: list[Step] = field(default_factory=list)

    def __str__(self) -> str:
        told = [f"{number:3}  {label}" for number, (label, _) in enumerate(self.trace, 1)]
        return "\n".join([f"broken: {self.broken}", *told, *([repr(self.trace[-1][1])] if self.trace else [])])


class Explorer:
    """Breadth first, up to symmetry (`canonical`)."""

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self.states: list[State] = []
        self.parents = array("l")
        self.sources, self.targets = array("l"), array("l")  # of the steps of the system
        self.steps = 0
        self.at_rest = 0
        self.verbs: set[str] = set()

    def explore(self) -> Found:
        """Check every step and every state at rest; then that every way of the system ends."""
        gc.disable()  # which looks at every state, and finds none that can go
        try:
            return self._explore()
        finally:
            gc.enable()

    def _explore(self) -> Found:
        first = canonical(self.protocol.initial())
        self.numbers = {first: 0}
        self.states.append(first)
        self.parents.append(-1)
        number = 0
        while number < len(self.states):
            if broken := self._expand(number):
                return self._found(*broken)
            number += 1
        if (cycle := self._on_a_cycle()) is not None:
            return self._found(properties.ENDS, self._trace(cycle))
        return self._found(None, [])

    def _expand(self, number: int) -> tuple[str, list[Step]] | None:
        state, rests = self.states[number], True
        for label, after in self.protocol.system(state):
            rests = False
            if broken := properties.broken_by(state, label, after):
                return broken, [*self._trace(number), (label, after)]
            self.sources.append(number)
            self.targets.append(self._number(after, number))
            self.verbs.add(label.verb)
        for label, after in self.protocol.environment(state):
            self.steps += 1
            self.verbs.add(label.verb)
            self._number(after, number)
        if rests:
            self.at_rest += 1
            if broken := properties.broken_at_rest(state):
                return broken, self._trace(number)
        return None

    def _number(self, state: State, parent: int) -> int:
        state = canonical(state)
        number = self.numbers.setdefault(state, len(self.states))
        if number == len(self.states):
            self.states.append(state)
            self.parents.append(parent)
        return number

    def _trace(self, number: int) -> list[Step]:
        """The way to a state, told without exchanging names: E1 stays E1."""
        path = []
        while number >= 0:
            path.append(self.states[number])
            number = self.parents[number]
        state, told = self.protocol.initial(), []
        for wanted in path[-2::-1]:
            steps = (*self.protocol.system(state), *self.protocol.environment(state))
            step = next(step for step in steps if canonical(step[1]) == wanted)
            told.append(step)
            state = step[1]
        return told

    def _on_a_cycle(self) -> int | None:
        """A state from which the system can go on for ever, if there is one: it is left when those that nothing leads to are taken away."""
        incoming = array("l", bytes(8 * len(self.states)))
        for target in self.targets:
            incoming[target] += 1
        first = array("l", bytes(8 * (len(self.states) + 1)))  # the steps of a state stand together
        for source in self.sources:
            first[source + 1] += 1
        for number in range(len(self.states)):
            first[number + 1] += first[number]
        free = [number for number, count in enumerate(incoming) if not count]
        left = len(self.states)
        while free:
            number = free.pop()
            left -= 1
            for step in range(first[number], first[number + 1]):
                target = self.targets[step]
                incoming[target] -= 1
                if not incoming[target]:
                    free.append(target)
        return next(number for number, count in enumerate(incoming) if count) if left else None

    def _found(self, broken: str | None, trace: list[Step]) -> Found:
        steps = self.steps + len(self.targets)
        labels = frozenset(self.verbs)
        return Found(states=len(self.states), steps=steps, at_rest=self.at_rest, labels=labels, broken=broken, trace=trace)
