from __future__ import annotations

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
        (["export", "--preset", "nonsense"], 2, "a preset must be one of lite, seed, hu2019"),
        (["export", "--resolution", "big"], 2, "224 or 192x256"),
        (["export", "--resolution", "16"], 2, "sides must be 32 to 4096"),
        (["export", "--preset", "hu2019"], 2, "--init 0"),
        (["export", "--checkpoint", "nowhere"], 3, "nowhere must be a checkpoint folder"),
        (["export", "--fp16", "--init"], 2, "requires an argument"),
        (["run", "--device", "cuda", "--source", "."], 4, "--device cuda"),
        (["run", "--runtime", "nonsense", "--source", "."], 2, "a runtime must be one of"),
        (["run", "nowhere", "--source", "."], 3, "nowhere must be a bundle"),
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
    done = dmx("--debug", "export", "--preset", "nonsense")
    assert "Traceback" in done.stderr
