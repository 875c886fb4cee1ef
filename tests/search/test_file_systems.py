"""Network file systems are found by the table of what is mounted."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_optim.search.file_systems import find_network

TABLE = """\
/dev/sda1 / ext4 rw 0 0
tmpfs /dev/shm tmpfs rw 0 0
server:/home /home nfs4 rw,vers=4.2 0 0
/dev/sdb1 /home/local xfs rw 0 0
//server/share /mnt/my\\040share cifs rw 0 0
me@host:/ /mnt/ssh fuse.sshfs rw 0 0
overlay /mnt/overlay fuse.fuse-overlayfs rw 0 0
server:/a /mnt/twice nfs rw 0 0
/dev/sdc1 /mnt/twice ext4 rw 0 0
scratch@tcp:/x /scratch lustre rw 0 0
broken
"""
PLACES = {
    "/": None,
    "/home/me/runs": "nfs4",
    "/home/local/runs": None,
    "/homes": None,
    "/mnt/my share/a": "cifs",
    "/mnt/ssh": "fuse.sshfs",
    "/mnt/overlay/x": None,
    "/mnt/twice/x": None,
    "/scratch/me/study.db": "lustre",
    "/dev/shm/x": None,
}


@pytest.mark.parametrize("place", PLACES)
def test_by_the_table_of_mounts(tmp_path, place):
    table = tmp_path / "mounts"
    table.write_text(TABLE)
    assert find_network(Path(place), table) == PLACES[place]


def test_nobody_knows_without_a_table(tmp_path):
    assert find_network(tmp_path, tmp_path / "absent") is None


def test_a_link_is_followed(tmp_path):
    table = tmp_path / "mounts"
    table.write_text(f"/dev/a / ext4 rw 0 0\nserver:/x {tmp_path / 'far'} nfs rw 0 0\n")
    (tmp_path / "far").mkdir()
    (tmp_path / "near").symlink_to(tmp_path / "far")
    assert find_network(tmp_path / "near" / "study.db", table) == "nfs"
    assert find_network(tmp_path / "study.db", table) is None
