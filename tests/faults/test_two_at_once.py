"""Two commands at one folder: one wins, the other says so; readers see the old bundle or the new one."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from depthmask.atomic import new_folder, only_writer, write_file
from depthmask.bundle import open_bundle
from depthmask.errors import InputError, UsageError

SLOW = """
import sys, time
from pathlib import Path
from depthmask.atomic import new_folder
with new_folder(Path(sys.argv[1])) as folder:
    (folder / "manifest.json").write_text("first")
    print("begun", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def slow_writer(tmp_path):
    """Another process that makes a folder, until its standard input ends or it is killed."""
    writer = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(tmp_path / "out")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert writer.stdout.readline() == b"begun\n"
    yield writer
    writer.kill()
    writer.communicate()


def test_the_second_maker_of_a_folder_is_refused_and_the_first_wins(tmp_path, slow_writer):
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="another one is at it"), new_folder(out):
        pytest.fail("two at once")
    slow_writer.communicate(timeout=20)
    assert slow_writer.returncode == 0
    assert (out / "manifest.json").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_second_export_says_so_before_it_works(tmp_path, slow_writer, tiny_chain):
    from depthmask.export import export_chain
    from depthmask.frames import Resolution

    def trace(*arguments, **options):
        pytest.fail("it works")

    with pytest.raises(UsageError, match="another one is at it"):
        export_chain(tiny_chain, tmp_path / "out", resolution=Resolution(32, 32), trace=trace)


def test_what_a_killed_maker_left_is_recovered(tmp_path, slow_writer):
    slow_writer.send_signal(signal.SIGKILL)
    slow_writer.wait()
    assert len(list(tmp_path.iterdir())) == 2  # its folder and its lock
    with new_folder(tmp_path / "out") as folder:
        (folder / "manifest.json").write_text("second")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "manifest.json").read_text() == "second"


def test_a_folder_that_was_moved_aside_goes_back(tmp_path):
    """Killed between the two renames, where the file system has no exchange."""
    aside = tmp_path / ".out.abcd1234.depthmask-tmp" / ".depthmask-old"
    aside.mkdir(parents=True)
    (aside / "manifest.json").write_text("old")
    with pytest.raises(RuntimeError), new_folder(tmp_path / "out", overwrite=True):
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "manifest.json").read_text() == "old"


def test_what_is_not_ours_stays(tmp_path):
    names = [".out.backup_1", ".out.lock", ".other.abcd1234.depthmask-tmp", ".out.txt"]
    for name in names:
        (tmp_path / name).mkdir()
    with new_folder(tmp_path / "out") as folder:
        (folder / "manifest.json").write_text("")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "out"])


def test_a_file_of_a_living_writer_stays_and_of_a_killed_one_goes(tmp_path):
    abandoned = tmp_path / ".a.json.abcd1234.depthmask-tmp"
    abandoned.write_text("half")

    def while_another_writes(file):
        (other,) = [path for path in tmp_path.iterdir() if path.name != "a.json"]
        write_file(tmp_path / "a.json", b"inner")
        assert other.exists()
        file.write(b"outer")

    write_file(tmp_path / "a.json", while_another_writes)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_bytes() == b"outer"


def test_one_training_at_a_time_writes_into_a_run(tmp_path):
    from depthmask.train.config import read_config
    from depthmask.train.run_folder import RunFolder

    config = read_config("lite")
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    first.prepare(config)
    with first.opened(0):
        with pytest.raises(UsageError, match="another one is at it"):
            second.prepare(config)
        with pytest.raises(UsageError, match="another one is at it"), second.opened(0):
            pytest.fail("two at once")
    with second.opened(0):
        pass


def test_a_lock_needs_its_file(tmp_path):
    with pytest.raises(InputError), only_writer(tmp_path, tmp_path / "none"):
        pass


def test_readers_see_the_old_bundle_or_the_new_one(bundle_path, tmp_path):
    """Opened by name a thousand times while it is exchanged again and again."""
    seen, stop = [], threading.Event()

    def exchange():
        while not stop.is_set():
            with new_folder(bundle_path, overwrite=True) as folder:
                shutil.copytree(tmp_path / "other", folder, dirs_exist_ok=True)

    shutil.copytree(bundle_path, tmp_path / "other")
    writer = threading.Thread(target=exchange)
    writer.start()
    until = time.monotonic() + 2
    try:
        while time.monotonic() < until or len(seen) < 20:
            try:
                seen.append(open_bundle(bundle_path).manifest.precision)
            except InputError as error:  # opened while it was exchanged: said, not half read
                seen.append(str(error))
    finally:
        stop.set()
        writer.join()
    good = [one for one in seen if one == "fp32"]
    assert len(good) > len(seen) / 2
    assert all("\n" not in one for one in seen)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "other"]
