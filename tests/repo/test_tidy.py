"""Conventions that no other tool holds; each test names the files that break one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.repo.files import REPOSITORY, ROOTS, committed_files, dotted, name_of, python_files, texts, tree

MODULE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
FILE_BYTES_MAX = 2**20

# What a file of ours must not say, as (what it is, pattern).
# Ada's home is an example in tests; this file is left out.
FORBIDDEN_TEXTS = [
    ("a path of somebody's machine", r"(?<![\w.$}~<-])/(?:work|root|Users/\w+|home/(?!(?:runwire|ada)\b)\w+)/"),
    ("a package registry", r"pypi\.org|pythonhosted\.org|registry\.npmjs|repo1?\.maven|proxy\.golang\.org"),
    ("an index option", r"--(?:extra-)?index-url|--find-links|\bindex-url\s*="),
    ("a lock that carries registry addresses", r'"resolved": "http'),
    ("a merge conflict", r"(?m)^(?:<{7}|>{7}) "),
    ("a private key", r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----\s+[\w+/=]{40}"),
]
SELF = "tests/repo/test_tidy.py"

# Calls that run or build code from data, in any file of ours: there is always a better way.
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "os.system",
    "pickle.load",
    "pickle.loads",
    "marshal.load",
    "marshal.loads",
    "torch.load",
    "joblib.load",
    "yaml.load",
    "yaml.unsafe_load",
}
ENVIRONMENT = {"os.environ", "os.getenv"}
# demo_train.py stands for a user's script, which reads what torchrun sets.
MAY_READ_ENVIRONMENT = {"settings.py", "_settings.py", "demo_train.py"}


@pytest.mark.parametrize(("what", "pattern"), FORBIDDEN_TEXTS, ids=[what for what, _ in FORBIDDEN_TEXTS])
def test_no_file_says(what: str, pattern: str) -> None:
    """A clone works anywhere: nothing names one machine, one registry or a secret."""
    found = [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match.group()!r}"
        for name, text in texts()
        if name != SELF
        for match in re.finditer(pattern, text)
    ]
    assert found == [], what


def test_no_uv_lock_and_no_big_file() -> None:
    """uv.lock carries registry addresses; what is big belongs elsewhere."""
    paths = committed_files()
    assert [name_of(path) for path in paths if path.name == "uv.lock"] == []
    assert [name_of(path) for path in paths if path.stat().st_size > FILE_BYTES_MAX] == []


def test_modules_can_be_read_in_a_sitting() -> None:
    """No module of the four packages is longer than the limit."""
    lines = {name: len((REPOSITORY / name).read_text().splitlines()) for name in python_files(*ROOTS)}
    assert {name: count for name, count in lines.items() if count > MODULE_LINES_MAX} == {}


def test_functions_can_be_seen_whole() -> None:
    """No function of the four packages is longer than one screen, its docstring left out."""
    long = [
        f"{name}:{node.lineno} {node.name}: {lines(node)} lines"
        for name in python_files(*ROOTS)
        for node in ast.walk(tree(name))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and lines(node) > FUNCTION_LINES_MAX
    ]
    assert long == []


def lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the length of a function without its docstring."""
    docstring = (ast.get_docstring(function, clean=False) or "").count("\n")
    return (function.end_lineno or function.lineno) - function.lineno + 1 - docstring


def test_no_call_runs_code_from_data() -> None:
    """No pickle, eval, unsafe yaml and the like, not even with a noqa; a literal is code like any other."""
    found = [
        f"{name}:{node.lineno} {dotted(node.func)}"
        for name in python_files()
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Call) and dotted(node.func) in FORBIDDEN_CALLS
        if not (dotted(node.func) == "exec" and all(isinstance(given, ast.Constant) for given in node.args))
    ]
    assert found == []


def test_only_settings_read_the_environment() -> None:
    """Configuration is read once, at the edge: os.environ and os.getenv stand in settings modules alone.

    Handing all of it on to a child, `{**os.environ, ...}`, is no reading.
    """
    found = [
        f"{name}:{line}"
        for name in python_files(*ROOTS)
        if name.rpartition("/")[2] not in MAY_READ_ENVIRONMENT
        for line in lines_that_read_the_environment(tree(name))
    ]
    assert found == []


def lines_that_read_the_environment(module: ast.Module) -> Iterator[int]:
    """Yield where os.environ or os.getenv is used or imported."""
    handed_on = {
        value
        for node in ast.walk(module)
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if key is None
    }
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom):
            if node.module == "os" and any(alias.name in {"environ", "getenv"} for alias in node.names):
                yield node.lineno
        elif isinstance(node, ast.Attribute) and node not in handed_on and dotted(node) in ENVIRONMENT:
            yield node.lineno


def test_no_package_imports_its_own_root() -> None:
    """A module imports what it needs from where it is, never through the package's public face."""
    found = [
        f"{name}:{line}"
        for name in python_files(*ROOTS)
        for line in lines_that_import_names_of(Path(*Path(name).parts[:2]), tree(name))
    ]
    assert found == []


def lines_that_import_names_of(package: Path, module: ast.Module) -> Iterator[int]:
    """Yield where a package imports its own root, a name of it that is no module, or relatively."""
    folder = REPOSITORY / package
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            if any(alias.name == package.name for alias in node.names):
                yield node.lineno
        elif isinstance(node, ast.ImportFrom) and (node.level or node.module == package.name):
            paths = [folder / alias.name for alias in node.names]
            if node.level or not all(path.is_dir() or path.with_suffix(".py").is_file() for path in paths):
                yield node.lineno


def test_every_package_is_typed() -> None:
    """py.typed stands in each of the four packages, or type checkers ignore all annotations."""
    packages = {"/".join(name.split("/")[:2]) for name in python_files(*ROOTS)}
    assert len(packages) == len(ROOTS)
    assert [package for package in sorted(packages) if not (REPOSITORY / package / "py.typed").is_file()] == []
