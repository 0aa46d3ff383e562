"""The part of `runwire up` that sends what dead processes left: it goes on, whatever a look meets."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from runwire_cli import up
from runwire_cli.settings import read_command_settings


async def test_a_look_that_fails_is_said_once_and_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Too many open files, say: the next look sends what waits."""
    looks = 0
    again = asyncio.Event()

    async def recover(_: Path, **__: Any) -> None:
        nonlocal looks
        looks += 1
        if looks <= 3:
            raise OSError(24, "Too many open files")
        again.set()

    monkeypatch.setattr(up, "recover", recover)
    monkeypatch.setattr(up, "RECOVERY_INTERVAL_SECONDS", 0.0)
    settings = read_command_settings(environ={"RUNWIRE_HOME": str(tmp_path)})
    recovering = asyncio.create_task(up._recover_again_and_again(settings))
    async with asyncio.timeout(10):
        await again.wait()
    recovering.cancel()
    assert [record.message for record in caplog.records].count(
        f"Journals in {tmp_path / 'journal'} can't be looked through: Too many open files."
    ) == 1
