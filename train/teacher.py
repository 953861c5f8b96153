"""Teachers: any ONNX network of depth or saliency, run by ONNX Runtime to label images.

Shapes: image_HW3 uint8 RGB of any size; maps are (H,W) float32 at the image's size.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import numpy.typing as npt

from depthmask.errors import InputError, UsageError
from depthmask.frames import FloatArray, Resolution, UInt8Array
from depthmask.train.teacher_options import Layout, TeacherOptions, with_imagenet

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
_LOG_NOTHING = 4
# A network whose last layer is a ReLU gives a few zeros: those pixels have no depth. More of them,
# and its output is no depth.
_LARGEST_MISSING_SHARE = 0.1


@dataclass(frozen=True)
class DepthTeacher:
    """A depth network; what it says is relative unless its model promises metres.

    It can be pickled: a worker process opens the model again.
    """

    network: Network

    @classmethod
    def open(cls, path: Path, options: TeacherOptions | None = None, *, threads: int = 1) -> Self:
        """Open a model; RGB in 0..1 as it is and 224 pixels, where neither graph nor options say.

        Raises:
            UnavailableError: ONNX Runtime is not installed.
            UsageError: an option contradicts the graph.
            InputError: the file is missing or broken, or is no network from one RGB image.

        """
        return cls(Network(path, options or TeacherOptions(), _DEPTH, threads))

    def __call__(self, image_HW3: UInt8Array) -> FloatArray:
        """Depth (H,W), growing with distance; NaN where the network gave nothing positive.

        Raises:
            InputError: the output is not finite, or not positive in most places.

        """
        raw_hw = self.network.run(image_HW3)
        positive_hw = raw_hw > 0
        if positive_hw.mean() < 1 - _LARGEST_MISSING_SHARE:
            raise InputError(
                f"the depths of {self.network.path} must be positive, but"
                f" {1 - positive_hw.mean():.0%} are not ({raw_hw.min():.3g} to {raw_hw.max():.3g})."
                " Try another output="
            )
        depth_hw = np.where(positive_hw, raw_hw, np.float32(np.nan))
        if self.network.options.inverse:
            depth_hw = 1 / depth_hw
        return _resize_map(depth_hw, image_HW3.shape[:2])

    @property
    def digest(self) -> str:
        """Of the model file and the options: equal digests give equal labels."""
        return self.network.digest


@dataclass(frozen=True)
class MaskTeacher:
    """A saliency or segmentation network with one map as its output.

    It can be pickled: a worker process opens the model again.
    """

    network: Network

    @classmethod
    def open(cls, path: Path, options: TeacherOptions | None = None, *, threads: int = 1) -> Self:
        """Open a model; ImageNet's mean and std and 320 pixels, where neither graph nor options say.

        Raises as `DepthTeacher.open`.
        """
        return cls(Network(path, options or TeacherOptions(), _MASK, threads))

    def __call__(self, image_HW3: UInt8Array) -> FloatArray:
        """Soft mask (H,W) in [0, 1].

        Raises:
            InputError: the output is not finite, or not within 0 and 1.

        """
        mask_hw = self.network.run(image_HW3)
        if self.network.options.sigmoid:
            mask_hw = 1 / (1 + np.exp(-mask_hw.clip(-80, 80)))
        if mask_hw.min() < -1e-3 or mask_hw.max() > 1 + 1e-3:
            raise InputError(
                f"the masks of {self.network.path} must be within 0 and 1, but go from"
                f" {mask_hw.min():.3g} to {mask_hw.max():.3g}. Try the option sigmoid, or another"
                " output="
            )
        return _resize_map(mask_hw.clip(0, 1), image_HW3.shape[:2])

    @property
    def digest(self) -> str:
        """Of the model file and the options: equal digests give equal labels."""
        return self.network.digest


@dataclass(frozen=True)
class Teachers:
    """The networks that label a recipe's samples."""

    depth: DepthTeacher | None = None
    mask: MaskTeacher | None = None

    @property
    def digest(self) -> str:
        """Of both: equal digests give equal labels."""
        both = (self.depth.digest if self.depth else "-", self.mask.digest if self.mask else "-")
        return hashlib.sha256(" ".join(both).encode()).hexdigest()


