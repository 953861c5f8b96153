from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from depthmask.bundle import STAGE_KEY
from depthmask.errors import InputError
from depthmask.export import calibration
from depthmask.export.calibration import calibrate
from depthmask.export.onnx_files import to_bytes
from depthmask.export.quantise import Range, input_tensors, quantise, site_macs, sites


def graph_of(text: str, weights: dict[str, np.ndarray], stages: dict[str, str]) -> ir.Model:
    model = ir.from_onnx_text(text)
    for value in [value for value in model.graph.inputs if value.name in weights]:
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(weights[value.name], name=value.name)
        model.graph.register_initializer(value)
    for node in model.graph:
        node.name = f"{node.outputs[0].name}/{node.op_type}"
        node.metadata_props[STAGE_KEY] = stages.get(node.outputs[0].name, "chain")
    return model


@pytest.fixture
def two_stages() -> ir.Model:
    """A convolution per stage, and the product between them."""
    rng = np.random.default_rng(0)
    weights = {
        # Channels of very different magnitude: one scale for all would round the first one to nothing.
        "v": (rng.standard_normal((3, 3, 3, 3)) * np.array([1e-3, 1, 50]).reshape(3, 1, 1, 1)),
        "w": rng.standard_normal((2, 3, 1, 1)),
        "b": rng.standard_normal(2),
    }
    return graph_of(
        """<ir_version: 10, opset_import: ["" : 18]>
        chain (float[1,3,8,8] image, float[3,3,3,3] v, float[2,3,1,1] w, float[2] b)
            => (float[1,3,8,8] mask, float[1,2,8,8] depth) <float[1,3,8,8] hidden> {
            hidden = Conv<pads = [1,1,1,1]>(image, v)
            mask = Relu(hidden)
            masked = Mul(mask, image)
            depth = Conv(masked, w, b)
        }""",
        {name: array.astype(np.float32) for name, array in weights.items()},
        {"hidden": "mask", "mask": "mask", "depth": "depth"},
    )


def run(model: ir.Model, image: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(to_bytes(model), providers=["CPUExecutionProvider"])
    return session.run(["mask", "depth"], {"image": image})


def images(count: int = 5, seed: int = 1) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"image": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


def round_int8(values: np.ndarray, largest: float) -> np.ndarray:
    scale = np.float32(largest / 127)
    return np.clip(np.round(values / scale), -128, 127) * scale


def test_sites_are_the_networks_convolutions(two_stages):
    assert sites(two_stages) == ("hidden/Conv", "depth/Conv")
    assert sites(two_stages, "depth") == ("depth/Conv",)
    assert input_tensors(two_stages, "depth") == ("masked",)
    assert site_macs(two_stages) == {"hidden/Conv": 3 * 27 * 64, "depth/Conv": 6 * 64}


def test_activations_are_rounded_with_one_scale_and_weights_per_channel(two_stages):
    (batch,) = images(1)
    weight = two_stages.graph.initializers["v"].const_value.numpy()
    rounded = quantise(two_stages, {"image": Range(-2.0, 2.0)}, keep_fp32=frozenset(["depth/Conv"]))
    expected = two_stages.clone()
    expected.graph.initializers["v"].const_value = ir.tensor(
        np.stack([round_int8(channel, np.abs(channel).max()) for channel in weight]).astype(
            np.float32
        )
    )
    image = round_int8(batch["image"], 2.0).astype(np.float32)
    mask, _ = run(rounded, batch["image"])
    np.testing.assert_allclose(mask, run(expected, image)[0], rtol=1e-4, atol=1e-5)


def test_what_is_stored_is_int8_without_zero_points_and_the_bias_is_float(two_stages):
    rounded = quantise(two_stages, {"image": Range(-2.0, 1.0), "masked": Range(0.0, 3.0)})
    stored = {name: v.const_value.numpy() for name, v in rounded.graph.initializers.items()}
    assert "v" not in stored
    assert stored["b"].dtype == np.float32
    zeros = [array for name, array in stored.items() if name.endswith("/zero")]
    assert len(zeros) == 4
    assert all(array.dtype == np.int8 and not array.any() for array in zeros)
    assert stored["v/scale"].shape == (3,)


def test_kept_sites_stay_as_they_are(two_stages):
    kept = quantise(two_stages, {}, keep_fp32=frozenset(sites(two_stages)))
    (batch,) = images(1)
    assert [n.op_type for n in kept.graph] == [n.op_type for n in two_stages.graph]
    for found, expected in zip(
        run(kept, batch["image"]), run(two_stages, batch["image"]), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_the_depth_network_is_calibrated_behind_the_int8_mask_network(two_stages):
    batches = images()
    ranges = calibrate(two_stages, batches, "minmax")
    deployed = quantise(two_stages, ranges, keep_fp32=frozenset(["depth/Conv"]))
    expected = max(
        np.abs(run(deployed, batch["image"])[0] * batch["image"]).max() for batch in batches
    )
    assert ranges["masked"].magnitude == pytest.approx(expected)
    assert ranges["image"].magnitude == pytest.approx(
        max(np.abs(b["image"]).max() for b in batches)
    )


def test_percentile_and_entropy_cut_off_what_is_rare(two_stages):
    batches = images(60)
    batches[0]["image"][0, 0, 0, 0] = 1000
    for calibrator in ("percentile", "entropy"):
        assert calibrate(two_stages, batches, calibrator)["image"].magnitude < 100
    assert calibrate(two_stages, batches, "minmax")["image"].magnitude == 1000


def test_memory_is_bounded_by_running_the_network_in_groups(two_stages, monkeypatch):
    whole = calibrate(two_stages, images(), "percentile")
    monkeypatch.setattr(calibration, "_HELD_BYTES", 1)
    assert calibrate(two_stages, images(), "percentile") == whole


def test_too_few_images_and_values_that_are_not_finite_are_refused(two_stages):
    with pytest.raises(InputError, match="4 images or more, but got 3"):
        calibrate(two_stages, images(3))
    batches = images()
    batches[2]["image"][:] = np.nan
    with pytest.raises(InputError, match="image holds NaN"):
        calibrate(two_stages, batches)
