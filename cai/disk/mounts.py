"""On which kind of file system a folder is, and whether several machines may use that at once."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")  # of Linux; elsewhere the kind is not known
# Kinds that several machines mount, or that another machine serves.
SHARED = {
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "cvmfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs",
    "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "quobyte", "smb", "smb2", "smb3", "smbfs", "virtiofs", "wekafs",
}  # fmt: skip
LOCAL = {  # all others of FUSE are taken for shared, such as fuse.sshfs
    "fuse.bindfs", "fuse.encfs", "fuse.exfat", "fuse.fuse-overlayfs", "fuse.gocryptfs", "fuse.mergerfs",
    "fuse.ntfs-3g", "fuse.overlayfs",
}  # fmt: skip
ESCAPED = re.compile(rb"\\([0-7]{3})")  # blanks and the like, in octal


def kind_of_disk(folder: Path) -> str:
    """The kind of the file system that a folder is on, such as ext4 or nfs4; "" if that is not known."""
    path = os.path.realpath(os.fsencode(folder))
    found, kind = b"", ""
    with suppress(OSError):
        for line in MOUNTS.read_bytes().splitlines():
            fields, _, rest = line.partition(b" - ")
            point = ESCAPED.sub(lambda digits: bytes([int(digits[1], 8)]), fields.split(b" ")[4])
            is_above = path == point or path.startswith(point.rstrip(b"/") + b"/")
            if is_above and len(point) >= len(found):  # of several at one place the last one is seen
                found, kind = point, rest.split(b" ")[0].decode()
    return kind


def is_shared(folder: Path) -> bool:
    """Whether a folder is on a file system that other machines may use."""
    kind = kind_of_disk(folder)
    return kind in SHARED or (kind.startswith("fuse.") and kind not in LOCAL)