@dataclass(frozen=True)
class _Kind:
    """What a teacher of depth or of masks takes where neither graph nor options say."""

    default_size: Resolution
    imagenet: bool
    foreign_option: str
    """A flag of the other kind, which is refused: `FLAG is an option REFUSAL`."""
    refusal: str


_DEPTH = _Kind(
    Resolution(224, 224),
    imagenet=False,
    foreign_option="sigmoid",
    refusal="of a mask teacher, but this one gives depth",
)
_MASK = _Kind(
    Resolution(320, 320),
    imagenet=True,
    foreign_option="inverse",
    refusal="of a depth teacher, but this one gives masks",
)


class Network:
    """One map from one image; the session belongs to a process and is opened again in another."""

    def __init__(self, path: Path, options: TeacherOptions, kind: _Kind, threads: int) -> None:
        if getattr(options, kind.foreign_option):
            raise UsageError(f"{kind.foreign_option} is an option {kind.refusal}")
        self.path = path.absolute()
        self.options = options
        self._kind = kind
        self._threads = threads
        self.digest = _digest(self.path, options, kind)
        self._open()

    def run(self, image_HW3: UInt8Array) -> FloatArray:
        """The output (h,w) at the network's own size.

        Raises:
            InputError: the network fails, or gives something else than one finite map.

        """
        if self._process != os.getpid():  # after a fork the session's threads are not there
            self._open()
        tensor = self._plan.tensor(image_HW3)
        try:
            (value,) = self._session.run([self._plan.output], {self._plan.input: tensor})
        except Exception as error:  # ONNX Runtime's errors have no common base of their own
            raise InputError(f"{self.path} cannot be run: {_line(error)}") from error
        output = np.asarray(value)
        map_hw = output.reshape([size for size in output.shape if size != 1])
        if map_hw.ndim != 2 or not np.issubdtype(map_hw.dtype, np.floating):
            raise InputError(
                f"the output {self._plan.output!r} of {self.path} must be one map of floats, but is"
                f" {map_hw.dtype} {list(output.shape)}. Try output=NAME"
            )
        if not np.isfinite(map_hw).all():
            raise InputError(
                f"the output {self._plan.output!r} of {self.path} must be finite, but is not"
            )
        return np.ascontiguousarray(map_hw, np.float32)

    def __reduce__(self) -> tuple[Any, ...]:
        return Network, (self.path, self.options, self._kind, self._threads)

    def __repr__(self) -> str:
        return f"Network({self.path.name!r}, {self.digest[:12]})"

    def _open(self) -> None:
        self._session = _open_session(self.path, self._threads)
        options = with_imagenet(self.options) if self._kind.imagenet else self.options
        self._plan = _plan(self._session, self.path, options, self._kind.default_size)
        if self._plan.dtype == np.uint8 and self.options.scales:
            raise UsageError(
                f"the input of {self.path} is bytes, but got range, mean or std. Try without them"
            )
        self._process = os.getpid()


