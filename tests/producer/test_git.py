"""The version of the code, from real repositories in every state, with and without a git that answers."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runwire._context import git as _git
from runwire._context.git import read_git
from runwire._context.worktree import find_root
from runwire_schemas.events import Git
from tests.services.process import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

ENVIRON = {
    "PATH": os.environ.get("PATH", ""),
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
}
NO_GIT = {**ENVIRON, "PATH": "/nonexistent"}


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder."""
    done = subprocess.run(["git", *arguments], cwd=folder, env=ENVIRON, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit on `main` and a remote that carries a password."""
    root = tmp_path / "digits"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    (root / "train.py").write_text("print(1)\n")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "first")
    git(root, "remote", "add", "origin", "https://ada:secret@example.org/ada/digits.git")
    return root


@pytest.fixture(params=["git", "files"])
def environ(request: pytest.FixtureRequest) -> dict[str, str]:
    """An environment with git, and one without."""
    return ENVIRON if request.param == "git" else NO_GIT


def dirtiness(environ: dict[str, str], *, dirty: bool) -> bool | None:
    """Files alone don't tell."""
    return dirty if environ is ENVIRON else None


def capture(start: Path, environ: dict[str, str]) -> Git | None:
    """What a run that starts in this folder records."""
    return read_git(find_root(start), environ, timeout_seconds=60)


REMOTE = "https://***@example.org/ada/digits.git"


def test_a_clean_tree(repository: Path, environ: dict[str, str]) -> None:
    """Commit, branch, and the remote without its password; also from a folder below."""
    below = repository / "src" / "deep"
    below.mkdir(parents=True)
    expected = Git(git(repository, "rev-parse", "HEAD"), "main", REMOTE, dirtiness(environ, dirty=False))
    assert capture(repository, environ) == expected
    assert capture(below, environ) == expected


def change_tracked(root: Path) -> None:
    """A file of the last commit is edited."""
    (root / "train.py").write_text("print(2)\n")


def stage_new(root: Path) -> None:
    """A new file is staged."""
    (root / "new.py").write_text("")
    git(root, "add", "new.py")


def leave_untracked(root: Path) -> None:
    """A run's own outputs lie about."""
    (root / "out.log").write_text("")


@pytest.mark.parametrize(("act", "dirty"), [(change_tracked, True), (stage_new, True), (leave_untracked, False)])
def test_dirty_means_changes_to_tracked_files(repository: Path, act: Callable[[Path], None], dirty: bool) -> None:  # noqa: FBT001
    """Outputs of earlier runs don't make code dirty."""
    act(repository)
    captured = capture(repository, ENVIRON)
    assert captured is not None
    assert captured.dirty is dirty


def test_a_detached_head_has_a_commit_but_no_branch(repository: Path, environ: dict[str, str]) -> None:
    """As CI checks out."""
    git(repository, "checkout", "-q", "--detach")
    captured = capture(repository, environ)
    assert captured is not None
    assert (captured.commit, captured.branch) == (git(repository, "rev-parse", "HEAD"), None)


def test_packed_branches_are_found(repository: Path, environ: dict[str, str]) -> None:
    """After `git gc` a branch has no file of its own."""
    git(repository, "pack-refs", "--all")
    captured = capture(repository, environ)
    assert captured is not None
    assert captured.commit == git(repository, "rev-parse", "HEAD")


def test_a_working_tree_has_its_own_branch(repository: Path, environ: dict[str, str]) -> None:
    """`git worktree`: HEAD apart, branches and remotes shared."""
    tree = repository.parent / "tree"
    git(repository, "worktree", "add", "-q", "-b", "side", str(tree))
    git(tree, "commit", "-q", "--allow-empty", "-m", "second")
    captured = capture(tree, environ)
    assert captured == Git(git(tree, "rev-parse", "HEAD"), "side", REMOTE, dirtiness(environ, dirty=False))
    assert captured is not None
    assert captured.commit != git(repository, "rev-parse", "HEAD")


def test_before_the_first_commit_there_is_a_branch(tmp_path: Path, environ: dict[str, str]) -> None:
    """No commit, no remote, no error."""
    git(tmp_path, "init", "-q", "-b", "main")
    captured = capture(tmp_path, environ)
    assert captured == Git(None, "main", None, dirtiness(environ, dirty=False))


def test_the_branch_names_its_remote(repository: Path) -> None:
    """A fork's branch says where it is from."""
    git(repository, "remote", "add", "fork", "git@example.org:eve/digits.git")
    git(repository, "config", "branch.main.remote", "fork")
    captured = capture(repository, ENVIRON)
    assert captured is not None
    assert captured.remote == "git@example.org:eve/digits.git"


def test_outside_of_any_repository_there_is_nothing(tmp_path: Path, environ: dict[str, str]) -> None:
    """Also in a bare repository, in an empty `.git`, and where the folder is gone."""
    bare, empty = tmp_path / "bare", tmp_path / "empty"
    bare.mkdir()
    git(bare, "init", "-q", "--bare")
    (empty / ".git").mkdir(parents=True)
    for folder in [tmp_path, bare, empty, tmp_path / "gone"]:
        assert capture(folder, environ) is None


@pytest.mark.parametrize("head", ["", "garbage", "ref: refs/heads/../../secret", "ref: HEAD", "\xff\0", "ref:"])
def test_broken_files_are_no_error(repository: Path, head: str) -> None:
    """Nothing known, nothing raised, nothing read from elsewhere."""
    (repository / ".git" / "HEAD").write_text(head)
    captured = capture(repository, NO_GIT)
    assert captured is None or captured.commit is None


def script(folder: Path, text: str) -> dict[str, str]:
    """An environment whose git is this script."""
    program = folder / "bin" / "git"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    return {**ENVIRON, "PATH": f"{program.parent}:{ENVIRON['PATH']}"}


def test_a_git_that_refuses_leaves_the_files(repository: Path) -> None:
    """safe.directory: the tree belongs to somebody else; commit and branch are still known."""
    captured = capture(repository, script(repository.parent, "echo nonsense; exit 128"))
    assert captured == Git(git(repository, "rev-parse", "HEAD"), "main", REMOTE, None)


def test_a_git_that_hangs_is_ended_with_its_children(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline holds, and the files still tell the commit."""
    child = repository.parent / "child"
    environ = script(repository.parent, f"sleep 600 & echo $! > {child}.draft; mv {child}.draft {child}; wait")
    read_until = _git._read_until

    def read_once_it_runs(descriptor: int, deadline: float) -> tuple[bytes, bool]:
        assert deadline <= time.monotonic() + 60
        wait_until(child.exists, what="git has begun")
        return read_until(descriptor, time.monotonic() + 0.1)

    monkeypatch.setattr(_git, "_read_until", read_once_it_runs)
    begin = time.monotonic()
    captured = read_git(repository, environ, timeout_seconds=60)
    assert time.monotonic() - begin < 120  # of 600
    assert captured == Git(git(repository, "rev-parse", "HEAD"), "main", REMOTE, None)
    stat = Path("/proc", child.read_text().strip(), "stat")

    def is_dead() -> bool:
        try:
            return stat.read_text().rpartition(")")[2].split()[0] == "Z"  # the system's first process reaps it
        except (FileNotFoundError, ProcessLookupError):
            return True

    wait_until(is_dead, what="its child was killed")


def test_an_endless_answer_is_cut(repository: Path) -> None:
    """Ten thousand changed files are as dirty as one."""
    oid = "a" * 40
    captured = capture(repository, script(repository.parent, f'echo "# branch.oid {oid}"; yes "1 M. N..."'))
    assert captured == Git(oid, None, REMOTE, dirty=True)


def test_no_hook_runs_and_no_lock_is_taken(repository: Path) -> None:
    """A hook of the repository's own and the file system monitor stay asleep; the index isn't written."""
    marker = repository.parent / "ran"
    for hook in ["fsmonitor-watchman", "post-index-change"]:
        path = repository / ".git" / "hooks" / hook
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\ntouch {marker}\n")
        path.chmod(0o755)
    git(repository, "config", "core.fsmonitor", str(repository / ".git/hooks/fsmonitor-watchman"))
    os.utime(repository / "train.py", (1, 1))
    before = (repository / ".git" / "index").stat().st_mtime_ns
    assert capture(repository, ENVIRON) is not None
    assert not marker.exists()
    assert (repository / ".git" / "index").stat().st_mtime_ns == before


def test_variables_of_a_hook_do_not_lead_astray(repository: Path, tmp_path: Path) -> None:
    """GIT_DIR of another repository is not the code's."""
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q", "-b", "elsewhere")
    captured = capture(repository, {**ENVIRON, "GIT_DIR": str(other / ".git")})
    assert captured is not None
    assert captured.branch == "main"
