"""ARCHITECTURE.md is true: it lists every module, in the module's own words."""

from __future__ import annotations

import pytest

from tools.modules import DOCUMENT, PACKAGES, module_list, modules, written_list


def test_the_list_of_modules_is_up_to_date() -> None:
    """Every module stands in ARCHITECTURE.md with its first docstring line (make modules)."""
    assert written_list(DOCUMENT.read_text(encoding="utf-8")) == module_list()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_says_what_it_is(package: str) -> None:
    """A module opens with one sentence on one line, or its line in ARCHITECTURE.md would say nothing."""
    silent = [path for path, sentence in modules(package) if len(sentence) < 10 or sentence[-1] not in ".:"]
    assert silent == []