@dataclass(frozen=True)
class _Plan:
    """How an image becomes the network's input."""

    input: str
    output: str
    layout: Layout
    size: Resolution
    dtype: Any
    options: TeacherOptions
    """Their range, mean and std are for floats: a network that takes bytes gets them as they are."""

    def tensor(self, image_HW3: UInt8Array) -> npt.NDArray[Any]:
        size = (self.size.width, self.size.height)
        shrinks = size[0] <= image_HW3.shape[1] and size[1] <= image_HW3.shape[0]
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        small_hw3 = np.asarray(cv2.resize(image_HW3, size, interpolation=method), np.float32)
        if self.dtype == np.uint8:
            return self._arranged(small_hw3.round())
        low, high = self.options.value_range
        values_hw3: npt.NDArray[Any] = small_hw3 * np.float32((high - low) / 255) + np.float32(low)
        if self.options.mean is not None:
            values_hw3 = values_hw3 - np.array(self.options.mean, np.float32)
        if self.options.std is not None:
            values_hw3 = values_hw3 / np.array(self.options.std, np.float32)
        return self._arranged(values_hw3)

    def _arranged(self, values_hw3: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if self.layout == "nchw":
            values_hw3 = values_hw3.transpose(2, 0, 1)
        return np.ascontiguousarray(values_hw3[None], self.dtype)


def _plan(session: Any, path: Path, options: TeacherOptions, default_size: Resolution) -> _Plan:  # noqa: ANN401
    inputs, outputs = session.get_inputs(), [output.name for output in session.get_outputs()]
    if len(inputs) != 1:
        names = ", ".join(repr(entry.name) for entry in inputs)
        raise InputError(
            f"{path} must have one input, an image, but has {len(inputs)}: {names or 'none'}"
        )
    (entry,) = inputs
    if options.input not in (None, entry.name):
        raise UsageError(
            f"the input of {path} is {entry.name!r}, but got input={options.input}. Try without it"
        )
    if options.output is not None and options.output not in outputs:
        raise UsageError(
            f"output must be one of {', '.join(outputs)} for {path}, but got {options.output!r}"
        )
    if entry.type not in _TYPES:
        raise InputError(f"the input of {path} must be {', '.join(_TYPES)}, but is {entry.type}")
    layout, height, width = _geometry(entry.shape, path, options.layout)
    asked = options.size or default_size
    size = Resolution(
        asked.height if height is None else height, asked.width if width is None else width
    )
    if options.size not in (None, size):
        raise UsageError(f"the input of {path} has the size {size}, but got size={options.size}")
    return _Plan(
        entry.name, options.output or outputs[0], layout, size, _TYPES[entry.type], options
    )


def _geometry(
    shape: list[int | str | None], path: Path, wanted: Layout | None
) -> tuple[Layout, int | None, int | None]:
    """Layout, height and width of an input; a side is None where the graph leaves it open."""
    sizes = [size if isinstance(size, int) else None for size in shape]
    if len(sizes) == 4 and sizes[0] in (None, 1):
        if wanted != "nhwc" and (sizes[1] == 3 or (sizes[1] is None and sizes[3] != 3)):
            return "nchw", sizes[2], sizes[3]
        if wanted != "nchw" and sizes[3] in (None, 3):
            return "nhwc", sizes[1], sizes[2]
    found = ", ".join("?" if size is None else str(size) for size in sizes)
    kinds = {"nchw": "[1,3,H,W]", "nhwc": "[1,H,W,3]"}
    must = kinds[wanted] if wanted else " or ".join(kinds.values())
    raise InputError(f"the input of {path} must be one RGB image, {must}, but is [{found}]")


def _open_session(path: Path, threads: int) -> Any:  # noqa: ANN401
    from depthmask import runtimes

    runtimes.require("onnxruntime")
    from depthmask.runtimes.onnxruntime_runtime import import_onnxruntime

    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = _LOG_NOTHING
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    try:
        return ort.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime's errors have no common base of their own
        raise InputError(f"{path} cannot be loaded by ONNX Runtime: {_line(error)}") from error


def _digest(path: Path, options: TeacherOptions, kind: _Kind) -> str:
    try:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            f"{path} must be an ONNX model, but: {error.strerror}. Try"
            " `dmx data fetch --networks`, or another file"
        ) from error
    label = f"{content} {options!r} {kind.default_size} {kind.imagenet}"
    return hashlib.sha256(label.encode()).hexdigest()


def _resize_map(map_hw: FloatArray, size: tuple[int, ...]) -> FloatArray:
    """Bilinear, to (height, width)."""
    if map_hw.shape == size:
        return map_hw
    resized = cv2.resize(map_hw, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, np.float32)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
