"""Which file systems are on a network, where SQLite's locks cannot be relied on."""

from __future__ import annotations

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mounts")  # of Linux
#: Types of file systems that several machines share.
NETWORK = re.compile(
    r"nfs4?|cifs|smb[23]|smbfs|ncpfs|afs|auristorfs|lustre|gpfs|beegfs|fhgfs|ceph|panfs|wekafs|ocfs2"
    r"|gfs2?|glusterfs|orangefs|pvfs2|fuse\.(?!fuse-overlayfs|portal|gvfs|lxcfs|snapfuse|ntfs|exfat).+"
)


def find_network(path: Path, mounts: Path | None = None) -> str | None:
    """The type of the network file system that a path is on, such as `nfs4`.

    Args:
        path: of a file or a directory, which need not exist yet.
        mounts: the table of what is mounted; by default that of Linux.

    Returns:
        None if it is on a disk of this machine, or unknown.
    """
    try:
        lines = (mounts or MOUNTS).read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    place, best, kind = path.resolve(), -1, ""
    for line in lines:
        fields = line.split()
        if len(fields) < 3:
            continue
        root = Path(_unescape(fields[1]))
        # of two at the same place the later one is on top
        if place.is_relative_to(root) and len(root.parts) >= best:
            best, kind = len(root.parts), fields[2]
    return kind if NETWORK.fullmatch(kind) else None


def _unescape(text: str) -> str:
    """A path as the table has it, with a space written by its octal number."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
