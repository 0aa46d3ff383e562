"""Which folders may be mapped: the file system of the deepest mount point, read from mountinfo."""

from __future__ import annotations

from pathlib import Path

import pytest

from runwire._filesystem import MAPPABLE, UNKNOWN, is_mappable, kind_of

MOUNTS = """\
22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:30 / /tmp rw - tmpfs tmpfs rw
31 22 0:31 / /home rw - ext4 /dev/sdb rw
32 22 0:32 / /home rw shared:5 master:1 - nfs4 server:/home rw
33 22 0:33 / /data\\040set rw - lustre mds:/x rw
34 22 0:34 / /mnt/é rw - fuse.sshfs host:/ rw
35 22 0:35 / /scratch rw - xfs /dev/sdc rw
36 35 0:36 / /scratch/shared rw - beegfs x rw
garbled line
37 22 0:37 / /broken
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/", "ext4"),
        ("/var/lib", "ext4"),
        ("/tmp/a/b", "tmpfs"),  # noqa: S108 - a mount point in a table
        ("/homestead", "ext4"),
        ("/home/me", "nfs4"),
        ("/data set/x", "lustre"),
        ("/mnt/é/x", "fuse.sshfs"),
        ("/scratch/me", "xfs"),
        ("/scratch/shared/me", "beegfs"),
    ],
)
def test_the_deepest_and_last_mount_counts(folder: str, kind: str) -> None:
    """Also with blanks and letters beyond ASCII in its name; a later mount hides an earlier one."""
    assert kind_of(Path(folder), MOUNTS) == kind


def test_nothing_known_is_not_mapped() -> None:
    """Without mountinfo, `pwrite`."""
    assert kind_of(Path("/"), "") == UNKNOWN
    assert UNKNOWN not in MAPPABLE
    assert not {"nfs", "nfs4", "lustre", "overlay", "fuse.sshfs", "9p", "cifs"} & MAPPABLE


def test_this_machine_answers(tmp_path: Path) -> None:
    """The real file is read."""
    assert isinstance(is_mappable(tmp_path), bool)
