"""Which folders may be mapped, and which belong to a cluster: by the id of an open file's mount, from mountinfo."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runwire._filesystem import (
    MAPPABLE,
    NETWORK,
    UNKNOWN,
    FileSystem,
    file_system_of,
    find_mount,
    warning_about,
)
from tests.producer.disks import small_disk
from tests.producer.programs import Program

# Lines as machines show them: plain mounts, an optional field, octal blanks, a mount over another one.
MOUNTS = """\
22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:30 / /tmp rw - tmpfs tmpfs rw
31 22 0:31 / /home rw - ext4 /dev/sdb rw
32 31 0:32 / /home rw shared:5 master:1 - nfs4 server:/home rw,vers=4.2,hard,proto=tcp
33 22 0:33 / /data\\040set rw - lustre 10.0.0.1@o2ib:/x rw,flock
34 22 0:34 / /mnt/é rw - fuse.sshfs host:/ rw
35 22 0:35 / /scratch rw - xfs /dev/sdc rw
36 35 0:36 / /scratch/shared rw - beegfs beegfs_nodev rw
38 22 0:38 / /gpfs/fs1 rw - gpfs fs1 rw
39 22 0:39 / /mnt/c rw - 9p drvfs rw
40 22 0:40 / /smb rw - cifs //nas/share rw,vers=3.1.1
41 22 0:41 / /ceph rw - ceph 1.2.3.4:6789:/ rw
42 22 0:42 / /afs rw - afs none rw
43 22 0:43 / /gluster rw - fuse.glusterfs host:/vol rw
44 22 0:44 / /panfs rw - panfs panfs://host rw
45 22 0:45 / /weka rw - wekafs default rw
46 22 0:46 / /gcs rw - fuse.gcsfuse bucket rw
47 22 0:47 / /orange rw - pvfs2 tcp://host rw
48 22 0:48 / /nas rw - nfs nas:/vol rw,vers=3,nolock
49 1 0:49 / / rw - overlay overlay rw,lowerdir=/a
50 22 0:50 /@home /b rw - btrfs /dev/sdd rw,subvol=/@home
51 22 0:51 / /ntfs rw - fuseblk /dev/sde1 rw
garbled line
37 22 0:37 / /broken
"""


@pytest.mark.parametrize(
    ("mount_id", "kind", "mount_point", "is_mappable", "is_network"),
    [
        ("22", "ext4", "/", True, False),
        ("30", "tmpfs", "/tmp", True, False),  # noqa: S108 - a mount point in a table
        ("31", "ext4", "/home", True, False),
        ("32", "nfs4", "/home", False, True),
        ("33", "lustre", "/data set", False, True),
        ("34", "fuse.sshfs", "/mnt/é", False, True),
        ("35", "xfs", "/scratch", True, False),
        ("36", "beegfs", "/scratch/shared", False, True),
        ("38", "gpfs", "/gpfs/fs1", False, True),
        ("39", "9p", "/mnt/c", False, True),
        ("40", "cifs", "/smb", False, True),
        ("41", "ceph", "/ceph", False, True),
        ("42", "afs", "/afs", False, True),
        ("43", "fuse.glusterfs", "/gluster", False, True),
        ("44", "panfs", "/panfs", False, True),
        ("45", "wekafs", "/weka", False, True),
        ("46", "fuse.gcsfuse", "/gcs", False, True),
        ("47", "pvfs2", "/orange", False, True),
        ("48", "nfs", "/nas", False, True),
        ("49", "overlay", "/", False, False),
        ("50", "btrfs", "/b", True, False),
        ("51", "fuseblk", "/ntfs", False, False),
        ("37", UNKNOWN, "", False, False),  # cut short
        ("99", UNKNOWN, "", False, False),
        ("", UNKNOWN, "", False, False),
    ],
)
def test_the_mount_of_a_file_tells_what_may_be_done(
    mount_id: str,
    kind: str,
    mount_point: str,
    is_mappable: bool,  # noqa: FBT001 - a column of the table
    is_network: bool,  # noqa: FBT001 - as above
) -> None:
    """Mapped where that is known to be safe, warned about where a cluster shares it; else neither."""
    place = find_mount(MOUNTS, mount_id)
    assert (place.kind, place.mount_point) == (kind, mount_point)
    assert (place.is_mappable, place.is_network) == (is_mappable, is_network)
    assert (warning_about(place) is not None) == is_network


def test_no_network_file_system_is_mapped() -> None:
    """And nothing unknown."""
    assert not NETWORK & MAPPABLE
    assert UNKNOWN not in MAPPABLE


def test_the_warning_says_what_is_lost_and_what_to_set() -> None:
    """One sentence for people who never heard of journals."""
    assert warning_about(FileSystem("nfs4", "/home")) == (
        "RUNWIRE_HOME lies on a network file system (nfs4 on /home): log() is slower there, other machines may see "
        "neither its locks nor its latest bytes, so that a journal may be taken for a dead process's, and what a node "
        "that dies hadn't written back is lost. Set RUNWIRE_HOME to a folder on a disk of this node."
    )


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A real one, with a blank in its name."""
    with small_disk(tmp_path / "a disk", size="1m") as disk:
        yield disk


def test_a_real_mount_is_found_also_through_a_link(tmpfs: Path) -> None:
    """The open file knows its mount: no path is resolved."""
    link = tmpfs.parent / "link"
    link.symlink_to(tmpfs)
    fd = os.open(link / "file", os.O_RDWR | os.O_CREAT)
    assert file_system_of(fd) == FileSystem("tmpfs", str(tmpfs))
    os.close(fd)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no mountinfo")
def test_init_warns_once_and_writes_by_pwrite(tmp_path: Path) -> None:
    """A home on NFS: one warning, also of a run with forked children, and everything arrives."""
    program = Program(
        tmp_path,
        """
import os, sys
from runwire import _filesystem, _segment_writer
_segment_writer.file_system_of = lambda fd: _filesystem.FileSystem("nfs4", "/home")
run = runwire.init()
run.log({"a": 1.0}, step=0)
print(sum(".seg" in line for line in open("/proc/self/maps")))
sys.stdout.flush()
if os.fork() == 0:
    run.log({"a": 2.0}, step=1)
    sys.exit(0)
os.wait()
run.finish()
""",
    )
    done = program.run()
    assert done.stdout == "0\n"
    assert done.stderr.count("RUNWIRE_HOME lies on a network file system (nfs4 on /home)") == 1
    assert program.points() == [("a", 0, 1.0), ("a", 1, 2.0)]
    assert program.run(LOCAL_RANK="3", RANK="3", WORLD_SIZE="4", RUNWIRE_RUN_ID="x").stderr.count("network") == 0
