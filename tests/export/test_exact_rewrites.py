"""Proofs by test of the rewrites' theorems, on random graphs."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from depthmask.export import fold_norm, merge_convs, nearest_polyphase, plain_nearest
from depthmask.export.onnx_files import to_bytes
from depthmask.export.rewrite import RewriteOptions, rewrite

TOLERANCE = 2e-6
"""Of the range: rounding in another order."""


def model_of(nodes, weights, shape, outputs=("y",), opset=18):
    graph = helper.make_graph(
        nodes,
        "random",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    onnx.checker.check_model(proto)
    return ir.from_proto(proto)


def normal(random, *shape):
    return random.normal(0, 1, shape).astype(np.float32)


def run(model, shape, seed=0):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(to_bytes(model), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": normal(np.random.default_rng(seed), *shape)})


def assert_equal(before, after, shape):
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    for expected, found in zip(run(before, shape), run(after, shape), strict=True):
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= TOLERANCE * max(np.ptp(expected), 1e-3)


def ops(model):
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_affine_maps_fold_into_a_convolution(transposed, groups, biased, seed):
    random = np.random.default_rng(seed)
    c_in, c_out = 4, 6
    shape = (2, c_in, *(int(side) for side in random.integers(5, 9, 2)))
    weight = (c_in, c_out // groups, 3, 3) if transposed else (c_out, c_in // groups, 3, 3)
    weights = {
        "w": normal(random, *weight),
        "scale": normal(random, c_out),
        "shift": normal(random, c_out),
        "mean": normal(random, c_out),
        "var": random.uniform(0.1, 3, c_out).astype(np.float32),
        "per_channel": normal(random, c_out, 1, 1),
        "number": np.float32(random.uniform(0.5, 2)),
    }
    if biased:
        weights["b"] = normal(random, c_out)
    op = "ConvTranspose" if transposed else "Conv"
    nodes = [
        helper.make_node(
            op, ["x", "w", *(["b"] if biased else [])], ["c"], "conv/Conv",
            pads=[1, 0, 1, 2], strides=[2, 1], group=groups,
        ),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"], epsilon=1e-3),
        helper.make_node("Mul", ["per_channel", "n"], ["m"]),
        helper.make_node("Sub", ["number", "m"], ["s"]),
        helper.make_node("Div", ["s", "number"], ["d"]),
        helper.make_node("Add", ["d", "per_channel"], ["y"]),
    ]  # fmt: skip
    model = model_of(nodes, weights, shape)
    found, (record,) = rewrite(model, RewriteOptions(names="fold-norm"))
    assert ops(found) == [op]
    assert (record.site, record.form, record.gmac_after) == ("conv", "folded", record.gmac_before)
    assert_equal(model, found, shape)


def test_what_is_no_affine_map_of_channels_stays():
    random = np.random.default_rng(0)
    weights = {"w": normal(random, 4, 3, 1, 1), "per_column": normal(random, 4)}
    # A constant of (4,) goes along the columns, of which there are four as well.
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "a/Conv"),
        helper.make_node("Mul", ["c", "per_column"], ["y"]),
    ]
    assert not list(fold_norm.find(model_of(nodes, weights, (1, 3, 4, 4)).graph))
    # Somebody else reads the convolution's output, too.
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "a/Conv"),
        helper.make_node("Mul", ["c", "number"], ["y"]),
        helper.make_node("Relu", ["c"], ["z"]),
    ]
    weights["number"] = np.float32(2)
    model = model_of(nodes, weights, (1, 3, 4, 4), ("y", "z"))
    assert not list(fold_norm.find(model.graph))
    # The variance is negative: not a number, and that is the model's own result.
    affine = dict.fromkeys(("s", "t", "m"), np.ones(4, np.float32))
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "a/Conv"),
        helper.make_node("BatchNormalization", ["c", "s", "t", "m", "v"], ["y"]),
    ]
    weights = {"w": weights["w"], **affine, "v": -np.ones(4, np.float32)}
    assert not list(fold_norm.find(model_of(nodes, weights, (1, 3, 4, 4)).graph))


def test_what_hangs_on_constants_only_is_computed():
    random = np.random.default_rng(0)
    weights = {
        "w": normal(random, 4, 3, 1, 1),
        "raw": normal(random, 4),
        "shape": np.array([1, 4, 1, 1]),
    }
    nodes = [
        helper.make_node("Reshape", ["raw", "shape"], ["r"], "r/Reshape"),
        helper.make_node("Exp", ["r"], ["e"], "e/Exp"),
        helper.make_node("Conv", ["x", "w"], ["c"], "a/Conv"),
        helper.make_node("Mul", ["c", "e"], ["y"], "m/Mul"),
    ]
    model = model_of(nodes, weights, (1, 3, 5, 5))
    found, _ = rewrite(model, RewriteOptions(names="fold-norm"))
    assert ops(found) == ["Conv"]
    assert_equal(model, found, (1, 3, 5, 5))


def nearest_model(seed, scale, taps, groups, mode=("asymmetric", "floor"), dilation=1, uneven=0):
    """`uneven`: how far the padding lies off the middle."""
    random = np.random.default_rng(seed)
    c_in, c_out = 4, 8
    shape = (2, c_in, *(int(side) for side in random.integers(1, 7, 2)))
    reach = dilation * (taps - 1)
    before = reach // 2 + uneven
    weights = {
        "w": normal(random, c_out, c_in // groups, taps, taps),
        "b": normal(random, c_out),
        "s": np.array([1, 1, scale, scale], np.float32),
    }
    nodes = [
        helper.make_node(
            "Resize", ["x", "", "s"], ["u"], "up/Resize", mode="nearest",
            coordinate_transformation_mode=mode[0], nearest_mode=mode[1],
        ),
        helper.make_node(
            "Conv", ["u", "w", "b"], ["c"], "conv/Conv", group=groups, dilations=[dilation] * 2,
            pads=[before, before, reach - before, reach - before],
        ),
        helper.make_node("Relu", ["c"], ["y"], "relu/Relu"),
    ]  # fmt: skip
    return model_of(nodes, weights, shape), shape


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("taps", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(
    "mode",
    [
        ("asymmetric", "floor"),
        ("half_pixel", "round_prefer_floor"),
        ("half_pixel", "round_prefer_ceil"),
    ],
)
def test_a_convolution_goes_before_nearest_upsampling(scale, taps, groups, mode):
    for seed in range(2):
        model, shape = nearest_model(seed, scale, taps, groups, mode)
        found, (record,) = rewrite(model, RewriteOptions(names="nearest-polyphase"))
        expected = ["Conv", "Relu", "Resize"] if taps == 1 else ["Conv", "DepthToSpace", "Relu"]
        assert ops(found) == expected
        assert record.form == ("swap" if taps == 1 else "polyphase")
        assert_equal(model, found, shape)


@pytest.mark.parametrize(("dilation", "uneven"), [(2, 0), (1, 1), (1, -1), (3, 2)])
def test_dilated_and_uneven_taps_are_taken_apart_too(dilation, uneven):
    for seed in range(3):
        model, shape = nearest_model(seed, 2, 5, 1, dilation=dilation, uneven=uneven)
        found, _ = rewrite(model, RewriteOptions(names="nearest-polyphase"))
        assert "DepthToSpace" in ops(found)
        assert_equal(model, found, shape)


def test_five_by_five_upsampled_by_two_takes_nine_taps_for_twenty_five():
    model, _ = nearest_model(0, 2, 5, 1)
    (site,) = nearest_polyphase.find(model.graph)
    before, after = (nearest_polyphase.macs(site, form) for form in (None, "polyphase"))
    assert after * 25 == before * 9


@pytest.mark.parametrize(
    "mode", [("asymmetric", "ceil"), ("align_corners", "floor"), ("half_pixel", "floor")]
)
def test_other_ways_to_the_nearest_are_left_alone(mode):
    model, _ = nearest_model(0, 2, 3, 1, mode)
    assert not list(nearest_polyphase.find(model.graph))
    assert not list(plain_nearest.find(model.graph))


@pytest.mark.parametrize("scale", [2, 3, 4, 7])
@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil"])
def test_nearest_upsampling_is_said_in_the_plainest_way(scale, rounding):
    model, shape = nearest_model(scale, scale, 3, 1, ("half_pixel", rounding))
    found, _ = rewrite(model, RewriteOptions(names="plain-nearest"))
    assert not list(plain_nearest.find(found.graph))
    for expected, values in zip(run(model, shape), run(found, shape), strict=True):
        np.testing.assert_array_equal(values, expected)


def test_a_published_pattern_is_rewritten_as_a_whole():
    """Batch norm unfolded, Upsample as converted, depthwise and 1x1 convolutions: as FastDepth's decoder."""
    random = np.random.default_rng(1)
    shape = (1, 6, 7, 5)
    weights = {
        "s": np.array([1, 1, 2, 2], np.float32),
        "d": normal(random, 6, 1, 5, 5),
        "p": normal(random, 1, 6, 1, 1),
    }
    nodes = [helper.make_node("Resize", ["x", "", "s"], ["u"], "u1/Resize", mode="nearest")]
    nodes += [helper.make_node("Conv", ["u", "d"], ["c"], "dw/Conv", group=6, pads=[2] * 4)]
    for name, source, count in (("n", "c", 6), ("y", "q", 1)):
        if name == "y":
            nodes += [
                helper.make_node("Relu", ["n"], ["r"], "r/Relu"),
                helper.make_node("Resize", ["r", "", "s"], ["v"], "u2/Resize", mode="nearest"),
                helper.make_node("Conv", ["v", "p"], ["q"], "pw/Conv"),
            ]
        norm = {f"{name}{k}": random.uniform(0.5, 2, count).astype(np.float32) for k in range(4)}
        weights |= norm
        nodes += [
            helper.make_node(
                "BatchNormalization", [source, *norm], [name], f"bn_{name}/BatchNormalization"
            )
        ]
    model = model_of(nodes, weights, shape)
    found, records = rewrite(model)
    made = {(record.rewrite, record.form) for record in records}
    # A polyphase form of a depthwise convolution does not pay on CPUs; made everywhere, it is right, too.
    assert made == {
        ("fold-norm", "folded"),
        ("nearest-polyphase", None),
        ("nearest-polyphase", "swap"),
        ("plain-nearest", "plain"),
    }
    assert ops(found) == ["Resize", "Conv", "Relu", "Conv", "Resize"]
    assert_equal(model, found, shape)
    everywhere, _ = rewrite(model, RewriteOptions(names="all"))
    assert "DepthToSpace" in ops(everywhere)
    assert_equal(model, everywhere, shape)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("taps", [1, 3])
