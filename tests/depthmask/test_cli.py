from __future__ import annotations

import os
import subprocess
import sys

import pytest

from depthmask.cli import COMMANDS

HEAVY = ("torch", "cv2", "numpy", "onnx", "onnxruntime", "openvino", "av", "matplotlib", "rich")


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom depthmask.cli import dmx\n"
        "try:\n    dmx.main(['--help'], standalone_mode=True)\nexcept SystemExit:\n    pass\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(dmx, name):
    done = dmx(name, "--help")
    assert done.returncode == 0, done.stderr
    assert "Example" in done.stdout or name == "data"  # a group: its commands have them


@pytest.mark.parametrize("name", ["fetch", "compose"])
def test_data_commands_have_help_with_an_example(dmx, name):
    done = dmx("data", name, "--help")
    assert done.returncode == 0, done.stderr
    assert "Example" in done.stdout


def test_version(dmx):
    done = dmx("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("dmx, version ")


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (["nonsense"], 2, "No such command"),
        (
            ["export", "--preset", "nonsense"],
            2,
            "a preset must be one of lite, lite-relevance, seed, hu2019",
        ),
        (["export", "--resolution", "big"], 2, "224 or 192x256"),
        (["export", "--resolution", "16"], 2, "sides must be 32 to 4096"),
        (["export", "--preset", "hu2019"], 2, "--init 0"),
        (["export", "--checkpoint", "nowhere"], 3, "nowhere must be a checkpoint folder"),
        (["export", "--fp16", "--init"], 2, "requires an argument"),
        (["run", "--device", "cuda", "--source", ".", "--out", "o"], 4, "--device cuda"),
        (
            ["run", "--runtime", "nonsense", "--source", ".", "--out", "o"],
            2,
            "a runtime must be one of",
        ),
        (["run", "nowhere", "--source", ".", "--out", "o"], 3, "nowhere must be a bundle"),
        (["verify", "nowhere"], 3, "nowhere must be a bundle"),
        (["bench", "nowhere"], 3, "nowhere must be a bundle"),
        (["verify", "--device", "cuda"], 4, "--device cuda"),
    ],
)
def test_a_users_mistake_is_one_line_and_the_right_exit_code(
    dmx, tmp_path, arguments, exit_code, said
):
    from depthmask.devices import cuda_problem

    if "cuda" in arguments and cuda_problem() is None:
        pytest.skip("there is a GPU here")
    (tmp_path / "photo.png").write_bytes(b"")
    done = dmx(*arguments)
    assert done.returncode == exit_code, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert said in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


def test_debug_shows_the_traceback(dmx):
    done = dmx("--debug", "verify", "nowhere")
    assert "Traceback" in done.stderr


def test_a_reader_that_leaves_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)  # before the first byte
    command = "from depthmask.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", command, "data", "stats", "--recipe", "reference"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--source", "{photo}", "--out", "out"],
        ["verify"],
        ["bench", "--resolution", "64", "--seconds", "0", "--min-runs", "1", "--limit", "1"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_the_device_needs_no_torch(tmp_path, arguments):
    from depthmask.samples import shipped_photos

    photo = str(shipped_photos()[0])
    without = "import sys; sys.modules['torch'] = None; from depthmask.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", without, *(text.format(photo=photo) for text in arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    exported = subprocess.run(
        [sys.executable, "-c", without, "export"], capture_output=True, text=True, check=False
    )
    assert exported.returncode == 4
    assert "PyTorch" in exported.stderr
