"""Prints what the environment that it runs in consists of: each distribution with its version and licence, a line each."""

import sys
from importlib.metadata import Distribution, distributions

OWN = "cdc-pusher"


def licence(distribution: Distribution) -> str:
    """As the distribution itself says, in the first of the ways there are that is a name and not the whole text."""
    said = distribution.metadata
    classifiers = [name.rpartition(" :: ")[2] for name in said.get_all("Classifier") or () if name.startswith("License :: ")]
    names = (*(said.get_all("License-Expression") or ()), ", ".join(classifiers), *(said.get_all("License") or ()))
    return next((name for name in names if name and len(name.splitlines()) == 1), "see there")


if __name__ == "__main__":
    for found in sorted(distributions(), key=lambda one: one.name.lower()):
        if found.name != OWN:
            sys.stdout.write(f"  {found.name} {found.version}: {licence(found)}\n")
