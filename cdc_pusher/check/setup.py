"""Setting up CPOs, the first of the three steps: every CPO has a cpo-id at every EMP, and the EMP was told of it."""

from collections.abc import Iterator, Sequence

from cdc_pusher import cpos
from cdc_pusher.check.finding import EXAMPLES, Finding, number, ok, problem, warning
from cdc_pusher.config import EmpSettings, Settings
from cdc_pusher.cpos import Cpo


async def check(settings: Settings, *, verbose: bool) -> list[Finding]:
    """Compare the CPOs of the stations with those of the configuration. Raises `MappingError`."""
    listed = await cpos.listing(settings, sorted(settings.emp))
    found: list[Finding] = []
    for emp, configured in sorted(settings.emp.items()):
        found += _of_emp(emp, [one for one in listed if one.emp == emp], configured, verbose=verbose)
    return found


def _of_emp(emp: str, listed: Sequence[Cpo], configured: EmpSettings, *, verbose: bool) -> Iterator[Finding]:
    subject, section, limit = f"CPOs of {emp}", f"[emp.{emp}.cpos]", None if verbose else EXAMPLES
    manual = configured.confirm_cpos == "manual"
    real = [one for one in listed if one.cpo is not None and one.stations]
    unnamed = [one for one in real if one.cpo_id is None]
    untold = [one for one in real if one.cpo_id is not None and one.confirmed_at is None] if manual else []
    unused = [one for one in listed if not one.stations]
    if unnamed:
        stations = sum(one.stations for one in unnamed)
        text = f"{number(len(unnamed), 'CPO has', 'CPOs have')} no cpo-id: {_held(stations)} until {section} says it"
        yield problem(subject, text, count=stations, examples=map(_example, unnamed[:limit]))
    if untold:
        stations = sum(one.stations for one in untold)
        todo = "tell the EMP (cdc-pusher cpo export), then cdc-pusher cpo confirm"
        text = f"{number(len(untold), 'CPO')} not confirmed yet: {_held(stations)}; {todo}"
        yield warning(subject, text, count=stations, examples=map(_example, untold[:limit]))
    if unused:
        text = f"no station is of {number(len(unused), 'CPO')} in {section}: a misspelt identifier?"
        yield warning(subject, text, count=len(unused), examples=[str(one.cpo) for one in unused[:limit]])
    if real and not unnamed and not untold:
        yield ok(subject, f"{number(len(real), 'CPO')}, all with a cpo-id" + (" and confirmed" if manual else ""))


def _held(stations: int) -> str:
    return number(stations, "station is held", "stations are held")


def _example(one: Cpo) -> str:
    name = f" ({one.name})" if one.name else ""
    return f"'{one.cpo}'{name}: {number(one.stations, 'station')}"
