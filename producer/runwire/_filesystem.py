"""Which file system a folder lies on: mapping a file is safe on some only, and some belong to a whole cluster.

Nothing here asks the file system itself, which hangs when its server is gone: /proc/self/fdinfo and
/proc/self/mountinfo are the kernel's own memory. (A `statfs`, or resolving a path, would wait for the server.)
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

# Local ones known to be safe: a reserved block can be written through a mapping without SIGBUS.
MAPPABLE = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "apfs"})
NETWORK = frozenset(
    {
        *("nfs", "nfs3", "nfs4", "cifs", "smb2", "smb3", "smbfs", "afs", "auristorfs", "coda", "ncpfs"),
        *(
            "lustre",
            "lustre_lite",
            "gpfs",
            "mmfs",
            "beegfs",
            "fhgfs",
            "ceph",
            "glusterfs",
            "panfs",
            "pvfs2",
            "orangefs",
        ),
        *("wekafs", "quobyte", "vastnfs", "daos", "dfuse", "moosefs", "9p", "virtiofs", "vboxsf", "prl_fs", "vmhgfs"),
        *("gfs2", "ocfs2", "fuse"),
    }
)
# sshfs, gcsfuse, s3fs, JuiceFS, GlusterFS ...: few are local, and those cost as much.
_NETWORK_PREFIX = "fuse."
UNKNOWN = "unknown"
_FIELDS_MIN = 5
_ESCAPED = re.compile(r"\\([0-7]{3})")  # blanks and backslashes of a mount point


@dataclass(frozen=True, slots=True)
class FileSystem:
    """Where a file lies.

    Attributes:
        kind: Its name as in /proc/self/mountinfo, or "unknown" (also outside Linux).
        mount_point: Where it is mounted.
    """

    kind: str = UNKNOWN
    mount_point: str = ""

    @property
    def is_mappable(self) -> bool:
        """Whether segments on it may be mapped; elsewhere `pwrite` is used."""
        return self.kind in MAPPABLE

    @property
    def is_network(self) -> bool:
        """Whether other machines may see it too, by way of a server or a program."""
        return self.kind in NETWORK or self.kind.startswith(_NETWORK_PREFIX)


def file_system_of(fd: int) -> FileSystem:
    """The file system of an open file."""
    if not sys.platform.startswith("linux"):
        return FileSystem()
    try:
        mount_id = _mount_id(_text(f"/proc/self/fdinfo/{fd}"))
        return find_mount(_text("/proc/self/mountinfo"), mount_id)
    except OSError:
        return FileSystem()


def find_mount(mounts: str, mount_id: str) -> FileSystem:
    """The mount with this id in the text of /proc/self/mountinfo."""
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        if len(fields) >= _FIELDS_MIN and fields[0] == mount_id and right.strip():
            return FileSystem(right.split()[0], _ESCAPED.sub(lambda found: chr(int(found[1], 8)), fields[4]))
    return FileSystem()


def warning_about(place: FileSystem) -> str | None:
    """What a user should know of a home that lies there; None where all is well."""
    if not place.is_network:
        return None
    return (
        f"RUNWIRE_HOME lies on a network file system ({place.kind} on {place.mount_point}): log() is slower there, "
        "other machines may see neither its locks nor its latest bytes, so that a journal may be taken for a dead "
        "process's, and what a node that dies hadn't written back is lost. Set RUNWIRE_HOME to a folder on a disk "
        "of this node."
    )


def _mount_id(fdinfo: str) -> str:
    for line in fdinfo.splitlines():
        name, _, value = line.partition(":")
        if name == "mnt_id":
            return value.strip()
    return ""


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123 - pathlib's import is not free
        return file.read()
