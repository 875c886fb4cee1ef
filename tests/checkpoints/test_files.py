"""Checkpoint files survive failures while they are written, and damage is detected."""

from __future__ import annotations

import errno
import logging
import os
import resource
import zipfile
from contextlib import suppress

import pytest
import torch

from lit_optim.checkpoints import background, files
from lit_optim.checkpoints.files import CheckpointFiles, find_damage, find_newest_intact
from lit_optim.errors import UsageError


def saved(directory, *numbers):
    for number in numbers:
        content = {"number": number, "weights": torch.full((4000,), float(number))}
        CheckpointFiles().save_checkpoint(content, directory / "last.ckpt")


def number_in(path):
    return torch.load(path, weights_only=True)["number"]


def test_the_one_before_is_kept(tmp_path):
    saved(tmp_path, 1, 2, 3)
    assert number_in(tmp_path / "last.ckpt") == 3
    assert number_in(tmp_path / "previous.ckpt") == 2
    assert find_newest_intact(tmp_path) == tmp_path / "last.ckpt"
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["last.ckpt", "last.ckpt.sha256", "previous.ckpt", "previous.ckpt.sha256"]


def truncated(path):
    path.write_bytes(path.read_bytes()[:-3000])


def emptied(path):
    path.write_bytes(b"")


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


