"""Power cuts: what a name stands for is on the disk before the name is; full disks and read-only ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from depthmask.atomic import new_folder, write_file
from depthmask.errors import OutputError


@pytest.fixture
def calls(monkeypatch):
    """The fsyncs and renames, in their order."""
    made = []
    fsync, replace, rename = os.fsync, Path.replace, Path.rename

    def recorded_fsync(descriptor):
        made.append(("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        fsync(descriptor)

    def recorded(kind, function):
        def call(path, target):
            made.append((kind, str(path)))
            return function(path, target)

        return call

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(Path, "replace", recorded("rename", replace))
    monkeypatch.setattr(Path, "rename", recorded("rename", rename))
    return made


def test_a_file_is_synced_before_it_gets_its_name_and_its_folder_after(tmp_path, calls):
    write_file(tmp_path / "a.json", b"content")
    (synced, temporary), (renamed, source), (after, folder) = calls
    assert (synced, renamed, after) == ("fsync", "rename", "fsync")
    assert temporary == source
    assert folder == str(tmp_path)


@pytest.mark.parametrize("exchanges", [False, True])
def test_all_of_a_folder_is_synced_before_it_gets_its_name(tmp_path, calls, exchanges, monkeypatch):
    import depthmask.atomic

    exchange = depthmask.atomic._exchange

    def recorded(first, second):
        calls.append(("rename", str(first)))
        return exchange(first, second)

    monkeypatch.setattr(depthmask.atomic, "_exchange", recorded)
    target = tmp_path / "out"
    if exchanges:
        target.mkdir()
    with new_folder(target, overwrite=exchanges) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "b.bin").write_bytes(b"b")
        (folder / "a.bin").write_bytes(b"a")
    place = [kind for kind, _ in calls].index("rename")
    assert calls[place][1] == str(folder)
    before = {path for kind, path in calls[:place] if kind == "fsync"}
    assert before == {str(folder / name) for name in ("", "sub", "sub/b.bin", "a.bin")}
    assert ("fsync", str(tmp_path)) in calls[place:]


@pytest.fixture
def full_disk(tmp_path):
    """A file system of 256 kB."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    (folder := tmp_path / "disk").mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_full_keeps_the_old_folder_and_nothing_else(full_disk):
    target = full_disk / "out"
    with new_folder(target) as folder:
        (folder / "manifest.json").write_text("old")
    with (
        pytest.raises(OutputError, match="No space left"),
        new_folder(target, overwrite=True) as folder,
    ):
        (folder / "manifest.json").write_bytes(bytes(1 << 20))
    assert [path.name for path in full_disk.iterdir()] == ["out"]
    assert (target / "manifest.json").read_text() == "old"


def test_an_export_onto_a_disk_that_is_full_leaves_nothing(full_disk, tiny_chain, trace):
    from depthmask.export import export_chain
    from depthmask.frames import Resolution

    sizes = [Resolution(32, 32), Resolution(48, 64)]
    with pytest.raises(OutputError, match="No space left"):
        export_chain(tiny_chain, full_disk / "b", resolution=sizes, trace=trace)
    assert list(full_disk.iterdir()) == []


def test_a_device_that_is_full_is_an_error_of_the_file(tmp_path):
    with Path("/dev/full").open("wb", buffering=0) as device, pytest.raises(OSError, match="space"):
        write_file(tmp_path / "a.json", lambda file: device.write(b"x"))
    assert list(tmp_path.iterdir()) == []


def test_json_onto_a_full_disk_is_one_line(tiny_bundle_path):
    """What `dmx inspect --json > /dev/full` says."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "depthmask", "inspect", str(tiny_bundle_path), "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 6, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_is_read_only_is_an_output_error(tmp_path):
    if os.geteuid() == 0:
        read_only = Path("/proc/self/out")  # even root makes no folder there
    else:
        tmp_path.chmod(0o500)
        read_only = tmp_path / "out"
    with pytest.raises(OutputError, match="cannot be written"), new_folder(read_only):
        pytest.fail("it is writable")
