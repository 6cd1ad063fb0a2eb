"""The least that a trigger can do which tells another process of a change for sure: one row for each, and nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.arms.arm import Arm
from bench.cpo import Cpo
from bench.emp import Emp

TABLE = "CREATE TABLE told (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, station_id text NOT NULL)"
FUNCTION = """CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO told (station_id) VALUES (NEW.station_id);
    RETURN NULL;
END
$$"""
TRIGGER = "CREATE TRIGGER tell AFTER UPDATE ON connector FOR EACH ROW EXECUTE FUNCTION tell()"


@dataclass(frozen=True, slots=True, kw_only=True)
class Least(Arm):
    """It has no worker: what it writes stays."""

    name: str = "a trigger that inserts a row"
    is_fast: bool = False
    has_worker: bool = False

    def missing(self) -> str:
        return ""

    def install(self, cpo: Cpo, emp: Emp) -> None:
        for statement in (TABLE, FUNCTION, TRIGGER):
            cpo.sql(statement)

    def command(self, cpo: Cpo, url: str) -> Sequence[str]:
        raise NotImplementedError  # `has_worker` is false

    def environ(self, cpo: Cpo) -> Mapping[str, str]:
        return {}
