"""Numbers are never silently wrong: finite results or a clear error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fuzz_targets import make_bundle
from hostile import edit_graph
from torch import nn

from depthmask import Pipeline
from depthmask.chain import MaskDepthChain
from depthmask.errors import CheckFailedError, DepthmaskError, InputError, UsageError
from depthmask.export import export_chain
from depthmask.frames import Resolution

SIZE = Resolution(32, 32)


class OneWeight(nn.Module):
    """image -> a multiple of its mean over the channels."""

    def __init__(self, weight=1.0, squash=False):
        super().__init__()
        self.weight = nn.Parameter(torch.full((1, 3, 1, 1), float(weight)))
        self.squash = squash

    def forward(self, image_B3HW):
        values = nn.functional.conv2d(image_B3HW, self.weight)
        return torch.sigmoid(values) if self.squash else values


def chain_of(mask=0.1, depth=1.0):
    return MaskDepthChain(OneWeight(mask, squash=True), OneWeight(depth)).eval()


@pytest.mark.parametrize("weight", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("role", ["mask", "depth"])
def test_weights_that_are_not_finite_are_not_exported(tmp_path, weight, role):
    with pytest.raises(InputError, match="finite"):
        export_chain(chain_of(**{role: weight}), tmp_path / "b", resolution=SIZE)
    assert list(tmp_path.iterdir()) == []


def test_a_chain_that_overflows_in_fp32_is_not_exported(tmp_path):
    with pytest.raises(DepthmaskError, match="finite"):
        export_chain(chain_of(depth=3e38), tmp_path / "b", resolution=SIZE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "weight",
    [pytest.param(1e5, id="overflow"), pytest.param(1e-6, id="denormal")],
)
def test_what_fp16_cannot_hold_stays_fp32_or_is_refused(tmp_path, weight, frame_HW3):
    """Never infinities, and never zeros where there were values."""
    chain = chain_of(depth=weight)
    try:
        export_chain(chain, tmp_path / "b", resolution=SIZE, precision="fp16")
    except CheckFailedError:
        return
    with Pipeline.open(tmp_path / "b") as pipeline:
        found_HW = pipeline(frame_HW3).depth_HW
    export_chain(chain, tmp_path / "c", resolution=SIZE)
    with Pipeline.open(tmp_path / "c") as pipeline:
        right_HW = pipeline(frame_HW3).depth_HW
    assert np.isfinite(found_HW).all()
    assert np.abs(found_HW - right_HW).max() <= 0.02 * np.abs(right_HW).max()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("level", [0.0, -1e30, 1e30, 1e-42, -1e-42])
def test_masks_of_zeros_and_ones_and_denormals_give_finite_depths(
    tmp_path, frame_HW3, runtime, level
):
    bundle = make_bundle(tmp_path)

    def weigh(model):
        for tensor in model.graph.initializer:
            if tensor.name == "w2":
                tensor.raw_data = np.full(4, level, np.float32).tobytes()

    edit_graph(bundle, weigh)
    with Pipeline.open(bundle, runtime) as pipeline:
        found = pipeline(frame_HW3)
    assert np.isfinite(found.depth_HW).all()
    assert 0 <= found.mask_HW.min() <= found.mask_HW.max() <= 1
    if level == -1e30:
        assert found.mask_HW.min() == 0


@pytest.fixture(scope="module")
def pipelines(tiny_bundle_path):
    opened = [Pipeline.open(tiny_bundle_path, runtime) for runtime in ("onnxruntime", "openvino")]
    yield opened
    for pipeline in opened:
        pipeline.close()


@pytest.mark.parametrize(
    "shape", [(1, 1, 3), (1, 4000, 3), (4000, 1, 3), (2, 3, 3), (2200, 3900, 3), (31, 33, 3)]
)
def test_frames_of_any_size_give_maps_of_their_size(pipelines, shape):
    frame_HW3 = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for pipeline in pipelines:
        found = pipeline(frame_HW3)
        assert found.mask_HW.shape == found.depth_HW.shape == shape[:2]
        assert found.mask_HW.dtype == found.depth_HW.dtype == np.float32
        assert np.isfinite(found.depth_HW).all()
        assert 0 <= found.mask_HW.min() <= found.mask_HW.max() <= 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda frame: frame[::-1, ::-1],
        lambda frame: frame[::2, 1::3],
        lambda frame: np.asfortranarray(frame),
        lambda frame: frame.transpose(1, 0, 2),
        lambda frame: np.frombuffer(frame.tobytes(), np.uint8).reshape(frame.shape),
        lambda frame: frame[:, :, ::-1],
        lambda frame: np.broadcast_to(frame[:1, :1], frame.shape),
    ],
    ids=["mirrored", "strided", "fortran", "transposed", "read-only", "bgr view", "broadcast"],
)
def test_views_and_read_only_frames_are_as_good_as_copies(pipelines, frame_HW3, spoil):
    given = spoil(frame_HW3)
    before = given.copy()
    for pipeline in pipelines:
        found, right = pipeline(given), pipeline(np.ascontiguousarray(given))
        np.testing.assert_array_equal(found.mask_HW, right.mask_HW)
        np.testing.assert_array_equal(found.depth_HW, right.depth_HW)
    np.testing.assert_array_equal(given, before)


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 1), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((1, 8, 8, 3), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8, 0, 3), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.int8),
        np.zeros((8, 8, 3), np.uint16),
        np.zeros((8, 8, 3), bool),
        np.zeros((8, 8, 3), object),
        "photo.jpg",
        None,
        [[1, 2, 3]],
    ],
    ids=lambda frame: str(getattr(frame, "shape", frame)) + str(getattr(frame, "dtype", "")),
)
def test_other_shapes_and_types_are_refused(pipelines, frame):
    for pipeline in pipelines:
        with pytest.raises(UsageError, match=r"must be \(H,W,3\) uint8 RGB"):
            pipeline(frame)
        with pytest.raises(UsageError, match=r"must be \(H,W,3\) uint8 RGB"):
            pipeline.run_batch([frame])


def test_an_empty_batch_is_empty(pipelines):
    assert all(pipeline.run_batch([]) == [] for pipeline in pipelines)


class Lying:
    """A runtime that gives something else than maps."""

    name, device = "lying", "cpu"

    def __init__(self, outputs):
        self._outputs = outputs

    def run(self, inputs):
        return self._outputs

    def close(self):
        pass


GOOD = np.zeros((1, 1, 32, 32), np.float32)


@pytest.mark.parametrize(
    "outputs",
    [
        {},
        {"mask": GOOD},
        {"mask": GOOD, "depth": GOOD[0]},
        {"mask": GOOD, "depth": GOOD.astype(np.int64)},
        {"mask": GOOD.astype(str), "depth": GOOD},
        {"mask": GOOD[:, :, :0], "depth": GOOD},
        {"mask": GOOD.repeat(2, 0), "depth": GOOD},
        {"mask": GOOD.repeat(3, 1), "depth": GOOD},
    ],
    ids=["none", "one", "three dimensions", "integers", "text", "empty", "two", "three channels"],
)
def test_what_is_no_map_is_refused(tiny_bundle_path, frame_HW3, outputs):
    from depthmask.bundle import open_bundle

    pipeline = Pipeline(open_bundle(tiny_bundle_path), Lying(outputs), SIZE)
    with pytest.raises(InputError, match="a graph must give"):
        pipeline(frame_HW3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_is_an_error(tiny_bundle_path, frame_HW3, value):
    from depthmask.bundle import open_bundle

    depth = GOOD.copy()
    depth[0, 0, 5, 7] = value
    pipeline = Pipeline(open_bundle(tiny_bundle_path), Lying({"mask": GOOD, "depth": depth}), SIZE)
    with pytest.raises(CheckFailedError, match="depth must be finite"):
        pipeline(frame_HW3)
