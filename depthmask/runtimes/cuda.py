"""The few calls of the CUDA runtime that an engine needs, by `cuda.bindings`; errors become ours."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from cuda.bindings import runtime as cudart

from depthmask.errors import UnavailableError


def checked(result: tuple[Any, ...]) -> Any:  # noqa: ANN401
    """What a call gave beside its error code.

    Raises:
        UnavailableError: the code is an error.
    """
    error, *values = result
    if error != cudart.cudaError_t.cudaSuccess:
        # Another tuple, and its text is bytes.
        text = cudart.cudaGetErrorString(error)[1]
        raise UnavailableError(
            f"CUDA failed: {text.decode('ascii', 'replace')} (error {int(error)})"
        )
    return values[0] if len(values) == 1 else tuple(values)


class Buffer:
    """Memory on the host, pinned, and as much on the device; allocated once, for the largest shape."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._host = self.device = 0
        try:
            self._host = int(checked(cudart.cudaMallocHost(size_bytes)))
            self.device = int(checked(cudart.cudaMalloc(size_bytes)))
        except UnavailableError as error:
            self.free()
            raise UnavailableError(f"{error}; {size_bytes / 1e6:.1f} MB were needed") from error

    def array(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
        """The host's side as an array; valid until `free`."""
        count_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        memory = (ctypes.c_uint8 * count_bytes).from_address(self._host)
        values: npt.NDArray[np.generic] = np.ctypeslib.as_array(memory).view(dtype).reshape(shape)
        return values

    def to_device(self, count_bytes: int, stream: Any) -> None:  # noqa: ANN401
        """Copy the first bytes, in the stream's turn."""
        kind = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        checked(cudart.cudaMemcpyAsync(self.device, self._host, count_bytes, kind, stream))

    def to_host(self, count_bytes: int, stream: Any) -> None:  # noqa: ANN401
        """Likewise, the other way."""
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        checked(cudart.cudaMemcpyAsync(self._host, self.device, count_bytes, kind, stream))

    def free(self) -> None:
        """Give both back; again is harmless."""
        if self.device:
            cudart.cudaFree(self.device)
        if self._host:
            cudart.cudaFreeHost(self._host)
        self.device = self._host = 0


class Stream:
    """A CUDA stream with four events on it, that divide a run into its parts."""

    def __init__(self) -> None:
        self.handle = checked(cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking))
        self._events = [checked(cudart.cudaEventCreate()) for _ in range(4)]

    def mark(self, index: int) -> None:
        """Note the time at which the device comes to this point."""
        checked(cudart.cudaEventRecord(self._events[index], self.handle))

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        checked(cudart.cudaStreamSynchronize(self.handle))

    def between_ms(self, first: int, second: int) -> float:
        """From one mark to another, after `wait`."""
        return float(
            checked(cudart.cudaEventElapsedTime(self._events[first], self._events[second]))
        )

    def begin_capture(self) -> None:
        """From here on, what is given to the stream is noted and not done."""
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        checked(cudart.cudaStreamBeginCapture(self.handle, mode))

    def end_capture(self) -> Any:  # noqa: ANN401
        """What was noted, as a graph that `launch` takes."""
        graph = checked(cudart.cudaStreamEndCapture(self.handle))
        try:
            return checked(cudart.cudaGraphInstantiate(graph, 0))
        finally:
            cudart.cudaGraphDestroy(graph)

    def abort_capture(self) -> None:
        """Forget what was noted, where noting it failed."""
        # What it gives then is an error, or a graph that lacks something.
        _, graph = cudart.cudaStreamEndCapture(self.handle)
        if graph is not None:
            cudart.cudaGraphDestroy(graph)

    def launch(self, graph: Any) -> None:  # noqa: ANN401
        """Do what was noted."""
        checked(cudart.cudaGraphLaunch(graph, self.handle))

    def close(self) -> None:
        """Give it back; again is harmless."""
        for event in self._events:
            cudart.cudaEventDestroy(event)
        self._events = []
        if self.handle is not None:
            cudart.cudaStreamDestroy(self.handle)
            self.handle = None


def drop_graph(graph: Any) -> None:  # noqa: ANN401
    """Give back what `end_capture` gave."""
    cudart.cudaGraphExecDestroy(graph)
