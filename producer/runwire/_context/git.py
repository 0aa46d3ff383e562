"""The version of the code: commit, branch, remote and dirty flag, by `git` where it answers, else from its files.

git is asked once, with a deadline, bounded output and nothing that could wait for a person, take the index lock or
start a hook. Where it is missing, refuses (safe.directory) or is too slow, commit, branch and remote are read from
the repository's own files, and the dirty flag is None. "Dirty" means changes to tracked files, staged or not, as
`git describe --dirty` has it. Total: what can't be known is None.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from runwire._context.redaction import redact_url
from runwire_schemas.events import Git

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

TIMEOUT_SECONDS = 2.0
KILLED_SECONDS = 2.0
OUTPUT_BYTES_MAX = 64 * 1_024  # dirtiness shows in the first line after the headers
FILE_BYTES_MAX = 4 * 2**20  # packed-refs of a large repository
_LINKS_MAX = 5
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SECTION = re.compile(r"\[\s*remote\s+\"([^\"]*)\"\s*\]", re.IGNORECASE)
_QUIET = ("--no-optional-locks", "--no-pager", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
# Set inside hooks, these would point git at another repository than the code's.
_REDIRECTIONS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")


def read_git(root: Path | None, environ: Mapping[str, str], timeout_seconds: float = TIMEOUT_SECONDS) -> Git | None:
    """The version of the working tree at `root` (from `worktree.find_root`); None where there is none to tell."""
    if root is None:
        return None
    try:
        deadline = time.monotonic() + timeout_seconds
        environment = _environment(environ)
        # `status` also says commit and branch: one process instead of three.
        status = _ask(root, ("status", "--porcelain=v2", "--branch", "--untracked-files=no"), environment, deadline)
        commit, branch, dirty = _parse_status(status) if status else (None, None, None)
        if status is None:
            commit, branch = _read_head(root)
        remote = _read_remote(root, branch)
    except Exception:  # noqa: BLE001 - a run without its commit is better than no run
        return None
    return Git(commit, branch, remote, dirty) if commit or branch else None


def _parse_status(status: str) -> tuple[str | None, str | None, bool]:
    commit = branch = None
    dirty = False
    for line in status.splitlines():
        if line.startswith("# branch.oid "):
            commit = line.removeprefix("# branch.oid ")
        elif line.startswith("# branch.head "):
            branch = line.removeprefix("# branch.head ")
        elif line and not line.startswith("#"):
            dirty = True
            break
    return (
        commit if commit and _COMMIT.fullmatch(commit) else None,  # "(initial)" before the first commit
        None if branch == "(detached)" else branch,
        dirty,
    )


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in environ.items() if name not in _REDIRECTIONS}
    kept.update(
        GIT_OPTIONAL_LOCKS="0", GIT_TERMINAL_PROMPT="0", GIT_ASKPASS="true", SSH_ASKPASS="true",
        GIT_PAGER="cat", GIT_CEILING_DIRECTORIES="", LC_ALL="C",
    )  # fmt: skip
    return kept


def _ask(root: Path, arguments: Sequence[str], environ: Mapping[str, str], deadline: float) -> str | None:
    """The beginning of git's answer; None where it failed or didn't answer in time."""
    # Imported here: asked once a run from the sender's thread, and `import runwire` stays light.
    import subprocess  # noqa: PLC0415

    try:
        process = subprocess.Popen(  # noqa: S603 - fixed arguments, no shell
            ["git", *_QUIET, *arguments],  # noqa: S607 - the user's own git, wherever it is
            cwd=root,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return None
    with process.stdout as pipe:  # type: ignore[union-attr]
        output, whole = _read_until(pipe.fileno(), deadline)
    if len(output) >= OUTPUT_BYTES_MAX or not whole:
        _end(process.pid)
    try:
        code = process.wait(timeout=max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        _end(process.pid)
        # It is gone at once, or waits inside the kernel, and we don't; whom nobody waits for stays a zombie.
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=KILLED_SECONDS)
        return None
    answered = code == 0 if whole else len(output) >= OUTPUT_BYTES_MAX
    return output.decode("utf-8", "replace") if answered else None


def _read_until(descriptor: int, deadline: float) -> tuple[bytes, bool]:
    """What a pipe gives until its end, the limit or the deadline, and whether its end was seen."""
    import select  # noqa: PLC0415 - as above

    output = b""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while len(output) < OUTPUT_BYTES_MAX:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1_000):
            return output, False
        block = os.read(descriptor, OUTPUT_BYTES_MAX - len(output))
        if not block:
            return output, True
        output += block
    return output, False


def _end(session: int) -> None:
    """Kill git and what it started, which share a session of their own."""
    import signal  # noqa: PLC0415 - as above

    with suppress(OSError):
        os.killpg(session, signal.SIGKILL)


def _read_head(root: Path) -> tuple[str | None, str | None]:
    """Commit and branch from the repository's files."""
    folder, common = _folders(root)
    name, branch = "HEAD", None
    for _ in range(_LINKS_MAX):
        text = _read(folder / name) or _read(common / name)
        if text is None:
            return _packed(common, name), branch
        text = text.strip()
        if not text.startswith("ref:"):
            return (text if _COMMIT.fullmatch(text) else None), branch
        name = text.removeprefix("ref:").strip()
        if ".." in name or name.startswith("/"):
            return None, None
        if branch is None and name.startswith("refs/heads/") and name != "refs/heads/.invalid":
            branch = name.removeprefix("refs/heads/")
    return None, branch


def _folders(root: Path) -> tuple[Path, Path]:
    """The folder with this working tree's HEAD, and the one with what all its working trees share."""
    folder = root / ".git"
    if folder.is_file():
        folder = root / (_read(folder) or "").removeprefix("gitdir:").strip()
    common = _read(folder / "commondir")
    return folder, folder / common.strip() if common else folder


def _packed(common: Path, name: str) -> str | None:
    for line in (_read(common / "packed-refs") or "").splitlines():
        commit, _, packed = line.partition(" ")
        if packed == name and _COMMIT.fullmatch(commit):
            return commit
    return None


def _read_remote(root: Path, branch: str | None) -> str | None:
    """Where the code came from: the branch's remote, else origin, else the first; user and password masked."""
    urls: dict[str, str] = {}
    remote = upstream = None
    in_branch = False
    for line in (_read(_folders(root)[1] / "config") or "").splitlines():
        text = line.strip()
        if text.startswith("["):
            section = _SECTION.match(text)
            remote = section[1] if section else None
            in_branch = branch is not None and text == f'[branch "{branch}"]'
            continue
        key, equals, value = (part.strip() for part in text.partition("="))
        if remote is not None and equals and key.lower() == "url":
            urls.setdefault(remote, value)
        elif in_branch and key == "remote":
            upstream = value
    url = urls.get(upstream or "") or urls.get("origin") or next(iter(urls.values()), None)
    return redact_url(url.strip('"')) if url else None


def _read(path: Path) -> str | None:
    """A file's beginning as text; None where it can't be read."""
    try:
        with path.open("rb") as file:
            return file.read(FILE_BYTES_MAX).decode("utf-8", "replace")
    except OSError:
        return None
