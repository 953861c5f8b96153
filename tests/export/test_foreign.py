"""Somebody else's ONNX networks: made here with the traits of published ones."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_networks
import torch
from onnx import TensorProto, helper, numpy_helper

from depthmask.bundle import open_bundle
from depthmask.errors import InputError, UsageError
from depthmask.export import export_chain, verify_bundle
from depthmask.export.from_onnx import read_network
from depthmask.export.reference import Reference
from depthmask.export.source import open_chain
from depthmask.frames import Resolution
from depthmask.presets import StageInput
from depthmask.runtimes.torch_runtime import ChainPredictor

SMALL = Resolution(32, 32)
RANDOM = np.random.default_rng(0)


def weight(name, *shape):
    return numpy_helper.from_array(RANDOM.normal(0, 0.3, shape).astype(np.float32), name)


def save(path, nodes, weights, image, output, opset, old=False):
    """`old`: weights are inputs too, as IR version 3 wants it."""
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, image)]
    if old:
        inputs += [helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in weights]
    outputs = [helper.make_tensor_value_info("map", TensorProto.FLOAT, output)]
    graph = helper.make_graph(nodes, "foreign", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 3 if old else 8
    onnx.save(model, path)
    return path


def fastdepth_like(path):
    """Opset 7, Upsample, batch norm beside the convolution, a fixed size, Clip with attributes."""
    weights = [weight("w1", 4, 3, 3, 3), weight("w2", 1, 4, 3, 3)]
    for name, value in (("scale", 1.5), ("shift", 0.1), ("mean", 0.2), ("var", 2.0)):
        weights.append(numpy_helper.from_array(np.full(4, value, np.float32), name))
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"]),
        helper.make_node("Clip", ["n"], ["k"], min=0.0, max=6.0),
        helper.make_node("Upsample", ["k"], ["u"], scales=[1.0, 1.0, 2.0, 2.0], mode="nearest"),
        helper.make_node("Conv", ["u", "w2"], ["map"], pads=[1, 1, 1, 1]),
    ]
    return save(path, nodes, weights, [1, 3, 32, 32], [1, 1, 32, 32], 7, old=True)


def mask_nhwc(path):
    """Channels last, any size and batch, half the size out."""
    nodes = [
        helper.make_node("Transpose", ["image"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["t", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Sigmoid", ["c"], ["s"]),
        helper.make_node("Transpose", ["s"], ["map"], perm=[0, 2, 3, 1]),
    ]
    return save(path, nodes, [weight("w", 1, 3, 3, 3)], ["N", "H", "W", 3], ["N", "h", "w", 1], 13)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign")
    return open_chain(
        mask_onnx=mask_nhwc(folder / "m.onnx"),
        depth_onnx=fastdepth_like(folder / "d.onnx"),
        mask_input=StageInput(layout="nhwc", order="bgr", range="-1..1"),
        depth_input=StageInput(range="0..255", mean=(120, 110, 100), std=(60, 60, 60)),
    )


@pytest.fixture(scope="module")
def bundle(pair, tmp_path_factory):
    chain, weights = pair
    out = tmp_path_factory.mktemp("pair") / "b"
    return export_chain(chain, out, resolution=SMALL, weights=weights)


def test_a_pair_gives_what_the_two_files_give_by_hand(pair, bundle):
    import cv2
    import onnxruntime

    from depthmask.export.reference import reference_frames
    from depthmask.frames import Normalisation, to_network

    mask_file, depth_file = (
        onnxruntime.InferenceSession(stage.network.path, providers=["CPUExecutionProvider"])
        for stage in (pair[0].mask, pair[0].depth)
    )
    frame = reference_frames()[0]
    image = to_network(frame[None], SMALL, Normalisation((0, 0, 0), (1, 1, 1)))
    (mask,) = mask_file.run(None, {"image": (2 * image - 1)[:, ::-1].transpose(0, 2, 3, 1)})
    mask_HW = cv2.resize(mask[0, :, :, 0], (32, 32), interpolation=cv2.INTER_LINEAR)
    mean = np.array([120, 110, 100], np.float32)[:, None, None]
    (depth,) = depth_file.run(None, {"image": (255 * image - mean) / 60 * mask_HW})
    reference = Reference.load(bundle.path / "reference.npz", [SMALL])
    np.testing.assert_allclose(reference.maps[SMALL][0][0], mask_HW, atol=1e-5)
    np.testing.assert_allclose(reference.maps[SMALL][0][1], depth[0, 0], atol=1e-4)


def test_the_bundle_holds_and_records_both_stages(bundle):
    assert verify_bundle(bundle)
    manifest = open_bundle(bundle.path).manifest
    assert manifest.chain.mask.network == "onnx:m.onnx"
    assert manifest.chain.mask.input == StageInput(layout="nhwc", order="bgr", range="-1..1")
    assert manifest.chain.depth.input.mean == (120, 110, 100)
    assert set(manifest.weights["stages"]) == {"mask", "depth"}
    assert manifest.graphs[0].gmac > 0
    model = onnx.load(bundle.model_path())
    assert {o.domain for o in model.opset_import} == {""}
    kinds = {node.op_type for node in model.graph.node}
    assert "Resize" in kinds
    assert "Upsample" not in kinds


def test_a_fault_inside_a_foreign_stage_is_blamed_on_its_tensor(pair, bundle, tmp_path):
    import onnx_ir as ir

    from depthmask.export import pieces, trusted

    model = pieces.load_graph(bundle, SMALL)
    # The batch norm is folded into the convolution, which gives its output.
    (conv,) = [node for node in model.graph if node.outputs[0].name == "depth.n"]
    broken = conv.inputs[1]
    broken.const_value = ir.tensor(broken.const_value.numpy() * 2, name=broken.name)
    frame = Reference.load(bundle.path / "reference.npz", [SMALL]).frames[0]
    batches = [{"frame": frame[None]}]
    values = trusted.trusted_values(pair[0], bundle.manifest, SMALL, batches, pieces.names(model))
    finding = pieces.first_outside(model, list(zip(batches, values, strict=True)), tolerance=1e-4)
    assert (finding.stage, finding.tensor, finding.op_type) == ("depth", "depth.n", "Conv")


def test_one_file_and_a_pytorch_network(dmx_inside, tmp_path):
    fastdepth_like(tmp_path / "d.onnx")
    options = ("--depth-onnx", tmp_path / "d.onnx", "--mask", "tiny_networks:TinyMask")
    options += ("--out", tmp_path / "b", "--opset", "20")
    code, out, err = dmx_inside("export", *options, "--json")
    assert code == 0, err
    manifest = json.loads(out)
    assert manifest["chain"]["mask"]["network"] == "tiny_networks:TinyMask"
    assert manifest["opset"] == 20
    assert manifest["graphs"][0]["height"] == 32  # the file's own size
    assert (manifest["chain"]["depth_unit"], manifest["verified"]) == ("relative", True)


def test_lite_sees_what_it_was_trained_on_whatever_the_other_takes(tmp_path):
    lite, _ = open_chain()
    mixed, _ = open_chain(depth_onnx=fastdepth_like(tmp_path / "d.onnx"))
    frame = RANDOM.integers(0, 256, (40, 50, 3), np.uint8)
    np.testing.assert_allclose(
        ChainPredictor(mixed, SMALL)(frame).mask_HW,
        ChainPredictor(lite, SMALL)(frame).mask_HW,
        atol=1e-5,
    )


def test_an_operator_that_is_not_onnx_is_named_with_its_node(tmp_path):
    nodes = [helper.make_node("Fancy", ["image"], ["map"], name="head", domain="my.ops")]
    path = save(tmp_path / "m.onnx", nodes, [], [1, 3, 32, 32], [1, 1, 32, 32], 13)
    with pytest.raises(InputError, match=r"node 'head' is my\.ops::Fancy"):
        read_network(path)


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("../secret.bin", "in its own folder"),
        ("/etc/hostname", "in its own folder"),
        ("link.bin", "in its own folder"),
        ("missing.bin", "no such file"),
        ("short.bin", "which holds 8"),
    ],
)
def test_external_data_that_is_not_there_or_not_ours(tmp_path, location, said):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(4096))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "short.bin").write_bytes(bytes(8))
    kernel = weight("w", 1, 3, 3, 3)
    kernel.ClearField("raw_data")
    kernel.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "108")):
        kernel.external_data.add(key=key, value=value)
    nodes = [helper.make_node("Conv", ["image", "w"], ["map"], pads=[1, 1, 1, 1])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, [1, 1, 32, 32])],
        [kernel],
    )
    path = folder / "m.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(InputError, match=said):
        read_network(path)


def test_a_wrong_layout_is_said(tmp_path):
    with pytest.raises(UsageError, match="--mask-layout nhwc"):
        open_chain(mask_onnx=mask_nhwc(tmp_path / "m.onnx"))


def test_another_resolution_than_the_files_own(dmx_inside, tmp_path):
    fastdepth_like(tmp_path / "d.onnx")
    code, _, err = dmx_inside("export", "--depth-onnx", tmp_path / "d.onnx", "--resolution", "64")
    assert (code, "must be the file's own, 32" in err) == (2, True), err


@pytest.mark.parametrize("content", [None, b"", b"not onnx"])
def test_a_file_that_is_no_onnx(tmp_path, content):
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"m\.onnx must"):
        read_network(path)


@pytest.fixture(scope="module")
def program_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("pt2") / "depth.pt2"
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(
        tiny_networks.TinyDepth().eval(), (torch.zeros(2, 3, 32, 32),), dynamic_shapes=({0: batch},)
    )
    torch.export.save(program, path)
    return path


def test_a_torch_export_program_is_a_stage(program_path, tmp_path):
    chain, weights = open_chain(mask="tiny_networks:TinyMask", depth=str(program_path))
    bundle = export_chain(chain, tmp_path / "b", resolution=SMALL, weights=weights)
    assert verify_bundle(bundle)
    assert bundle.manifest.chain.depth.network == "pt2:depth.pt2"


@pytest.mark.parametrize(
    ("part", "old", "new", "said"),
    [
        (
            "models/model.json",
            b"torch.ops.aten.relu.default",
            b"torch.os.system",
            "calls 'torch.os",
        ),
        ("models/model.json", b"Symbol(", b"__import__(", "a size is .__import__"),
        ("_config.json", b'"use_pickle": false', b'"use_pickle": true', "a tensor is a pickle"),
        ("sample_inputs/model.pt", None, None, "sample inputs are more than tensors"),
    ],
)
def test_a_program_that_could_run_code_is_not_loaded(program_path, tmp_path, part, old, new, said):
    changed = tmp_path / "m.pt2"
    with zipfile.ZipFile(program_path) as source, zipfile.ZipFile(changed, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith(part):
                content = content.replace(old, new) if old else pickle.dumps(Path("x"), 2)
            target.writestr(name, content)
    with pytest.raises(InputError, match=said):
        open_chain(depth=str(changed))


@pytest.mark.parametrize("mean", ["0.5,0.5", "a,b,c", "1,2,3,4"])
def test_a_mean_that_is_not_three_numbers_is_refused(dmx_inside, mean):
    code, _, error = dmx_inside("export", "--depth-onnx", "d.onnx", "--depth-mean", mean)
    assert code == 2
    assert f"must be three numbers with commas, but got '{mean}'" in error
