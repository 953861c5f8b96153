from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tiny_networks
import torch

from depthmask import Pipeline, runtimes
from depthmask.chain import MaskDepthChain
from depthmask.devices import cuda_problem
from depthmask.errors import CheckFailedError, UnavailableError, UsageError
from depthmask.export import export_chain
from depthmask.frames import Resolution, to_frame
from depthmask.models.frame_chain import FrameChain

RUNTIMES = ("onnxruntime", "openvino")


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("resolution", [None, Resolution(32, 32)])
def test_a_pipeline_gives_what_pytorch_gives(
    tiny_chain, tiny_bundle_path, frame_HW3, runtime, resolution
):
    with Pipeline.open(tiny_bundle_path, runtime, resolution=resolution) as pipeline:
        prediction = pipeline(frame_HW3)
        assert (pipeline.runtime.name, pipeline.runtime.device) == (runtime, "cpu")
    with torch.inference_mode():
        chain = FrameChain(tiny_chain, pipeline.resolution)
        mask, depth = chain(torch.from_numpy(frame_HW3)[None])
    assert pipeline.resolution == (resolution or Resolution(48, 64))
    height, width = frame_HW3.shape[:2]
    expected_mask_HW = to_frame(mask[0, 0].numpy(), height, width)
    np.testing.assert_allclose(prediction.mask_HW, expected_mask_HW, atol=1e-4)
    expected_depth_HW = to_frame(depth[0, 0].numpy(), height, width)
    np.testing.assert_allclose(prediction.depth_HW, expected_depth_HW, atol=1e-4)
    assert set(prediction.timings_ms) == {"preprocess", "inference", "postprocess"}


def test_a_batch_gives_what_single_frames_give(tiny_chain, tmp_path, frame_HW3):
    export_chain(tiny_chain, tmp_path / "b", resolution=Resolution(32, 32), dynamic_batch=True)
    frames = [frame_HW3, frame_HW3[::-1], frame_HW3[:, ::-1]]
    with Pipeline.open(tmp_path / "b") as pipeline:
        for single, together in zip(map(pipeline, frames), pipeline.run_batch(frames), strict=True):
            np.testing.assert_allclose(together.depth_HW, single.depth_HW, atol=1e-5)
        other = np.ascontiguousarray(frame_HW3[:20])
        assert [p.mask_HW.shape for p in pipeline.run_batch([frame_HW3, other])] == [
            (60, 80),
            (20, 80),
        ]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_image_input_takes_the_same_frames(tiny_chain, trace, tmp_path, frame_HW3, runtime):
    resolution = Resolution(32, 32)
    for kind in ("image", "frame"):
        export_chain(tiny_chain, tmp_path / kind, resolution=resolution, input=kind, trace=trace)
    with (
        Pipeline.open(tmp_path / "image", runtime) as image,
        Pipeline.open(tmp_path / "frame", runtime) as frame,
    ):
        a, b = image(frame_HW3), frame(frame_HW3)
    np.testing.assert_allclose(a.mask_HW, b.mask_HW, atol=1e-4)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ],
    ids=["grey", "rgba", "float", "empty"],
)
def test_a_frame_of_another_kind_is_refused(tiny_bundle_path, bad):
    with (
        Pipeline.open(tiny_bundle_path) as pipeline,
        pytest.raises(UsageError, match=r"a frame must be \(H,W,3\) uint8 RGB"),
    ):
        pipeline(bad)


def test_read_only_and_non_contiguous_frames(tiny_bundle_path, frame_HW3):
    flipped = frame_HW3[::-1, ::2]
    flipped.setflags(write=False)
    with Pipeline.open(tiny_bundle_path) as pipeline:
        expected = pipeline(np.ascontiguousarray(flipped))
        np.testing.assert_array_equal(pipeline(flipped).mask_HW, expected.mask_HW)


def test_use_after_close_says_so(tiny_bundle_path, frame_HW3):
    pipeline = Pipeline.open(tiny_bundle_path)
    pipeline.close()
    pipeline.close()
    with pytest.raises(UsageError, match="closed"):
        pipeline(frame_HW3)


def test_nan_never_reaches_the_caller(tmp_path, frame_HW3):
    class Exploding(torch.nn.Module):
        def forward(self, image_B3HW):
            # Finite on the masked black reference, not on bright frames.
            return torch.exp(image_B3HW.sum(1, keepdim=True) * 1000)

    chain = MaskDepthChain(tiny_networks.TinyMask(), Exploding()).eval()
    with pytest.raises(Exception, match="finite"):
        export_chain(chain, tmp_path / "b", resolution=Resolution(32, 32))

    class NaNRuntime:
        name, device = "nan", "cpu"

        def run(self, inputs):
            return {name: np.full((1, 1, 4, 4), np.nan, np.float32) for name in ("mask", "depth")}

        def close(self):
            pass

    from depthmask.bundle import open_bundle

    bundle = open_bundle()
    pipeline = Pipeline(bundle, NaNRuntime(), bundle.graph().resolution)
    with pytest.raises(CheckFailedError, match="NaN or infinity"):
        pipeline(frame_HW3)


def test_runtimes_say_what_is_missing(monkeypatch, tiny_bundle_path):
    monkeypatch.setattr(runtimes, "is_installed", lambda name: False)
    with pytest.raises(UnavailableError, match=r"depthmask\[cpu\]"):
        Pipeline.open(tiny_bundle_path)
    with pytest.raises(UnavailableError, match=r"needs the package openvino"):
        Pipeline.open(tiny_bundle_path, "openvino")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "torch"])
def test_cuda_is_never_replaced_by_the_cpu(runtime):
    if cuda_problem() is None:
        pytest.skip("there is a GPU here")
    with pytest.raises(UnavailableError, match="--device cuda was asked for"):
        Pipeline.open(runtime=runtime, device="cuda")


def test_both_onnxruntime_wheels_at_once(monkeypatch, tiny_bundle_path):
    import importlib.metadata

    real = importlib.metadata.distribution
    monkeypatch.setattr(
        importlib.metadata,
        "distribution",
        lambda name: object() if name.startswith("onnxruntime") else real(name),
    )
    with pytest.raises(UnavailableError, match="both are"):
        Pipeline.open(tiny_bundle_path, "onnxruntime")


INTERRUPTED_AFTER_OPENVINO = """
import signal, sys
from depthmask import Pipeline

first, second = (Pipeline.open(sys.argv[1], "openvino") for _ in range(2))
first.close()
del first
second.close()
del second
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupt_after_openvino_was_closed_is_an_interrupt(tiny_bundle_path):
    command = [sys.executable, "-c", INTERRUPTED_AFTER_OPENVINO, str(tiny_bundle_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
