from __future__ import annotations

import os

import pytest

from depthmask.bench.nvml import memory_since, open_gpu
from depthmask.devices import cuda_bus_id, cuda_problem


def test_the_gpu_that_cuda_uses_is_described(fake_gpu):
    hardware = fake_gpu.hardware()
    assert hardware.name == "NVIDIA H100 80GB HBM3"
    assert (hardware.driver, hardware.cuda) == ("550.54.15", "12.4")
    assert hardware.memory_bytes == 80 << 30


def test_without_cuda_no_gpu_is_asked(fake_nvml):
    assert open_gpu(fake_nvml, lambda: None) is None


def test_a_gpu_that_the_library_does_not_know_is_none(fake_nvml):
    assert open_gpu(fake_nvml, lambda: "0000:99:00.0") is None


def test_what_is_not_supported_or_not_there_is_none(fake_nvml, fake_gpu):
    fake_nvml.power_mw = None
    assert fake_gpu.ask("nvmlDeviceGetPowerUsage") is None
    assert fake_gpu.ask("nvmlDeviceGetSomethingNew") is None


def test_the_real_library_without_a_driver_is_none():
    pynvml = pytest.importorskip("pynvml")
    if cuda_problem() is None:
        pytest.skip("there is a GPU here")
    with pytest.raises(pynvml.NVMLError_LibraryNotFound):
        pynvml.nvmlInit()
    assert open_gpu() is None
    assert cuda_bus_id() is None


def test_the_fake_has_the_names_of_the_real_library(fake_nvml):
    pynvml = pytest.importorskip("pynvml")
    for name, value in vars(type(fake_nvml)).items():
        if name.startswith("nvml"):
            assert callable(getattr(pynvml, name))
        if name.startswith("NVML_"):
            assert getattr(pynvml, name) == value
    assert pynvml.nvmlDeviceGetCurrentClocksThrottleReasons  # asked of older drivers


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({}, {os.getpid(): 500, 7: 900}, 500),
        ({7: 900}, {7: 900, 8: 500}, 500),  # a container's processes have the host's numbers
        ({7: 900}, {7: 950}, None),
        ({}, {7: 900, 8: 500}, None),
        ({}, {}, None),
    ],
)
def test_the_memory_of_this_process(before, after, expected):
    assert memory_since(before, after) == expected


def test_memory_that_is_not_told_is_left_out(fake_nvml, fake_gpu):
    fake_nvml.processes = [(7, 500), (8, None)]
    assert fake_gpu.memory_by_process() == {7: 500}


@pytest.mark.gpu
def test_a_real_gpu_describes_itself():
    gpu = open_gpu()
    assert gpu is not None
    hardware = gpu.hardware()
    assert hardware.memory_bytes > 1 << 30
    assert hardware.driver
    assert hardware.cuda
