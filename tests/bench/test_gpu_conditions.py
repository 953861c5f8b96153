from __future__ import annotations

import os
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from depthmask.bench.conditions import Conditions, ConditionsMeter, between, spoilt_by
from depthmask.bench.gpu_conditions import (
    _REASONS,
    GpuMeter,
    gpu_between,
    gpu_spoilt_by,
)
from depthmask.bench.latency import LatencyMeter
from depthmask.bench.nvml import open_gpu

OWN = os.getpid()
AFTER_NOW_US = 1 << 62


@pytest.fixture
def stretch(fake_nvml, fake_gpu):
    """What a meter finds over ten seconds that change the GPU so."""
    meter = GpuMeter(fake_gpu)

    def measure(**after):
        before = meter.now()
        for name, value in after.items():
            setattr(fake_nvml, name, value)
        return gpu_between(before, replace(meter.now(before.wall_s), wall_s=before.wall_s + 10))

    return measure


def used(pid, share):
    return {"pid": pid, "smUtil": share, "timeStamp": AFTER_NOW_US}


def test_a_quiet_gpu_spoils_nothing(stretch):
    found = stretch(energy_mj=5_000_000 + 3_500_000, utilisation=[used(OWN, 90)])
    assert found.sm_clock_mhz == (1980, 1980)
    assert found.memory_clock_mhz == (2619, 2619)
    assert found.power_w == pytest.approx(350)
    assert found.temperature_c == 54
    assert found.clock_reasons == ("idle",)
    assert found.other_load == 0
    assert gpu_spoilt_by([found, found]) == ()


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ({"reasons": 0x4}, ["the GPU was slowed down by its power limit"]),
        ({"reasons": 0x8}, ["the GPU was slowed down by its hardware"]),
        ({"reasons": 0x20}, ["the GPU was slowed down by heat, by the driver"]),
        ({"reasons": 0x40}, ["the GPU was slowed down by heat, by the hardware"]),
        ({"reasons": 0x80}, ["the GPU was slowed down by the power supply"]),
        ({"reasons": 0x1 | 0x2 | 0x10 | 0x100 | 1 << 40}, []),
        ({"sm_clock_mhz": 1200}, ["the GPU's clock changed from 1200 to 1980 MHz"]),
        ({"sm_clock_mhz": 1800}, []),
        (
            {"utilisation": [used(OWN, 50), used(OWN + 1, 40)]},
            ["another process computed on the GPU for up to 40% of the time"],
        ),
        ({"utilisation": [used(OWN, 50), used(OWN + 1, 3)]}, []),
    ],
)
def test_what_spoils_a_measurement_is_named(stretch, after, words):
    assert list(gpu_spoilt_by([stretch(), stretch(**after)])) == words


def test_load_of_others_is_unknown_where_our_own_is_not_told(stretch):
    assert stretch(utilisation=[used(OWN + 1, 90)]).other_load is None
    assert stretch(utilisation=[]).other_load is None


def test_load_from_before_the_stretch_does_not_count(stretch):
    old = {**used(OWN + 1, 90), "timeStamp": 0}
    assert stretch(utilisation=[used(OWN, 90), old]).other_load == 0


def test_power_without_a_count_of_energy_is_the_higher_reading(stretch):
    assert stretch(energy_mj=None, power_mw=310_000).power_w == 310


def test_what_a_gpu_does_not_tell_is_none(fake_nvml, stretch):
    untold = (
        "sm_clock_mhz",
        "memory_clock_mhz",
        "power_mw",
        "energy_mj",
        "temperature_c",
        "reasons",
    )
    for name in untold:
        setattr(fake_nvml, name, None)
    found = stretch()
    assert found.sm_clock_mhz is found.memory_clock_mhz is found.power_w is None
    assert found.temperature_c is None
    assert found.clock_reasons == ()
    assert gpu_spoilt_by([found]) == ()


def test_the_reasons_are_those_of_the_real_library():
    pynvml = pytest.importorskip("pynvml")
    named = {
        value
        for name, value in vars(pynvml).items()
        if name.startswith("nvmlClocksEventReason") and isinstance(value, int)
    }
    assert set(_REASONS) == named - {0, pynvml.nvmlClocksEventReasonAll}


def test_every_turn_keeps_what_the_gpu_did(fake_pipeline, fake_nvml, fake_gpu, tmp_path):
    pipeline = fake_pipeline()
    conditions = ConditionsMeter(tmp_path, GpuMeter(fake_gpu))
    meter = LatencyMeter(
        pipeline, [np.zeros((4, 6, 3), np.uint8)], pipeline.clock, conditions=conditions
    )
    fake_nvml.reasons = 0x4
    meter.sample(0.1, 5)
    result = meter.result()
    (turn,) = result.turns
    assert turn.conditions.gpu.temperature_c == 54
    assert result.spoilt_by == ("the GPU was slowed down by its power limit",)


def test_conditions_survive_json_with_and_without_a_gpu(fake_gpu, tmp_path):
    for gpu in (None, GpuMeter(fake_gpu)):
        meter = ConditionsMeter(tmp_path, gpu)
        found = between(meter.now(), meter.now())
        assert msgspec.json.decode(msgspec.json.encode(found), type=Conditions) == found
        assert (found.gpu is None) == (gpu is None)
        assert spoilt_by([found]) == ()


@pytest.mark.gpu
def test_a_real_gpu_tells_its_clocks_and_power():
    gpu = open_gpu()
    assert gpu is not None
    meter = GpuMeter(gpu)
    before = meter.now()
    found = gpu_between(before, meter.now(before.wall_s))
    assert found.sm_clock_mhz[0] > 0
    assert found.memory_clock_mhz[0] > 0
    assert 0 < found.temperature_c < 120
