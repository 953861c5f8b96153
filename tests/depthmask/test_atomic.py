from __future__ import annotations

import os
import subprocess
import sys

import pytest

from depthmask import atomic
from depthmask.atomic import check_target, new_folder, write_file
from depthmask.errors import OutputError, UsageError

not_as_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fill(target, content="new", overwrite=False):
    with new_folder(target, overwrite=overwrite, check_owner=False) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "file").write_text(content)


@pytest.fixture(params=["exchange", "aside"])
def way(request, monkeypatch):
    """Both ways of putting a folder in place of another one."""
    if request.param == "aside":
        monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)


def test_a_new_folder_appears_whole_with_the_usual_permissions(tmp_path):
    target = tmp_path / "parent" / "target"
    with new_folder(target) as temporary:
        assert not target.exists()
        (temporary / "file").write_text("new")
    assert (target / "file").read_text() == "new"
    assert names(tmp_path / "parent") == ["target"]
    (tmp_path / "plain").mkdir()
    assert target.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.usefixtures("way")
def test_overwriting_replaces_everything(tmp_path):
    target = tmp_path / "target"
    fill(target, "old")
    (target / "only old").write_text("")
    fill(target, overwrite=True)
    assert names(target) == ["sub"]
    assert (target / "sub" / "file").read_text() == "new"
    assert names(tmp_path) == ["target"]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_in_the_middle_leaves_the_old_folder(tmp_path, error):
    target = tmp_path / "target"
    fill(target, "old")

    def write_half():
        with new_folder(target, overwrite=True, check_owner=False) as temporary:
            (temporary / "half").write_text("")
            raise error

    with pytest.raises(error):
        write_half()
    assert (target / "sub" / "file").read_text() == "old"
    assert names(tmp_path) == ["target"]


def test_a_kill_in_the_middle_leaves_the_old_folder(tmp_path):
    target = tmp_path / "target"
    fill(target, "old")
    code = (
        "import os, sys, pathlib\n"
        "from depthmask.atomic import new_folder\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "with new_folder(path, overwrite=True, check_owner=False) as temporary:\n"
        "    (temporary / 'half').write_text('')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(target)], cwd=tmp_path, check=False)
    assert killed.returncode == -9
    assert names(target) == ["sub"]
    assert (target / "sub" / "file").read_text() == "old"


def test_where_going_back_fails_nothing_is_deleted(tmp_path, monkeypatch):
    """A move aside whose second step and whose way back both fail."""
    target = tmp_path / "target"
    fill(target, "old")
    monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)
    real, calls = atomic.Path.rename, []

    def rename(self, to):
        calls.append(to)
        if len(calls) > 1:
            raise OSError(5, "Input/output error")
        return real(self, to)

    monkeypatch.setattr(atomic.Path, "rename", rename)
    with pytest.raises(OutputError, match="Input/output error"):
        fill(target, overwrite=True)
    assert [path.read_text() for path in tmp_path.rglob("file")] == ["old"]


def test_where_the_second_step_fails_the_old_folder_goes_back(tmp_path, monkeypatch):
    target = tmp_path / "target"
    fill(target, "old")
    monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)
    real, calls = atomic.Path.rename, []

    def rename(self, to):
        calls.append(to)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        return real(self, to)

    monkeypatch.setattr(atomic.Path, "rename", rename)
    with pytest.raises(OutputError, match="Input/output error"):
        fill(target, overwrite=True)
    assert (target / "sub" / "file").read_text() == "old"
    assert names(tmp_path) == ["target"]


def test_the_current_folder_can_be_the_target(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    fill(atomic.Path(), overwrite=True)
    assert names(tmp_path / "here") == ["sub"]
    assert names(tmp_path) == ["here"]


def test_an_existing_target_is_refused_before_any_work(tmp_path):
    with pytest.raises(UsageError, match="--overwrite"):
        fill(tmp_path)
    (tmp_path / "file").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="it is a file"):
            fill(tmp_path / "file", overwrite=overwrite)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="it is a file"):
        check_target(tmp_path / "link", overwrite=True)


def test_a_parent_that_is_a_file_cannot_hold_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="not a writable folder"):
        fill(tmp_path / "file" / "target")


@not_as_root
def test_a_read_only_parent_is_refused_before_any_work(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(OutputError, match="not a writable folder"):
            check_target(tmp_path / "a" / "target", overwrite=False)
    finally:
        tmp_path.chmod(0o755)


def test_a_file_system_that_refuses_is_an_output_error(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(atomic.tempfile, "mkdtemp", refuse)
    with pytest.raises(OutputError, match="Read-only file system"):
        fill(tmp_path / "target")


@pytest.mark.parametrize("content", [b"new", lambda file: file.write(b"new")])
def test_a_file_is_replaced_and_nothing_is_left_over(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    write_file(path, content)
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["file"]
    (tmp_path / "plain").write_bytes(b"")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_failing_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def half(file):
        file.write(b"ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_file(path, half)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_overwriting_spares_what_is_not_ours(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match=r"it holds 'holiday.jpg'"):
        check_target(tmp_path / "photos", overwrite=True)
    (tmp_path / "photos" / "manifest.json").write_bytes(b"")
    check_target(tmp_path / "photos", overwrite=True)
    monkeypatch.chdir(tmp_path / "photos")
    with pytest.raises(UsageError, match="above the working folder"):
        check_target(tmp_path, overwrite=True)
