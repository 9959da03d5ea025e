"""An output on a disk without hard links: exFAT, as on most USB disks. Needs root, a loop device and exfat-fuse."""

import os
import shutil
import subprocess

import pytest

from beamscribe.jobs import cli


@pytest.fixture
def disk(tmp_path):
    """A folder on exFAT, mounted through FUSE, which can't rename a file only where there is none, either."""
    if os.geteuid() or not (shutil.which("mkfs.exfat") and shutil.which("mount.exfat-fuse")):
        pytest.skip("needs root, exfatprogs and exfat-fuse")
    image, folder = tmp_path / "disk.img", tmp_path / "disk"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(40 * 2**20)
    subprocess.run(["mkfs.exfat", image], check=True, capture_output=True)
    loop = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True, check=False)
    if loop.returncode:
        pytest.skip("there is no loop device")
    device = loop.stdout.strip()
    if subprocess.run(["mount.exfat-fuse", device, folder], capture_output=True, check=False).returncode:
        subprocess.run(["losetup", "--detach", device], check=True)
        pytest.skip("nothing can be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)
    subprocess.run(["losetup", "--detach", device], check=True)


def test_a_disk_that_can_create_nothing_exclusively_is_refused_in_a_line(
    disk, tmp_path, tiny_bundle, make_photo, capsys
):
    photo = make_photo(tmp_path / "photos" / "a.jpg")
    with pytest.raises(PermissionError):
        os.link(shutil.copy(photo, disk / "a.jpg"), disk / "b.jpg")
    arguments = ["caption", "--input", str(disk), "--bundle", str(tiny_bundle), "--output"]
    assert cli.main([*arguments, str(disk / "out")]) == 1
    assert capsys.readouterr().err == (
        f"beamscribe caption: {disk}/out can't hold captions: its filesystem supports neither hard links nor renames "
        "that keep an existing file; choose a folder on another disk or in another store\n"
    )
    assert sorted(path.name for path in disk.iterdir()) == ["a.jpg"]
    # Photos are read from it all the same.
    assert cli.main([*arguments, str(tmp_path / "out")]) == 0
