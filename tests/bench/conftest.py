"""A bundle's description and a pipeline that need no networks, and a clock that only we move."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import av
import numpy as np
import pytest
from msgspec import structs

from depthmask.accuracy import AccuracyResult, DepthAccuracy
from depthmask.bench.latency import LatencyResult
from depthmask.bench.machine import Machine
from depthmask.bench.nvml import open_gpu
from depthmask.bench.open_loop import OpenLoopResult
from depthmask.bench.result import Agreement, BenchResult, Cell
from depthmask.bundle import Bundle, GraphRecord, Manifest
from depthmask.flicker import FlickerResult
from depthmask.frames import write_png
from depthmask.metrics import DepthMetrics, MaskMetrics
from depthmask.presets import PRESETS
from depthmask.samples import open_samples

SIZE = 16


@dataclass
class FakePrediction:
    mask_HW: np.ndarray
    depth_HW: np.ndarray
    timings_ms: dict[str, float]


@dataclass
class FakePipeline:
    """Each call takes the next of `durations_ms` (the last for ever) on the clock."""

    durations_ms: list[float] = field(default_factory=lambda: [10.0])
    offset: float = 0.0
    log: list = field(default_factory=list)
    name: str = ""
    open_ms: float = 120.0
    now_s: float = 0.0
    calls: int = 0
    closed: int = 0

    def clock(self):
        return self.now_s

    def __call__(self, frame_HW3):
        duration_ms = self.durations_ms[min(self.calls, len(self.durations_ms) - 1)]
        self.calls += 1
        self.now_s += duration_ms / 1000
        self.log.append(self.name)
        size = frame_HW3.shape[:2]
        timings_ms = {"preprocess": 1.0, "inference": duration_ms - 3, "postprocess": 2.0}
        mask_HW = np.full(size, 0.75 + self.offset, np.float32)
        return FakePrediction(mask_HW, np.full(size, 2.0 + self.offset, np.float32), timings_ms)

    def close(self):
        self.closed += 1


@pytest.fixture
def fake_pipeline():
    return FakePipeline


@pytest.fixture
def fake_bundle(tmp_path):
    def make(name="fake", resolutions=(64, 128)):
        manifest = Manifest(
            chain=PRESETS["lite"],
            weights={},
            precision="fp32",
            input="frame",
            dynamic_batch=False,
            dynamic_resolution=False,
            graphs=tuple(
                GraphRecord(file=f"{side}.onnx", height=side, width=side, gmac=0.1, parity={})
                for side in resolutions
            ),
            opset=18,
            versions={},
            accuracy={},
            verified=True,
            files={},
        )
        return Bundle(tmp_path / name, manifest)

    return make


@pytest.fixture
def samples(tmp_path):
    """Three labelled frames; the fake pipeline's mask is right in the upper half."""
    folder = tmp_path / "data"
    folder.mkdir()
    mask_HW = np.zeros((SIZE, SIZE), np.uint8)
    mask_HW[: SIZE // 2] = 255
    for index in range(3):
        write_png(folder / f"{index}.png", np.full((SIZE, SIZE, 3), index, np.uint8))
        write_png(folder / f"{index}.mask.png", mask_HW)
        write_png(folder / f"{index}.depth.png", np.full((SIZE, SIZE), 2000, np.uint16))
    (folder / "dataset.json").write_text('{"schema": 1, "count": 3}', encoding="utf-8")
    return open_samples(folder)


@pytest.fixture
def clip_path(tmp_path):
    """Twelve equal frames of 48x64."""
    path = tmp_path / "clip.mkv"
    noise_HW3 = np.random.default_rng(0).integers(0, 120, (48, 64, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.options = {"g": "1", "crf": "1"}
        for _ in range(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise_HW3, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def loaded(result):
    """The result with frames that arrived at two rates, one too fast, and with flicker."""
    held = OpenLoopResult(
        arrivals_per_s=10.0,
        offered=20,
        done=20,
        sustained=True,
        p50_ms=12.5,
        p90_ms=None,
        p99_ms=None,
        longest_ms=31.25,
        samples_ms=(12.5,) * 20,
    )
    lost = structs.replace(held, arrivals_per_s=200.0, done=15, sustained=False, longest_ms=987.5)
    flicker = FlickerResult(
        data="data",
        frames=12,
        pairs=10,
        pairs_left_out=1,
        visible_share=0.875,
        mask=0.0125,
        mask_unwarped=0.25,
        depth_in_mask=0.0625,
        depth_frame=None,
    )
    good = structs.replace(result.cells[0], load=(held, lost), flicker=flicker)
    return structs.replace(result, arrivals_per_s=(10.0, 200.0), cells=(good, result.cells[1]))


@pytest.fixture
def result():
    """One cell with all numbers, one that failed."""
    depth = DepthMetrics(1, 1, 1, 0.5, 0.1, 0.8125, 0.9, 0.95, 0.1, 100)
    accuracy = {
        "data": "data",
        "count": 3,
        "mask": MaskMetrics(0.625, 0.7, 0.1, 0.6, 0.3),
        "mask_count": 3,
        "mask_share": 0.5,
        "depth_in_mask": DepthAccuracy(depth, depth),
        "depth_frame": None,
    }
    latency = {
        "runs": 3,
        "warmup_runs": 10,
        "stable": False,
        "open_ms": 100.0,
        "first_inference_ms": 20.0,
        "p50_ms": 11.0,
        "p90_ms": 12.0,
        "p95_ms": None,
        "p99_ms": None,
        "p999_ms": None,
        "cv": 0.09,
        "turns": (),
        "spoilt_by": (),
        "mean_ms": 11.0,
        "stage_p50_ms": {"preprocess": 1.0, "inference": 9.0, "postprocess": 1.0},
        "throughput_frames_per_s": 90.9,
        "samples_ms": (10.0, 11.0, 12.0),
        "stage_samples_ms": {"inference": (8.0, 9.0, 10.0)},
    }
    common = {
        "bundle": "b[red]",
        "preset": "lite",
        "kind": "foreground",
        "precision": "fp32",
        "height_px": 64,
        "width_px": 96,
        "gmac": 0.1,
        "device": "cpu",
        "threads": None,
    }
    good = Cell(
        **common,
        runtime="onnxruntime",
        status="ok",
        peak_memory_bytes=123_400_000,
        latency=LatencyResult(**latency),
        accuracy=AccuracyResult(**accuracy),
        agreement=Agreement(frames=4, mask_max_abs=2e-6, depth_max_rel=3e-5),
    )
    bad = Cell(**common, runtime="openvino", status="failed", problem="no [cpu] | left")
    return BenchResult(
        made_at="2026-01-02T03:04:05+00:00",
        machine=_machine(),
        data="data",
        frame_sizes=("16x16",),
        decode_p50_ms=1.5,
        seconds_per_cell=2.0,
        rounds=5,
        rounds_done=5,
        seed=0,
        cells=(good, bad),
    )


def _machine():
    return Machine(
        cpu="A CPU",
        physical_cores=None,
        logical_cores=4,
        usable_cores=2,
        cpu_quota_cores=None,
        memory_bytes=8 << 30,
        gpus=(),
        os="Linux",
        python="3.11",
        packages={"numpy": "2"},
        governor=None,
        load_1min=0.5,
    )


class FakeNvml:
    """As much of `pynvml` as we ask; a value that is None is not supported by this GPU.

    Its functions and constants are pynvml's (tests/bench/test_nvml.py checks that), and so are the units.
    """

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    class NVMLError(Exception):
        pass

    def __init__(self):
        self.sm_clock_mhz, self.memory_clock_mhz = 1980, 2619
        self.power_mw, self.energy_mj, self.temperature_c = 300_000, 5_000_000, 54
        self.reasons = 0x1
        self.processes = []
        self.utilisation = []
        self.total_bytes = 80 << 30

    def nvmlInit(self):
        pass

    def nvmlDeviceGetHandleByPciBusId(self, address):
        if address != "0000:3b:00.0":
            raise self.NVMLError("Not Found")
        return "handle"

    def nvmlDeviceGetClockInfo(self, handle, kind):
        return self._told(
            self.sm_clock_mhz if kind == self.NVML_CLOCK_SM else self.memory_clock_mhz
        )

    def nvmlDeviceGetPowerUsage(self, handle):
        return self._told(self.power_mw)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        return self._told(self.energy_mj)

    def nvmlDeviceGetTemperature(self, handle, sensor):
        return self._told(self.temperature_c)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
        return self._told(self.reasons)

    def nvmlDeviceGetProcessUtilization(self, handle, since_us):
        later = [SimpleNamespace(**one) for one in self.utilisation if one["timeStamp"] > since_us]
        return self._told(later or None)  # "Not Found" where there is none

    def nvmlDeviceGetComputeRunningProcesses_v3(self, handle):
        return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in self.processes]

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(total=self.total_bytes, free=0, used=self.total_bytes)

    def nvmlDeviceGetName(self, handle):
        return "NVIDIA H100 80GB HBM3"

    def nvmlSystemGetDriverVersion(self):
        return "550.54.15"

    def nvmlSystemGetCudaDriverVersion(self):
        return 12040

    def _told(self, value):
        if value is None:
            raise self.NVMLError("Not Supported")
        return value


@pytest.fixture
def fake_nvml():
    return FakeNvml()


@pytest.fixture
def fake_gpu(fake_nvml):
    return open_gpu(fake_nvml, lambda: "0000:3b:00.0")
