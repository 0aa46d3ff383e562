"""The requirement files: compiled from what we ask for, pinned by hash, each with a reason."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.repo.files import REPOSITORY

FILES = REPOSITORY / "requirements"
COMPILED = ("base", "local", "dev", "uv", "torch")
PIN = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>[^\s;\\]+)(?P<rest>(?:.*\\\n)*.*)$", re.MULTILINE)


def project() -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """Return (base requirements, requirements of each extra) of pyproject.toml."""
    table = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = table["optional-dependencies"]
    return (
        [Requirement(line) for line in table["dependencies"]],
        {name: [Requirement(line) for line in lines] for name, lines in extras.items()},
    )


def asked(stem: str) -> Iterator[Requirement]:
    """Yield what an .in file asks for, with the files it includes."""
    for line in (FILES / f"{stem}.in").read_text().splitlines():
        if line.startswith("-r "):
            yield from asked(line.removeprefix("-r ").removesuffix(".in"))
        elif line and not line.startswith("#"):
            yield Requirement(line)


def pins(stem: str) -> list[tuple[str, Version]]:
    """Return (name, version) of each pin; a name stands twice when its version depends on the Python."""
    text = (FILES / f"{stem}.txt").read_text()
    return [(canonicalize_name(match["name"]), Version(match["version"])) for match in PIN.finditer(text)]


def direct() -> dict[str, list[Requirement]]:
    """Return what each compiled file must hold."""
    base, extras = project()
    everything = [*base, *(one for lines in extras.values() for one in lines if one.name != "runwire")]
    data_frames = {one.name for one in extras["query"]} - {one.name for one in extras["consumer"]}
    return {
        "base": base,
        "local": [*(one for one in everything if one.name not in data_frames), *asked("build")],
        "dev": [*everything, *asked("dev")],
        "uv": list(asked("uv")),
        "torch": [*base, *asked("torch")],
    }


@pytest.mark.parametrize("stem", COMPILED)
def test_compiled_files_hold_what_is_asked_for(stem: str) -> None:
    """Nobody changed pyproject.toml or an .in file without `make compile`."""
    pinned = pins(stem)
    stale = [
        str(requirement)
        for requirement in direct()[stem]
        if not any(
            name == canonicalize_name(requirement.name) and requirement.specifier.contains(version, prereleases=True)
            for name, version in pinned
        )
    ]
    assert stale == []


@pytest.mark.parametrize("stem", COMPILED)
def test_every_pin_has_its_hashes_and_no_address(stem: str) -> None:
    """What is installed is what was compiled, from whatever registry the machine uses."""
    text = (FILES / f"{stem}.txt").read_text()
    assert [match["name"] for match in PIN.finditer(text) if "--hash=sha256:" not in match["rest"]] == []
    assert [
        line for line in text.splitlines() if line and not line.startswith((" ", "#")) and not PIN.match(line)
    ] == []
    assert "://" not in text


def test_a_package_has_one_version_in_all_sets() -> None:
    """A test runs against what a user gets."""
    development = set(pins("dev"))
    assert set(pins("base")) <= set(pins("local")) <= development


def test_the_base_install_stays_light() -> None:
    """A trainer carries 12 packages at most, runwire included."""
    assert len({name for name, _ in pins("base")} | {"runwire"}) <= 12


def test_every_direct_dependency_has_its_reason() -> None:
    """CONTRIBUTING.md says in one line why each package we ask for is here."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    explained = {canonicalize_name(name) for name in re.findall(r"(?m)^- `([\w.-]+)`: \S+", text)}
    wanted = {canonicalize_name(one.name) for lines in direct().values() for one in lines}
    assert wanted - explained == set()
    assert explained - wanted == set()
