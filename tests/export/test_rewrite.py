from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_networks import TinyMask, UpsamplingDepth

from depthmask.bundle import open_bundle
from depthmask.chain import MaskDepthChain
from depthmask.errors import UsageError
from depthmask.export import export_chain
from depthmask.export.onnx_files import to_bytes
from depthmask.export.rewrite import RewriteOptions, rewrite
from depthmask.export.to_onnx import stage_of, to_onnx
from depthmask.export.tune import cut_out, fastest_ms
from depthmask.export.upsample_conv import find
from depthmask.frames import Resolution

SIZE = Resolution(64, 64)
SITE = "depth.up"


@pytest.fixture(scope="module")
def chain():
    return MaskDepthChain(TinyMask(), UpsamplingDepth()).eval()


@pytest.fixture(scope="module")
def model(chain):
    return to_onnx(chain, SIZE, input_kind="image")


def outputs(model):
    import onnxruntime as ort

    session = ort.InferenceSession(to_bytes(model), providers=["CPUExecutionProvider"])
    image_13HW = np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)
    return session.run(["mask", "depth"], {"image": image_13HW})


def upsampled(records):
    (record,) = [record for record in records if record.rewrite == "upsample-conv"]
    return record


@pytest.mark.parametrize("names", ["auto", "all", "upsample-conv"])
def test_a_rewritten_chain_gives_the_same_with_less_work(model, names):
    found, records = rewrite(model, RewriteOptions(names=names))
    assert upsampled(records).site == SITE
    assert sum(r.gmac_after for r in records) < 0.35 * sum(r.gmac_before for r in records)
    assert not [node for node in found.graph if node.op_type == "Resize"]
    for expected, values in zip(outputs(model), outputs(found), strict=True):
        assert np.abs(values - expected).max() <= 1e-4 * np.ptp(expected)


def test_new_nodes_keep_the_stage_and_the_old_graph_is_left_alone(model):
    before = len(list(find(model.graph)))
    found, records = rewrite(model)
    record = upsampled(records)
    new = [node for node in found.graph if (node.name or "").startswith(f"{SITE}/{record.form}/")]
    assert new
    assert {stage_of(node) for node in new} == {"depth"}
    assert len(list(find(model.graph))) == before


def test_none_changes_nothing(model):
    assert rewrite(model, RewriteOptions(names="none")) == (model, ())


def test_a_measurement_decides(model):
    def timings(models):
        slow = {"as exported": 2.0, "matrix": 9.0, "half": 1.0}
        return {"onnxruntime": slow, "openvino": {name: ms + 1 for name, ms in slow.items()}}

    _, records = rewrite(model, RewriteOptions(tune=True), timings=timings)
    assert upsampled(records).form == "half"
    assert upsampled(records).measured_gain == pytest.approx((6 / 2) ** 0.5, abs=1e-3)


def test_what_is_not_faster_is_left_as_exported(model):
    def timings(models):
        return {"onnxruntime": dict.fromkeys(models, 1.0)}

    found, records = rewrite(model, RewriteOptions(tune=True), timings=timings)
    assert upsampled(records).form is None
    assert all(record.gmac_after == record.gmac_before for record in records)
    # All but the last Add, which is folded into its convolution whatever it takes.
    assert len(found.graph) == len(model.graph) - 1


def test_a_site_alone_is_timed_on_the_runtimes_that_are_installed(model):
    site = next(find(model.graph))
    found = fastest_ms({"one": cut_out(site.nodes), "two": cut_out(site.nodes)}, threads=1)
    assert set(found) <= {"onnxruntime", "openvino"}
    assert found["onnxruntime"].keys() == {"one", "two"}
    assert min(found["onnxruntime"].values()) > 0


def test_an_unknown_rewrite_is_refused():
    with pytest.raises(
        UsageError, match=r"auto, all, none, or of fold-norm, .*winograd, but got 'magic'"
    ):
        RewriteOptions(names="magic")


def test_a_bundle_says_what_was_rewritten(chain, model, tmp_path, dmx_inside):
    out = tmp_path / "b"
    export_chain(chain, out, resolution=SIZE, input="image", trace=lambda *_, **__: model)
    record = upsampled(open_bundle(out).graph().rewrites)
    assert record.site == SITE
    code, printed, _ = dmx_inside("inspect", str(out), "--json")
    assert code == 0
    assert len(json.loads(printed)["graphs"][0]["rewrites"]) == 2
    _, printed, _ = dmx_inside("inspect", str(out))
    assert SITE in printed
    assert f"upsample-conv: {record.form}" in printed
    assert "2 of 2" in printed
