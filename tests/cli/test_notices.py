"""`runwire up` tells a webhook of runs that break, and keeps its address to itself."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runwire_cli.errors import CommandError
from runwire_cli.settings import read_command_settings
from tests.cli.commands import RUNWIRE, call, clean_environment
from tests.consumer.endpoint import SECRET, Endpoint
from tests.services.process import wait_until

DIVERGE = """
import runwire
run = runwire.init(project="digits", name="brave-fox")
run.log({"train/loss": float("nan")}, step=1)
run.alert("Look", "It is <!channel> NaN")
run.finish("failed", error="loss is NaN")
"""


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint().serving() as endpoint:
        yield endpoint


def test_a_run_that_breaks_reaches_people_and_the_address_nobody(tmp_path: Path, endpoint: Endpoint) -> None:
    """The endpoint is busy at first; nothing printed or kept shows its address; a restart tells nothing again."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "notices.json").write_text('{"keys": {}}')
    (tmp_path / "webhook").write_text(f"{endpoint.url}\n")
    environment = {**clean_environment(home), "RUNWIRE_WEBHOOK_FILE": str(tmp_path / "webhook")}
    endpoint.answers = [(503, None)]
    printed = ""
    for _ in range(2):
        up = subprocess.Popen(
            [*RUNWIRE, "up", "--port", "0"], env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True
        )
        try:
            wait_until((home / "server.json").exists, timeout_seconds=60, what="the consumer serves")
            if not endpoint.requests:
                subprocess.run([sys.executable, "-c", DIVERGE], env=clean_environment(home), check=True, timeout=60)
                wait_until(lambda: _told(endpoint) >= 3, timeout_seconds=60, what="three notices")
            arguments = Path(f"/proc/{up.pid}/cmdline").read_bytes()
        finally:
            up.send_signal(signal.SIGTERM)
            _, errors = up.communicate(timeout=60)
        printed += errors + arguments.decode()
        assert up.returncode == 0, errors
    text = "\n".join(endpoint.texts)
    (run_id,) = {row["run_id"] for row in json.loads(call(RUNWIRE, home, "runs", "--json").stdout)}
    for line in (
        f"brave-fox (digits, {run_id}) failed: rank 0: loss is NaN",
        f"brave-fox (digits, {run_id}) diverges: train/loss is NaN or infinite",
        f"brave-fox (digits, {run_id}) alert, warning: Look: It is &lt;!channel&gt; NaN",
    ):
        assert text.count(line) == 1
    assert "Telling the webhook at 127.0.0.1 of runs that break." in printed
    assert "takes no notices: HTTP 503" in printed
    assert SECRET not in printed
    assert SECRET not in "".join(path.read_text() for path in home.glob("*.json"))


def _told(endpoint: Endpoint) -> int:
    return sum(len(text.splitlines()) for text in endpoint.texts)


@pytest.mark.parametrize("url", [f"ftp://{SECRET}", f"https://user:{SECRET}@host/"])
def test_an_address_that_cant_be_used_is_refused_at_the_start(tmp_path: Path, url: str) -> None:
    """In a sentence that doesn't show it, before anything runs."""
    done = subprocess.run(
        [*RUNWIRE, "up", "--port", "0"],
        env={**clean_environment(tmp_path / "home"), "RUNWIRE_WEBHOOK": url},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "The webhook's address must look like" in done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_settings_take_the_address_or_its_file_and_mask_it(tmp_path: Path) -> None:
    """The variable wins; an empty one is as good as none; a file that isn't there is said."""
    file = tmp_path / "webhook"
    file.write_text(f" https://host/{SECRET} \n")
    home = {"RUNWIRE_HOME": str(tmp_path)}
    settings = read_command_settings(environ={**home, "RUNWIRE_WEBHOOK_FILE": str(file)})
    assert settings.webhook == f"https://host/{SECRET}"
    assert SECRET not in repr(settings)
    both = {**home, "RUNWIRE_WEBHOOK": "https://other/", "RUNWIRE_WEBHOOK_FILE": str(file)}
    assert read_command_settings(environ=both).webhook == "https://other/"
    assert read_command_settings(environ={**home, "RUNWIRE_WEBHOOK": ""}).webhook is None
    file.write_bytes(b"\xff\xfe")
    for path in (file, tmp_path / "nowhere", tmp_path):
        with pytest.raises(CommandError, match="RUNWIRE_WEBHOOK_FILE, "):
            read_command_settings(environ={**home, "RUNWIRE_WEBHOOK_FILE": str(path)})
