"""How the sandbox misbehaves: reads the rules and chooses a fault for each request; pure but for its own seeded generator.

    delay        waits `seconds`, then goes on normally
    http         answers `status` (with `retry_after`), without a readable body; not processed
    drop_before  cuts the connection; not processed
    drop_after   processes the message, then cuts the connection without an answer
    hang         never answers: until the client leaves, or for `seconds`; processed (at once) if `applied`
    garbage      processes the message, then answers 200 with a body that is not JSON
    code         answers the result code `code` (with the HTTP status that goes with it, or `status`); not processed
    late         cuts the connection at once, and processes the message `seconds` later

`seconds` is a number or `[min, max]`. Every rule may have `probability` (0 to 1, else 1), `match` ("station" or "status", else any
request, readable or not) and `times` (how often at most). The first rule in the list that fits and strikes is the one; a generator
seeded with `seed` is asked once for every rule that fits, so the same requests in the same order meet the same faults.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cdc_pusher.errors import ConfigurationError
from cdc_pusher.model import Kind
from cdc_pusher.sandbox.shape import Check, Mismatch, anything, array, each, fields, flag, integer, number, one_of, or_null, text


def _seconds(value: Any, where: str) -> None:
    not_negative = number(low=0)
    if isinstance(value, (list, tuple)):
        array(not_negative, not_negative)(list(value), where)
        if value[0] > value[1]:
            raise Mismatch(where, f"must be [min, max], not {value}")
    else:
        not_negative(value, where)


def _retry_after(value: Any, where: str) -> None:
    """Seconds, or an HTTP date as a string (OIOI v4, transport)."""
    if not isinstance(value, str):
        integer(low=0)(value, where)


_status = integer(low=300, high=599)
_ANY = {"probability": number(0, 1), "match": or_null(one_of({"station", "status"})), "times": or_null(integer(low=1))}


def _rule(required: Mapping[str, Check], optional: Mapping[str, Check]) -> Check:
    return fields({"kind": text, **required}, {**_ANY, **optional}, name="fault")


_KINDS: dict[str, Check] = {
    "delay": _rule({"seconds": _seconds}, {}),
    "http": _rule({"status": _status}, {"retry_after": or_null(_retry_after)}),
    "drop_before": _rule({}, {}),
    "drop_after": _rule({}, {}),
    "hang": _rule({}, {"seconds": or_null(_seconds), "applied": flag}),
    "garbage": _rule({}, {}),
    "code": _rule({"code": integer(low=0, high=999)}, {"status": or_null(integer(low=200, high=599))}),
    "late": _rule({"seconds": _seconds}, {}),
}
_kind = one_of(_KINDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One way to misbehave; the fields that its kind does not have are None."""

    kind: str
    probability: float = 1.0
    match: Kind | None = None
    times: int | None = None
    seconds: tuple[float, float] | None = None
    status: int | None = None
    retry_after: int | str | None = None
    code: int | None = None
    applied: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens to one request: the rule that struck, and the seconds it drew."""

    rule: Rule
    seconds: float | None


class Faults:
    """The rules in force, with their generator and how often each may still strike. A mistake in them is a `ConfigurationError`."""

    def __init__(self, rules: Sequence[Any], *, seed: int) -> None:
        self.seed = seed
        self.rules = _read(list(rules))
        self._random = random.Random(seed)
        self._left = [rule.times for rule in self.rules]

    def as_json(self) -> dict[str, Any]:
        """What `PUT /faults` takes to say the same again."""
        return {"seed": self.seed, "rules": [{k: v for k, v in asdict(rule).items() if v is not None} for rule in self.rules]}

    def choose(self, kind: Kind | None) -> Fault | None:
        """The fault for the next request, or nothing; `kind` is None for a request that could not be read."""
        for index, rule in enumerate(self.rules):
            left = self._left[index]
            if left == 0 or rule.match not in (None, kind) or self._random.random() >= rule.probability:
                continue
            if left is not None:
                self._left[index] = left - 1
            return Fault(rule=rule, seconds=self._random.uniform(*rule.seconds) if rule.seconds else None)
        return None


def read_request(document: Any, *, seed: int) -> Faults:
    """What `PUT /faults` was sent: `{"seed": …, "rules": […]}`, or the list of rules alone; without a seed it is `seed`."""
    if isinstance(document, list):
        return Faults(document, seed=seed)
    try:
        fields({"rules": each(anything, empty=True)}, {"seed": integer()})(document, "")
    except Mismatch as error:
        raise ConfigurationError(str(error)) from error
    return Faults(document["rules"], seed=document.get("seed", seed))


def _read(rules: list[Any]) -> tuple[Rule, ...]:
    try:
        for index, rule in enumerate(rules):
            where = f"rules[{index}]"
            kind = rule.get("kind") if isinstance(rule, dict) else None
            if kind is None:
                raise Mismatch(where, f"must be an object with a kind, one of {', '.join(_KINDS)}")
            _kind(kind, f"{where}.kind")
            _KINDS[kind](rule, where)
    except Mismatch as error:
        raise ConfigurationError(str(error)) from error
    return tuple(Rule(**{**rule, "seconds": _range(rule.get("seconds"))}) for rule in rules)


def _range(seconds: Any) -> tuple[float, float] | None:
    if seconds is None:
        return None
    low, high = seconds if isinstance(seconds, (list, tuple)) else (seconds, seconds)
    return float(low), float(high)
