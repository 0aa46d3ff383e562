"""Scalars of the real torch and jax, on CPUs: taken as they are at the moment of the call, without a wait for jax."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("frameworks.py")


@pytest.mark.long
@pytest.mark.timeout(600)
def test_scalars_of_torch_and_jax(torch_bin: Path, tmp_path: Path) -> None:
    """Every make arrives as its value, in the order of the calls; what is no number is refused, and says so."""
    done = subprocess.run(
        [torch_bin / "python", PROGRAM, tmp_path], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [tuple(point) for point in told["points"]] == [
        ("in place", 0, "0.0"),
        ("in place", 1, "1.0"),
        ("in place", 2, "2.0"),
        ("busy", 0, "7.0"),
        ("torch/grad", 9, "3.0"),
        ("torch/bfloat16", 9, "0.5"),
        ("torch/int", 9, "3.0"),
        ("torch/bool", 9, "1.0"),
        ("torch/1x1", 9, "1.0"),
        ("torch/parameter", 9, "0.25"),
        ("torch/nan", 9, "nan"),
        ("jax/float", 9, "0.125"),
        ("jax/int", 9, "4.0"),
        ("jax/bfloat16", 9, "2.0"),
        ("unconvertible", 9, "6.0"),
    ]
    assert told["refused"] == ["two", "complex", "none of it", "meta"]
    assert told["was_busy"], "the product of five matrices was there before log() could return"
