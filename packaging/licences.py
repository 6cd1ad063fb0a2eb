"""Prints what the environment that it runs in consists of: each distribution with its version and licence, a line each."""

import sys
from importlib.metadata import Distribution, distributions

OWN = "cdc-pusher"


def licence(distribution: Distribution) -> str:
    """As the distribution itself says, in the first of the three ways there are."""
    said = distribution.metadata
    classifiers = [name.rpartition(" :: ")[2] for name in said.get_all("Classifier") or () if name.startswith("License :: ")]
    text = said.get("License-Expression") or ", ".join(classifiers) or said.get("License") or "see there"
    return str(text).splitlines()[0]


if __name__ == "__main__":
    for found in sorted(distributions(), key=lambda one: one.name.lower()):
        if found.name != OWN:
            sys.stdout.write(f"  {found.name} {found.version}: {licence(found)}\n")