def rezipped(path, compression=zipfile.ZIP_STORED):
    """Write the same archive anew."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


def compressed(path):
    rezipped(path, compression=zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize("sums", [True, False], ids=["with sums", "without"])
@pytest.mark.parametrize("damage", [truncated, emptied, flipped, compressed])
def test_a_damaged_checkpoint_is_replaced_by_the_previous_one(damage, sums, tmp_path, caplog):
    saved(tmp_path, 1, 2)
    damage(tmp_path / "last.ckpt")
    if not sums:  # of an older version, or copied alone
        if damage is flipped:
            pytest.skip("a bit within the weights is seen by the sums only")
        (tmp_path / "last.ckpt.sha256").unlink()
    assert find_damage(tmp_path / "last.ckpt")
    with caplog.at_level(logging.WARNING, "lit_optim"):
        assert find_newest_intact(tmp_path) == tmp_path / "previous.ckpt"
    [record] = caplog.records
    assert "last.ckpt" in record.message
    assert "the one before it is used" in record.message


def test_an_archive_that_grows_in_memory_is_not_loaded(tmp_path, monkeypatch):
    saved(tmp_path, 1)
    path = tmp_path / "last.ckpt"
    path.with_name("last.ckpt.sha256").unlink()
    rezipped(path)  # which torch reads
    assert find_damage(path) is None
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("last/more", bytes(10_000_000))
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(torch, "load", None)
    assert "larger in memory" in find_damage(path)


def test_a_link_that_leads_nowhere_is_passed_over(tmp_path, caplog):
    saved(tmp_path, 1, 2)
    for name in ("last.ckpt", "previous.ckpt"):
        emptied(tmp_path / name)
    CheckpointFiles().save_checkpoint({"number": 7}, tmp_path / "kept.ckpt")
    (tmp_path / "zz.ckpt").symlink_to("nothere")
    (tmp_path / "self.ckpt").symlink_to("self.ckpt")
    assert number_in(find_newest_intact(tmp_path)) == 7


def test_none_is_left(tmp_path):
    saved(tmp_path, 1)
    emptied(tmp_path / "last.ckpt")
    with pytest.raises(UsageError, match="no checkpoint that can be read"):
        find_newest_intact(tmp_path)


def test_a_disk_that_takes_only_a_part_loses_nothing(tmp_path, caplog):
    saved(tmp_path, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with caplog.at_level(logging.WARNING, "lit_optim"):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
            saved(tmp_path, 2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "last.ckpt was not written: the disk took only a part of it" in caplog.text
    assert number_in(find_newest_intact(tmp_path)) == 1
    assert not list(tmp_path.glob(".*tmp"))


@pytest.mark.parametrize("where", ["save", "fsync", "replace"])
def test_a_full_disk_loses_nothing(where, tmp_path, monkeypatch, caplog):
    saved(tmp_path, 1, 2)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def half(content, file):
        file.write(b"half of it")
        full()

    if where == "save":
        monkeypatch.setattr(torch, "save", half)
    else:
        monkeypatch.setattr(files.os, where, full)
    with caplog.at_level(logging.WARNING, "lit_optim"):
        saved(tmp_path, 3)
    monkeypatch.undo()
    assert "No space left on device" in caplog.text
    assert number_in(find_newest_intact(tmp_path)) == 2
    assert not list(tmp_path.glob(".last*.tmp"))
    saved(tmp_path, 4)
    assert number_in(find_newest_intact(tmp_path)) == 4


@pytest.mark.parametrize("sums", [True, False], ids=["with sums", "without"])
@pytest.mark.parametrize("step", range(9))
def test_killed_at_any_moment(step, sums, tmp_path, monkeypatch):
    """Each call that changes the directory may be the last one that is made."""
    saved(tmp_path, 1, 2)
    if not sums:
        (tmp_path / f"{'last' if step % 2 else 'previous'}.ckpt.sha256").unlink()
    calls = [0]

    class Killed(BaseException):
        pass

    def counted(call):
        def made(*args, **kwargs):
            if calls[0] == step:
                raise Killed
            calls[0] += 1
            return call(*args, **kwargs)

        return made

    monkeypatch.setattr(files.os, "replace", counted(os.replace))
    monkeypatch.setattr(files.os, "fsync", counted(os.fsync))
    for number in (3, 4):
        calls[0] = 0
        with suppress(Killed):
            saved(tmp_path, number)
        for name in ("last.ckpt", "previous.ckpt"):
            assert find_damage(tmp_path / name) in (None, "is not there")
    monkeypatch.undo()
    assert number_in(find_newest_intact(tmp_path)) in (2, 3, 4)
    saved(tmp_path, 4)
    assert number_in(find_newest_intact(tmp_path)) == 4
    assert not [path for path in tmp_path.iterdir() if ".last.ckpt.1" in path.name]


class Evil:
    def __reduce__(self):
        return os.system, ("touch harm",)


def test_nothing_in_a_checkpoint_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "hyper_parameters": Evil()}, tmp_path / "last.ckpt")
    assert find_damage(tmp_path / "last.ckpt") == "cannot be read (UnpicklingError)"
    with pytest.raises(UsageError, match="has no checkpoint that can be read"):
        find_newest_intact(tmp_path)
    assert not (tmp_path / "harm").exists()


def failing(number):
    def sync(*args):
        raise OSError(number, os.strerror(number))

    return sync


CANNOT = [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EIO,
          errno.EISDIR]  # fmt: skip


@pytest.mark.parametrize("number", CANNOT, ids=errno.errorcode.get)
@pytest.mark.parametrize("where", ["files", "directory", "open"])
def test_what_cannot_be_forced_to_the_disk_is_written_all_the_same(
    number, where, tmp_path, monkeypatch, caplog
):
    background._warn_once.cache_clear()
    if where == "files":  # those of a directory as well
        monkeypatch.setattr(files.os, "fsync", failing(number))
    elif where == "directory":
        monkeypatch.setattr(files, "sync_directory", failing(number))
    else:
        real = os.open

        def opened(path, *args, **kwargs):
            if os.path.isdir(path):
                failing(number)()
            return real(path, *args, **kwargs)

        monkeypatch.setattr(os, "open", opened)
    writer = CheckpointFiles()
    with caplog.at_level(logging.WARNING, "lit_optim"):
        for n in (1, 2, 3):
            writer.save_checkpoint({"number": n}, tmp_path / "last.ckpt")
    assert (writer.written, writer.failure) == (3, None)
    [record] = caplog.records
    assert "cannot be synced to the disk" in record.message
    assert "not written" not in record.message
    monkeypatch.undo()
    assert number_in(find_newest_intact(tmp_path)) == 3
    assert number_in(tmp_path / "previous.ckpt") == 2
    assert not list(tmp_path.glob(".*tmp"))


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG], ids=errno.errorcode.get
)
def test_a_full_disk_is_a_failure_at_whatever_call(number, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(files.os, "fsync", failing(number))
    writer, left = CheckpointFiles(), []

    class Looks(logging.Handler):
        """A log on the same disk, which has room for a line once the file is gone."""

        def emit(self, record):
            left.append([*tmp_path.iterdir()])

    monkeypatch.setattr(files.LOG, "handlers", [Looks()])
    with caplog.at_level(logging.WARNING, "lit_optim"):
        writer.save_checkpoint({"number": 1}, tmp_path / "last.ckpt")
    assert (writer.written, writer.failure) == (0, os.strerror(number))
    assert not (tmp_path / "last.ckpt").exists()
    assert left == [[]]


def test_a_directory_that_cannot_be_created_is_a_failure(tmp_path, caplog):
    (tmp_path / "checkpoints").write_text("a file")
    writer = CheckpointFiles()
    writer.save_checkpoint({}, tmp_path / "checkpoints" / "last.ckpt")
    assert writer.failure
    assert "was not written" in caplog.text
