"""`pip install .` brings a script few packages."""

from importlib.metadata import requires

from packaging.requirements import Requirement

ALLOWED = 6
"""Packages beyond gRPC, protobuf and NumPy."""


def needed(name: str, known: set[str]) -> set[str]:
    """Return what a package needs without extras, and what that needs."""
    for text in requires(name) or ():
        requirement = Requirement(text)
        is_needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if is_needed and requirement.name not in known:
            known.add(requirement.name)
            needed(requirement.name, known)
    return known


def test_the_client_brings_few_packages() -> None:
    """No framework and none of what the services need."""
    found = needed("reinforced-regularization", set())

    assert {"grpcio", "protobuf", "numpy"} <= found
    assert len(found - {"grpcio", "protobuf", "numpy"}) <= ALLOWED, sorted(found)
