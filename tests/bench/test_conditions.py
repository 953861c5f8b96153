from __future__ import annotations

import os
import time
from dataclasses import replace

import numpy as np
import pytest

from depthmask.bench.conditions import ConditionsMeter, between, spoilt_by
from depthmask.bench.latency import LatencyMeter

TICKS = os.sysconf("SC_CLK_TCK")


@pytest.fixture
def machine(tmp_path):
    """The files of a machine whose counters are what we write."""

    def write(other_s=0.0, stolen_s=0.0, clock_khz=2_000_000, millidegrees=50_000, throttled=0):
        cores = sorted(os.sched_getaffinity(0))
        own_s = time.process_time()
        rows = [
            f"cpu{k} {round((other_s + own_s) * TICKS) if k == cores[0] else 0} 0 0 9 9 0 0"
            f" {round(stolen_s * TICKS) if k == cores[0] else 0} 0 0"
            for k in cores
        ]
        files = {
            "proc/stat": "\n".join(["cpu 1 2 3 4 5 6 7 8 9 10", *rows]),
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": f"{clock_khz}\n",
            "sys/class/thermal/thermal_zone0/temp": f"{millidegrees}\n",
            "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": f"{throttled}\n",
        }
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return ConditionsMeter(tmp_path)

    return write


def stretch(machine, seconds=10.0, **after):
    before = machine().now()
    now = machine(**after).now()
    return between(before, replace(now, wall_s=before.wall_s + seconds))


def test_a_quiet_machine_spoils_nothing(machine):
    found = stretch(machine)
    assert found.seconds == pytest.approx(10)
    assert found.other_load_cores == pytest.approx(0, abs=0.01)
    assert found.clock_mhz == (2000, 2000)
    assert found.temperature_c == 50
    assert spoilt_by([found, found]) == ()


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ({"other_s": 5.0}, "other processes took up to 0.5 cores"),
        ({"stolen_s": 1.0}, "other virtual machines took up to 0.10 cores"),
        ({"clock_khz": 1_500_000}, "the clock changed from 1500 to 2000 MHz"),
        ({"throttled": 3}, "cores were slowed down for heat 3 times"),
    ],
)
def test_what_spoils_a_measurement_is_named(machine, after, words):
    quiet, loud = stretch(machine), stretch(machine, **after)
    assert spoilt_by([quiet, loud]) == (words,)


def test_what_a_machine_does_not_tell_is_none(tmp_path):
    meter = ConditionsMeter(tmp_path)
    found = between(meter.now(), meter.now())
    unknown = (found.other_load_cores, found.stolen_cores, found.clock_mhz, found.temperature_c)
    assert unknown == (None,) * 4
    assert found.throttled is None
    assert spoilt_by([found]) == ()


def test_every_turn_keeps_what_the_machine_did(machine, fake_pipeline):
    pipeline = fake_pipeline()
    frames = [np.zeros((4, 6, 3), np.uint8)]
    meter = LatencyMeter(pipeline, frames, pipeline.clock, machine(millidegrees=61_000))
    meter.sample(0.1, 5)
    (turn,) = meter.result().turns
    assert turn.runs >= 5
    assert turn.conditions.temperature_c == 61
