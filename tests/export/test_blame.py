from __future__ import annotations

import json

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
import tiny_networks
import torch
from torch import nn

from depthmask.bundle import open_bundle, record_files, write_manifest
from depthmask.chain import MaskDepthChain
from depthmask.errors import CheckFailedError
from depthmask.export import export_chain, verify_bundle
from depthmask.export.blame import find_blame
from depthmask.export.precision import to_fp16
from depthmask.export.reference import Reference
from depthmask.frames import Resolution
from depthmask.models.initialise import fill_from_keys

SMALL = Resolution(32, 32)
FAULTS = 20

pytestmark = pytest.mark.usefixtures("one_trace")


class Layered(nn.Module):
    """Convolutions with batch norm, a skip connection and a resize, as real stages have them."""

    def __init__(self, sigmoid: bool):
        super().__init__()
        self.wide = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.low = nn.Sequential(
            nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12), nn.ReLU()
        )
        self.deep = nn.Sequential(nn.Conv2d(12, 8, 5, padding=2), nn.BatchNorm2d(8), nn.ReLU6())
        self.head = nn.Conv2d(16, 1, 3, padding=1)
        self.sigmoid = sigmoid

    def forward(self, image_B3HW):
        wide = self.wide(image_B3HW)
        deep = nn.functional.interpolate(
            self.deep(self.low(wide)), size=wide.shape[2:], mode="bilinear"
        )
        output = self.head(torch.cat([wide, deep], 1))
        return torch.sigmoid(output) if self.sigmoid else output


@pytest.fixture(scope="module")
def chain():
    chain = MaskDepthChain(Layered(sigmoid=True), Layered(sigmoid=False)).eval()
    fill_from_keys(chain.mask, 0)
    fill_from_keys(chain.depth, 1)
    return chain


@pytest.fixture(scope="module")
def bundle(chain, tmp_path_factory):
    return export_chain(chain, tmp_path_factory.mktemp("blame") / "b", resolution=SMALL)


def with_graph(bundle, folder, change):
    """A copy of a bundle, with a changed graph and a manifest that fits it."""
    folder.mkdir()
    for name in bundle.manifest.files:
        (folder / name).write_bytes((bundle.path / name).read_bytes())
    model = change(ir.load(bundle.model_path()))
    (folder / "model.onnx").write_bytes(ir.to_proto(model).SerializeToString())
    manifest = msgspec.structs.replace(bundle.manifest, files=record_files(folder))
    write_manifest(folder, manifest)
    return open_bundle(folder)


def break_one(model, seed):
    """Break one convolution of one stage; gives the stage and its tensor."""
    random = np.random.default_rng(seed)
    stage = ("mask", "depth")[seed % 2]
    convolutions = [
        node
        for node in model.graph
        if node.op_type == "Conv" and node.metadata_props["depthmask.stage"] == stage
    ]
    node = convolutions[random.integers(len(convolutions))]
    kind = random.choice(["weight", "pad", "channels"])
    weight = node.inputs[1]
    numbers = weight.const_value.numpy().copy()
    if kind == "weight":
        numbers *= np.float32(random.choice([0.5, 0.9, 1.1, 2]))
    elif kind == "channels":
        axis = 0 if numbers.shape[0] > 1 else 1
        a, b = random.choice(numbers.shape[axis], 2, replace=False)
        order = np.arange(numbers.shape[axis])
        order[[a, b]] = order[[b, a]]
        numbers = np.take(numbers, order, axis)
    else:
        top, left, bottom, right = node.attributes["pads"].as_ints()
        moved = random.choice([True, False])  # else the output grows
        pads = [top + 1, left, bottom - 1, right] if moved else [top + 2, left, bottom, right]
        node.attributes["pads"] = ir.AttrInt64s("pads", pads)
    weight.const_value = ir.tensor(numbers, name=weight.name)
    return stage, node.outputs[0].name, kind


def test_at_least_19_of_20_faults_are_blamed_on_the_right_tensor(chain, bundle, tmp_path):
    reference = Reference.load(bundle.path / "reference.npz", [SMALL])
    wrong = []
    for seed in range(FAULTS):
        told = []

        def change(model, seed=seed, told=told):
            told.append(break_one(model, seed))
            return model

        broken = with_graph(bundle, tmp_path / str(seed), change)
        blame = find_blame(
            broken, SMALL, reference, tolerance=1e-4, runtime="onnxruntime", chain=chain
        )
        stage, tensor, kind = told[0]
        if (blame.stage, blame.tensor) != (stage, tensor):
            wrong.append((seed, kind, stage, tensor, blame))
    assert len(wrong) <= FAULTS // 20, wrong


def scale(name, factor):
    def change(model):
        weight = model.graph.initializers[name]
        weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(factor), name=name)
        return model

    return change


def cause_after(bundle, folder, change, **options):
    return verify_bundle(with_graph(bundle, folder, change), **options).parities[0].blame


