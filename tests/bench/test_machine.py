from __future__ import annotations

import platform

import msgspec
import numpy as np

from depthmask.bench.machine import Machine, this_machine


def test_this_machine_is_described():
    machine = this_machine()
    assert machine.cpu
    assert 1 <= machine.usable_cores <= machine.logical_cores
    assert machine.python == platform.python_version()
    assert machine.packages["numpy"] == np.__version__
    assert machine.cpu in machine.summary


def test_a_gpu_is_part_of_the_machine(monkeypatch, fake_gpu):
    monkeypatch.setattr("depthmask.bench.machine.open_gpu", lambda: fake_gpu)
    machine = this_machine()
    assert machine.gpu.name in machine.summary
    assert msgspec.json.decode(msgspec.json.encode(machine), type=Machine) == machine


def test_a_machine_survives_json():
    machine = this_machine()
    assert msgspec.json.decode(msgspec.json.encode(machine), type=Machine) == machine
