"""requirements-lock.txt: one version of every requirement, allowed by its floor, for every supported Python."""

from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LISTS = ("requirements.txt", "requirements-dev.txt", "requirements-app.txt")


def read(name: str) -> list[Requirement]:
    lines = (
        line.partition("#")[0].strip()
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
    )
    return [Requirement(line) for line in lines if line and not line.startswith("-r ")]


def locked(python: str) -> dict[str, str]:
    """The version of each package for a Python version on Linux; AssertionError if a package has two."""
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }
    versions: dict[str, str] = {}
    for requirement in read("requirements-lock.txt"):
        if requirement.marker is not None and not requirement.marker.evaluate(environment):
            continue
        name = canonicalize_name(requirement.name)
        (pin,) = requirement.specifier
        assert pin.operator == "==" and name not in versions, str(requirement)
        versions[name] = pin.version
    return versions


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("name", LISTS)
def test_every_requirement_is_locked_at_an_allowed_version(python, name):
    versions = locked(python)
    for requirement in read(name):
        package = canonicalize_name(requirement.name)
        assert package in versions, f"{package} is not in requirements-lock.txt"
        assert requirement.specifier.contains(versions[package]), (
            f"{requirement}: locked at {versions[package]}"
        )
