"""A few of the mutations that `make test-faults` makes by the thousand: none may do harm."""

from __future__ import annotations

import random

import pytest
from fuzz_targets import TARGETS
from mutate import fuzz, mutate

OURS = [name for name, target in TARGETS.items() if not target.native]


@pytest.mark.parametrize(
    ("names", "each"),
    [
        ("+".join(OURS), 60),
        ("safetensors+pth+pt2+network", 40),
        ("images+videos+onnxruntime+openvino", 60),
    ],
    ids=["ours", "weights", "pictures and runtimes"],
)
def test_damaged_files_are_refused_in_one_line(names, each):
    outcome = fuzz(names, each * len(names.split("+")), seed=1)
    assert outcome.faults == []
    assert outcome.counts["refused"] > outcome.counts["read"] > 0


def test_the_same_seed_makes_the_same_mutations():
    def made(seed):
        return [mutate(random.Random(f"{seed} {k}"), b'{"a": [1, 2]}', [b"x"]) for k in range(50)]

    assert made(1) == made(1)
    assert made(1) != made(2)
    assert len(set(made(1))) > 30


def test_what_does_harm_is_found(monkeypatch, tmp_path):
    """The driver tells bugs, crashes, hangs and refusals apart, and goes on behind them."""
    script = tmp_path / "sitecustomize.py"
    script.write_text(
        "import sys; sys.path.insert(0, sys.argv[0].rpartition('/')[0]) if sys.argv else None\n"
        "import os, time\n"
        "def install():\n"
        "    import fuzz_targets, ctypes\n"
        "    from depthmask.errors import InputError\n"
        "    calls = []\n"
        "    def feed(content):\n"
        "        calls.append(1)\n"
        "        kind = (content[0] if content else 0) % 6\n"
        "        if len(calls) == 1: return\n"
        "        if kind == 0: raise KeyError('bug')\n"
        "        if kind == 1: os.kill(os.getpid(), 11)\n"
        "        if kind == 2: time.sleep(30)\n"
        "        if kind == 3: raise InputError('bad')\n"
        "        if kind == 4: bytearray(1 << 33)\n"
        "    seeds = [bytes([k]) for k in range(6)]\n"
        "    fuzz_targets.TARGETS['bad'] = fuzz_targets.Target(lambda: seeds, lambda folder: feed)\n"
        "if '--child' in getattr(sys, 'orig_argv', []):\n"
        "    sys.path.insert(0, os.path.dirname(sys.orig_argv[1]))\n"
        "    install()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("mutate.SECONDS_PER_CASE", 0.3)
    outcome = fuzz("bad", 40, seed=0, keep=tmp_path / "kept")
    assert {"bug", "crashed", "hung", "refused", "read"} <= outcome.counts.keys()
    assert sum(outcome.counts.values()) == 40
    found = (tmp_path / "kept" / "bad.txt").read_text()
    for harm in ("KeyError", "ended with -11", "took longer than", "MemoryError"):
        assert harm in found
