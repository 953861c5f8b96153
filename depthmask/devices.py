"""Which devices are truly there; asked of the driver, since packages cannot tell."""

from __future__ import annotations

import ctypes

from depthmask.errors import UnavailableError

_CUDA_ERRORS = {
    35: "the NVIDIA driver is older than this CUDA needs",
    100: "the driver finds no CUDA device",
    803: "the driver and the CUDA library do not fit together",
    999: "the CUDA driver failed to start",
}
_BUS_ID_BYTES = 32
# CUdevice_attribute of the CUDA driver API.
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


def cuda_bus_id() -> str | None:
    """The PCI address of the GPU that CUDA numbers 0, as `0000:3b:00.0`; None where there is none.

    Other libraries number the GPUs in another order, and know nothing of CUDA_VISIBLE_DEVICES.
    """
    if cuda_problem() is not None:
        return None
    driver = ctypes.CDLL("libcuda.so.1")
    device, text = ctypes.c_int(0), ctypes.create_string_buffer(_BUS_ID_BYTES)
    if driver.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return None
    if driver.cuDeviceGetPCIBusId(text, _BUS_ID_BYTES, device) != 0:
        return None
    return text.value.decode("ascii")


def cuda_problem() -> str | None:
    """Why CUDA cannot be used on this machine, in a clause; None where it can.

    Asks the driver itself (cuInit, cuDeviceGetCount of the CUDA driver API): some libraries crash
    where it is missing, and others run on the CPU without a word.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver (libcuda.so.1 cannot be loaded)"
    status = driver.cuInit(0)
    if status == 0:
        count = ctypes.c_int(0)
        status = driver.cuDeviceGetCount(ctypes.byref(count))
        if status == 0 and count.value == 0:
            status = 100
    if status == 0:
        return None
    return f"{_CUDA_ERRORS.get(status, 'the CUDA driver failed')} (error {status})"


def cuda_architecture() -> str:
    """The architecture of the GPU that CUDA numbers 0, as `sm89`.

    Raises:
        UnavailableError: there is no GPU, or the driver does not tell.
    """
    problem = cuda_problem()
    if problem is not None:
        raise UnavailableError(f"a GPU is needed, but {problem}")
    driver = ctypes.CDLL("libcuda.so.1")
    device, sides = ctypes.c_int(0), []
    status = driver.cuDeviceGet(ctypes.byref(device), 0)
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
        value = ctypes.c_int(0)
        status = status or driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        sides.append(value.value)
    if status != 0:
        raise UnavailableError(
            f"the CUDA driver does not tell the GPU's architecture (error {status})"
        )
    return f"sm{sides[0]}{sides[1]}"


def cuda_driver_version() -> str | None:
    """The newest CUDA that the driver can serve, as `12.4`; None where there is no driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int(0)
    if driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"
