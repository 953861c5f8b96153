"""A TensorRT engine at work: buffers once, pinned memory, one stream, and a CUDA graph.

The chain is one engine, so the mask never leaves the GPU on its way to the depth network. `trt` is
handed in, as in `depthmask.export.tensorrt_builder`.
"""

from __future__ import annotations

import math
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from depthmask.engine import PRODUCTS, EngineHeader
from depthmask.errors import UnavailableError, UsageError
from depthmask.runtimes import StagedOutputs, Tensors
from depthmask.runtimes.cuda import Buffer, Stream, drop_graph
from depthmask.runtimes.kernel_cache import KernelCache
from depthmask.tensorrt_module import collecting_log, one_line

Shapes = tuple[tuple[int, ...], ...]


class EngineSession:
    """An engine with its memory; calls from several threads wait for each other."""

    device = "cuda"

    def __init__(
        self,
        trt: Any,  # noqa: ANN401
        plan: bytes,
        header: EngineHeader,
        model: Path | None = None,
        *,
        kernels: Path | None = None,
        use_cuda_graph: bool = True,
    ) -> None:
        """Take the GPU's memory for the largest shapes.

        Args:
            trt: `tensorrt` or `tensorrt_rtx`.
            plan: the engine's bytes.
            header: what they are.
            model: the ONNX, which a stripped engine has its weights from.
            kernels: TensorRT-RTX only: where to keep what it compiles for the first run.
            use_cuda_graph: hand the GPU a whole run at once, from a shape's second run on.

        Raises:
            UnavailableError: TensorRT refuses the engine, or the memory is not there.
            OutputError: `kernels` cannot be written.
        """
        self.name: str = header.flavour
        self._product = PRODUCTS[header.flavour]
        self._header = header
        self._lock = threading.Lock()
        self._use_cuda_graph = use_cuda_graph
        self._graph: Any = None
        self._shapes: Shapes | None = None
        self._buffers: dict[str, Buffer] = {}
        self._stream: Stream | None = None
        # The objects below need those above them for as long as they live.
        self._logger = collecting_log(trt)
        self._runtime = trt.Runtime(self._logger)
        if header.version_compatible:
            self._runtime.engine_host_code_allowed = True
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise self._refusal("refuses")
        if header.stripped:
            self._refit(trt, model)
        self._kernels: KernelCache | None = None
        if kernels is None:
            self._context = self._engine.create_execution_context()
        else:
            config = self._engine.create_runtime_config()
            self._kernels = KernelCache(config, kernels)
            self._context = self._engine.create_execution_context(config)
        if self._context is None:
            raise self._refusal("has no memory on this GPU for")
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        self._dtypes = {
            name: np.dtype(trt.nptype(self._engine.get_tensor_dtype(name))) for name in names
        }
        self._inputs = [
            name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        ]
        self._outputs = [name for name in names if name not in self._inputs]
        try:
            self._stream = Stream()
            self._allocate()
            self.run(self._best_inputs())  # so that the first frame is not the slow one
            self._save_kernels()  # now too: not every program closes what it opened
        except BaseException:
            self.close()
            raise

    def run(self, inputs: Tensors) -> Tensors:
        """Execute the engine once."""
        return self.run_staged(inputs).outputs

    def run_staged(self, inputs: Tensors) -> StagedOutputs:
        """Execute the engine once, and time the parts by the GPU's own clock.

        Raises:
            UsageError: an input is larger than the engine takes.
            UnavailableError: the GPU fails.
        """
        with self._lock:
            stream = self._stream
            if stream is None:
                raise ValueError("this runtime is closed")
            again = self._set_inputs(inputs)
            stream.mark(0)
            for name in self._inputs:
                self._buffers[name].to_device(inputs[name].nbytes, stream.handle)
            stream.mark(1)
            started = time.perf_counter()
            self._infer(stream, again=again)
            enqueue_ms = 1000 * (time.perf_counter() - started)
            stream.mark(2)
            outputs = {name: tuple(self._context.get_tensor_shape(name)) for name in self._outputs}
            for name, shape in outputs.items():
                self._buffers[name].to_host(self._size(name, shape), stream.handle)
            stream.mark(3)
            stream.wait()
            return StagedOutputs(
                {
                    name: self._buffers[name].array(shape, self._dtypes[name]).copy()
                    for name, shape in outputs.items()
                },
                copy_to_device_ms=stream.between_ms(0, 1),
                inference_ms=stream.between_ms(1, 2),
                copy_back_ms=stream.between_ms(2, 3),
                enqueue_ms=enqueue_ms,
            )

    def close(self) -> None:
        """Give back the GPU's memory; again is harmless."""
        with self._lock:
            stream, self._stream = self._stream, None
            try:
                if stream is not None:
                    with suppress(UnavailableError):  # the run that broke the GPU has said so
                        stream.wait()
                    self._save_kernels()
            finally:
                self._drop_graph()
                self._context = self._kernels = self._engine = self._runtime = None
                for buffer in self._buffers.values():
                    buffer.free()
                self._buffers.clear()
                if stream is not None:
                    stream.close()

    def _refit(self, trt: Any, model: Path | None) -> None:  # noqa: ANN401
        """Give a stripped engine the weights that it was built with."""
        refitter = trt.Refitter(self._engine, self._logger)
        parser = trt.OnnxParserRefitter(refitter, self._logger)
        if not parser.refit_from_file(str(model)) or not refitter.refit_cuda_engine():
            raise self._refusal(f"cannot give the weights of {self._header.graph} to")

    def _save_kernels(self) -> None:
        if self._kernels is not None:
            self._kernels.save()

    def _set_inputs(self, inputs: Tensors) -> bool:
        """Into the buffers; gives whether the shapes are those of the last run."""
        for name in self._inputs:
            value, allowed = inputs[name], self._header.inputs[name]
            if not allowed.holds(value.shape):
                raise UsageError(
                    f"the {name} must be {allowed.smallest} to {allowed.largest} for"
                    f" {self._header.file}, but got {value.shape}. Try `dmx export --largest HxW` or"
                    " --largest-batch N"
                )
            if value.dtype != self._dtypes[name]:
                raise UsageError(f"the {name} must be {self._dtypes[name]}, but got {value.dtype}")
        shapes = tuple(inputs[name].shape for name in self._inputs)
        again = shapes == self._shapes
        if not again:
            self._drop_graph()
            self._shapes = None
            for name, shape in zip(self._inputs, shapes, strict=True):
                self._set_shape(name, shape)
            self._shapes = shapes
        for name in self._inputs:
            value = inputs[name]
            self._buffers[name].array(value.shape, value.dtype)[...] = value
        return again

    def _infer(self, stream: Stream, *, again: bool) -> None:
        """Plainly at first, which lets TensorRT prepare itself; by a CUDA graph when a shape comes again."""
        if self._graph is None and again and self._may_capture(stream):
            stream.begin_capture()
            try:
                self._enqueue(stream)
            except BaseException:
                stream.abort_capture()
                raise
            self._graph = stream.end_capture()
        if self._graph is not None:
            stream.launch(self._graph)
        else:
            self._enqueue(stream)

    def _may_capture(self, stream: Stream) -> bool:
        """TensorRT-RTX compiles kernels when it first runs, and cannot be captured while it does."""
        if not self._use_cuda_graph:
            return False
        if self._header.flavour == "tensorrt-rtx":
            return bool(self._context.is_stream_capturable(int(stream.handle)))
        return True

    def _enqueue(self, stream: Stream) -> None:
        if not self._context.execute_async_v3(int(stream.handle)):
            raise self._refusal("failed to run")

    def _set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        if not self._context.set_input_shape(name, shape):
            raise self._refusal(f"does not take a {name} of {shape} for")

    def _refusal(self, what: str) -> UnavailableError:
        """With the last reason that TensorRT gave."""
        errors = self._logger.errors
        reason = f": {one_line(errors[-1])}" if errors else ""
        return UnavailableError(f"{self._product} {what} {self._header.file}{reason}")

    def _drop_graph(self) -> None:
        if self._graph is not None:
            drop_graph(self._graph)
            self._graph = None

    def _allocate(self) -> None:
        """For the largest inputs; what the outputs are then, the context says."""
        for name in self._inputs:
            largest = self._header.inputs[name].largest
            self._buffers[name] = Buffer(self._size(name, largest))
            self._set_shape(name, largest)
        for name in self._outputs:
            shape = tuple(self._context.get_tensor_shape(name))
            self._buffers[name] = Buffer(self._size(name, shape))
        for name, buffer in self._buffers.items():
            if not self._context.set_tensor_address(name, buffer.device):
                raise self._refusal(f"cannot use memory for the {name} of")

    def _best_inputs(self) -> Tensors:
        return {
            name: np.zeros(self._header.inputs[name].best, self._dtypes[name])
            for name in self._inputs
        }

    def _size(self, name: str, shape: tuple[int, ...]) -> int:
        return math.prod(shape) * int(self._dtypes[name].itemsize)
