"""docs/guides/faults.md is whole: each kind of anomaly is in it, and its queries run."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.consumer.small_store import small_store
from tests.docs.blocks import GUIDES
from tests.repo.files import REPOSITORY

PAGE = (GUIDES / "faults.md").read_text(encoding="utf-8")


def test_each_kind_of_anomaly_is_in_the_guide() -> None:
    """What a source counts, a person finds."""
    folder = REPOSITORY / "consumer" / "runwire_consumer" / "sources"
    code = "".join(file.read_text(encoding="utf-8") for file in folder.glob("*.py"))
    kinds = set(re.findall(r'_anomalies\["(\w+)"\]', code)) | {"log_truncated"}
    assert len(kinds) > 8
    assert {kind for kind in kinds if f"`{kind}`" not in PAGE} == set()


@pytest.mark.parametrize("command", [line for line in PAGE.splitlines() if line.startswith("runwire sql")])
def test_its_queries_run(command: str) -> None:
    """As a shell hands them over."""
    (_, _, query) = shlex.split(command, comments=True)
    small_store().cursor().execute(query)
