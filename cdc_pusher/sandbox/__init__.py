"""A strict OIOI v4 EMP to test against: for CPO engineers before staging, and for our own tests as the oracle.

It is an independent reading of the protocol text: nothing here may import the sender's encoder (`cdc_pusher.oioi`), or a mistake in
the one would be blessed by the other. `shape` says what JSON may look like, `rules` what OIOI v4 allows, `emp` what the EMP holds and
therefore refuses, `faults` how it misbehaves, `ledger` what it remembers; all of these are pure. `endpoint` answers requests
with them, `server` listens and shows what is inside.
"""

from cdc_pusher.sandbox.server import Sandbox, serve
from cdc_pusher.sandbox.settings import SandboxSettings

__all__ = ["Sandbox", "SandboxSettings", "serve"]
