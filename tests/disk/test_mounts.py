"""On which kind of file system a folder is, by the mounts of the system."""

from __future__ import annotations

from pathlib import Path

import pytest

from cai.disk import mounts
from cai.disk.mounts import is_shared, kind_of_disk

LINE = "36 35 98:0 / {point} rw,noatime shared:1 - {kind} server:/export rw,errors=continue\n"


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to mount under, and a list of mounts to add to."""
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "mountinfo")
    (tmp_path / "mountinfo").write_text(LINE.format(point="/", kind="ext4"))
    return tmp_path


def mount(top: Path, point: Path, kind: str) -> None:
    with open(top / "mountinfo", "a") as file:
        file.write(LINE.format(point=str(point).replace(" ", "\\040"), kind=kind))


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "smb3", "9p", "fuse.sshfs"])
def test_a_folder_that_several_machines_use_is_shared(mounted: Path, kind: str) -> None:
    mount(mounted, mounted / "net", kind)
    assert kind_of_disk(mounted / "net" / "runs" / "a") == kind
    assert is_shared(mounted / "net" / "runs" / "a")
    assert not is_shared(mounted / "network")
    assert not is_shared(mounted)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "overlay", "tmpfs", "zfs", "fuseblk", "fuse.mergerfs"])
def test_a_disk_of_this_machine_is_not(mounted: Path, kind: str) -> None:
    mount(mounted, mounted / "disk", kind)
    assert kind_of_disk(mounted / "disk") == kind
    assert not is_shared(mounted / "disk" / "runs")


def test_the_innermost_mount_counts_and_of_several_at_one_place_the_last(mounted: Path) -> None:
    mount(mounted, mounted / "home", "nfs4")
    mount(mounted, mounted / "home" / "my scratch", "xfs")
    assert is_shared(mounted / "home" / "me") and not is_shared(mounted / "home" / "my scratch" / "runs")
    mount(mounted, mounted / "home" / "my scratch", "lustre")
    assert is_shared(mounted / "home" / "my scratch")


def test_a_link_leads_to_the_disk_that_it_names(mounted: Path) -> None:
    mount(mounted, mounted / "net", "nfs")
    (mounted / "net").mkdir()
    (mounted / "runs").symlink_to(mounted / "net")
    assert is_shared(mounted / "runs" / "a")


def test_where_mounts_are_not_listed_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "none")
    assert kind_of_disk(tmp_path) == "" and not is_shared(tmp_path)