def test_convolutions_of_one_kind_on_one_tensor_become_one(seed, taps):
    random = np.random.default_rng(seed)
    shape = (2, 5, *(int(side) for side in random.integers(4, 9, 2)))
    counts = (3, 1, 4)
    weights = {f"w{k}": normal(random, count, 5, taps, taps) for k, count in enumerate(counts)}
    weights |= {"b1": normal(random, 1), "other": normal(random, 2, 5, 2, 2)}
    how = {"pads": [taps // 2] * 4, "strides": [2, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["y0"], "a/Conv", **how),
        helper.make_node("Conv", ["x", "w1", "b1"], ["y1"], "b/Conv", **how),
        helper.make_node("Conv", ["x", "other"], ["z"], "c/Conv"),
        helper.make_node("Conv", ["x", "w2"], ["y2"], "d/Conv", **how),
    ]
    model = model_of(nodes, weights, shape, ("y0", "y1", "y2", "z"))
    found, (record,) = rewrite(model, RewriteOptions(names="merge-convs"))
    assert sorted(ops(found)) == ["Conv", "Conv", "Split"]
    assert (record.site, record.gmac_before) == ("a", record.gmac_after)
    assert_equal(model, found, shape)


def test_convolutions_are_merged_where_they_read_more_than_they_write():
    random = np.random.default_rng(0)
    for c_in, c_out, form in ((64, 2, "merged"), (4, 64, None)):
        weights = {name: normal(random, c_out, c_in, 1, 1) for name in ("v", "w")}
        nodes = [
            helper.make_node("Conv", ["x", name], [out], f"{name}/Conv")
            for name, out in (("v", "y"), ("w", "z"))
        ]
        model = model_of(nodes, weights, (1, c_in, 16, 16), ("y", "z"))
        _, (record,) = rewrite(model)
        assert record.form == form
        assert len(list(merge_convs.find(model.graph))) == 1
