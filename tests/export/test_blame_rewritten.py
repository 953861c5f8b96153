"""Faults put into graphs that are no longer as PyTorch traced them: rewritten, and in int8."""

from __future__ import annotations

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
import tiny_networks

from depthmask.bundle import STAGE_KEY, open_bundle, record_files, write_manifest
from depthmask.chain import MaskDepthChain
from depthmask.export import export_chain, verify_bundle
from depthmask.export.blame import find_blame
from depthmask.export.graph_edit import constant_array
from depthmask.export.reference import Reference
from depthmask.export.rewrite import RewriteOptions
from depthmask.frames import Resolution

SMALL = Resolution(64, 64)
FAULTS = 20

pytestmark = pytest.mark.usefixtures("one_trace")


@pytest.fixture(scope="module")
def chain():
    return MaskDepthChain(tiny_networks.TinyMask(), tiny_networks.UpsamplingDepth()).eval()


@pytest.fixture(scope="module")
def rewritten(chain, trace, tmp_path_factory):
    return export_chain(
        chain, tmp_path_factory.mktemp("rewritten") / "b", resolution=SMALL, trace=trace,
        rewrites=RewriteOptions(names="all"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def in_int8(chain, trace, tmp_path_factory):
    return export_chain(
        chain,
        tmp_path_factory.mktemp("int8") / "b",
        resolution=SMALL,
        precision="int8",
        trace=trace,
    )


def broken(bundle, folder, seed, kinds=("weight", "pad", "channels")):
    """A copy with one fault in a convolution of the networks; gives the stage, node and kind too."""
    random = np.random.default_rng(seed)
    model = ir.load(bundle.model_path())
    stage = ("mask", "depth")[seed % 2]
    nodes = [
        node
        for node in model.graph
        if node.op_type == "Conv" and node.metadata_props[STAGE_KEY] == stage
    ]
    node = nodes[random.integers(len(nodes))]
    kind = random.choice(kinds)
    if kind == "pad" and not any(node.attributes["pads"].as_ints()):
        kind = "weight"
    weight = node.inputs[1]
    if kind == "pad":
        top, left, bottom, right = node.attributes["pads"].as_ints()
        node.attributes["pads"] = ir.AttrInt64s("pads", [top + 1, left, bottom - 1, right])
    elif (
        constant_array(weight) is None
    ):  # behind a DequantizeLinear: its int8 numbers, or its scale
        dequantised = weight.producer()
        change(dequantised.inputs[0 if kind == "channels" else 1], kind, random)
    else:
        change(weight, kind, random)
    folder.mkdir()
    for name in bundle.manifest.files:
        (folder / name).write_bytes((bundle.path / name).read_bytes())
    (folder / "model.onnx").write_bytes(ir.to_proto(model).SerializeToString())
    write_manifest(folder, msgspec.structs.replace(bundle.manifest, files=record_files(folder)))
    return open_bundle(folder), stage, node, kind


def change(value, kind, random):
    numbers = value.const_value.numpy().copy()
    if kind == "weight":
        numbers *= np.float32(random.choice([0.4, 2, 3]))
    else:
        axis = 0 if numbers.shape[0] > 1 else 1
        a, b = random.choice(numbers.shape[axis], 2, replace=False)
        order = np.arange(numbers.shape[axis])
        order[[a, b]] = order[[b, a]]
        numbers = np.take(numbers, order, axis)
    value.const_value = ir.tensor(numbers, name=value.name)


def test_faults_in_rewritten_graphs_are_blamed_on_the_stage_and_a_tensor_at_or_after_them(
    chain, rewritten, tmp_path
):
    """A rewrite's inner tensors have no PyTorch value: the first tensor after them that has one is named."""
    assert any(one.form for one in rewritten.manifest.graphs[0].rewrites)
    wrong = judged(chain, rewritten, tmp_path, tolerance=1e-4)
    assert len(wrong) <= FAULTS // 20, wrong


def test_faults_in_int8_graphs_are_blamed_on_the_right_tensor(chain, in_int8, tmp_path):
    assert in_int8.manifest.int8.int8_sites["64"] > 0
    wrong = judged(chain, in_int8, tmp_path, tolerance=0.1)
    assert len(wrong) <= FAULTS // 20, wrong


def judged(chain, bundle, folder, tolerance):
    reference = Reference.load(bundle.path / "reference.npz", [SMALL])
    wrong = []
    for seed in range(FAULTS):
        faulty, stage, node, kind = broken(bundle, folder / str(seed), seed)
        blame = find_blame(
            faulty, SMALL, reference, tolerance=tolerance, runtime="onnxruntime", chain=chain
        )
        if blame.stage != stage or blame.tensor not in reached(node):
            wrong.append((seed, kind, stage, node.name, blame.stage, blame.node, blame.tensor))
    return wrong


def reached(node):
    """The convolution's output and what is computed from it alone, up to the next convolution."""
    found, queue = set(), [node]
    while queue:
        current = queue.pop()
        for output in current.outputs:
            found.add(output.name)
            queue += [user for user, _ in output.uses() if user.op_type != "Conv"]
    return found


def test_verify_blames_an_int8_bundle_that_loses_more_than_its_budget(chain, in_int8, tmp_path):
    faulty, stage, node, _ = broken(in_int8, tmp_path / "b", 3, kinds=("weight",))
    report = verify_bundle(faulty, chain=chain)
    assert not report
    assert report.parities[0].blame.stage == stage == "depth"
    assert report.parities[0].blame.tensor in reached(node)
    assert "to blame is the depth stage" in report.failures()[-1]
