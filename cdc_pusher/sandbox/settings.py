"""How a sandbox is set up."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSettings:
    """Where the sandbox listens (port 0: any that is free), whom it knows, how strict it is and how it misbehaves (see `faults`)."""

    host: str = "127.0.0.1"
    port: int = 0
    api_key: str = "sandbox-key"
    partner_identifier: str = "sandbox-partner-0001"
    connectors_may_change: bool = False
    seed: int = 0
    faults: tuple[Mapping[str, Any], ...] = ()
    ledger_size: int = 200_000