def test_a_wrong_mean_is_blamed_on_the_preprocessing(chain, bundle, tmp_path):
    blame = cause_after(bundle, tmp_path / "b", scale("preprocess.shift_311", 1.1), chain=chain)
    assert (blame.stage, blame.op_type) == ("preprocess", "Sub")
    assert "shifted" in blame.advice


def test_a_product_that_is_a_sum_is_blamed_as_such(chain, bundle, tmp_path):
    def change(model):
        next(node for node in model.graph if node.name == "chain/Mul").op_type = "Add"
        return model

    blame = cause_after(bundle, tmp_path / "b", change, chain=chain)
    assert (blame.stage, blame.node, blame.op_type) == ("product", "chain/Mul", "Add")


def test_without_the_weights_the_stage_is_named(bundle, tmp_path):
    blame = cause_after(bundle, tmp_path / "b", scale("chain.depth.head.weight", 1.1))
    assert (blame.stage, blame.tensor) == ("depth", None)
    assert "1.1 times" in blame.advice
    assert ":Layered, which is not one of our networks" in blame.advice
    low, high = blame.expected_range
    assert low < high != blame.found_range[1]


def test_an_fp16_graph_is_blamed_through_its_casts(chain, bundle, tmp_path):
    def change(model):
        return to_fp16(scale("chain.mask.head.weight", 0.8)(model))

    half = msgspec.structs.replace(bundle.manifest, precision="fp16")
    blame = cause_after(type(bundle)(bundle.path, half), tmp_path / "b", change, chain=chain)
    assert (blame.stage, blame.node) == ("mask", "mask.head/Conv")


def test_an_overflow_of_float16_says_so(tmp_path):
    mask = tiny_networks.overflowing_mask()
    chain = MaskDepthChain(mask, tiny_networks.TinyDepth()).eval()
    sound = export_chain(chain, tmp_path / "sound", resolution=SMALL)
    half = msgspec.structs.replace(sound.manifest, precision="fp16")
    blame = cause_after(type(sound)(sound.path, half), tmp_path / "b", to_fp16, chain=chain)
    assert (blame.stage, blame.op_type, blame.max_error) == ("mask", "Mul", None)
    assert "float16 overflows at 65504" in blame.advice


def test_a_graph_that_cannot_run_is_blamed_all_the_same(chain, bundle, tmp_path):
    def change(model):
        node = next(node for node in model.graph if node.name == "mask.deep.1/Conv")
        node.attributes["strides"] = ir.AttrInt64s("strides", [2, 2])
        return with_resize_by_scale(model)

    def with_resize_by_scale(model):
        next(n for n in model.graph if n.name == "mask.head/Conv").inputs[
            1
        ].const_value = ir.tensor(np.ones((1, 15, 3, 3), np.float32), name="chain.mask.head.weight")
        return model

    with pytest.raises(
        CheckFailedError, match=r"cannot be .*mask stage.*mask\.deep\.1/Conv"
    ) as failed:
        verify_bundle(with_graph(bundle, tmp_path / "b", change), chain=chain)
    assert any("its shape is (1, 8, 8, 8), not (1, 8, 16, 16)" in d for d in failed.value.details)


def test_a_sound_graph_leaves_the_runtime(bundle, monkeypatch):
    from depthmask.runtimes.onnxruntime_runtime import OnnxRuntime

    run = OnnxRuntime.run
    monkeypatch.setattr(
        OnnxRuntime, "run", lambda self, inputs: {k: 2 * v for k, v in run(self, inputs).items()}
    )
    report = verify_bundle(bundle)
    assert report.parities[0].blame.stage == "runtime"
    assert "to blame is the runtime, not the graph" in report.failures()[-1]


def test_the_command_line_tells_both_ranges(dmx_inside, bundle, tmp_path):
    broken = with_graph(bundle, tmp_path / "b", scale("chain.depth.head.weight", 1.1))
    code, out, err = dmx_inside("verify", broken.path, "--json")
    assert code == 1
    assert json.loads(out)["graphs"]["32"]["blame"]["stage"] == "depth"
    lines = err.strip().splitlines()
    assert "expected" in lines[1]
    assert lines[-1].startswith("error: ")
    assert "to blame is the depth stage" in lines[-1]


class Logarithm(nn.Module):
    """Finite on every mask but an empty one."""

    def forward(self, image_B3HW):
        return torch.log(image_B3HW.abs().amax((1, 2, 3), keepdim=True)) * torch.ones_like(
            image_B3HW[:, :1]
        )


def test_an_empty_mask_must_give_finite_depths(tmp_path):
    chain = MaskDepthChain(tiny_networks.TinyMask(), Logarithm()).eval()
    with pytest.raises(CheckFailedError, match="depth of an empty mask on white holds NaN"):
        export_chain(chain, tmp_path / "b", resolution=SMALL)
