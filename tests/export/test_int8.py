from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import cv2
import msgspec
import numpy as np
import onnx
import pytest

from depthmask.bundle import Bundle, open_bundle
from depthmask.errors import CheckFailedError, InputError, UsageError
from depthmask.export import export_chain, verify, verify_bundle
from depthmask.export.budget import GraphRunner, parse_max_drop
from depthmask.export.gate_data import split
from depthmask.export.int8 import Int8Options, digest
from depthmask.export.precision_search import choose, search
from depthmask.export.reference import reference_frames
from depthmask.export.unsigned import UNSIGNED_RUNTIMES
from depthmask.frames import Resolution
from depthmask.runtimes import open_runtime
from depthmask.samples import SHIPPED_SAMPLES, open_samples

SMALL = Resolution(32, 32)
ORDER = tuple("abcdefgh")
MACS = dict.fromkeys(ORDER, 100)


def photographs(folder, count=6, constant=False):
    folder.mkdir()
    rng = np.random.default_rng(3)
    for number in range(count):
        image = (
            np.full((40, 50, 3), 7 * number, np.uint8)
            if constant
            else rng.integers(0, 256, (40, 50, 3))
        )
        cv2.imwrite(str(folder / f"{number}.png"), image)
    return open_samples(folder)


def labelled(folder, count, masks=None):
    """Noise with a box in the middle; the first `masks` have labels."""
    photographs(folder, count)
    mask_HW = np.zeros((40, 50), np.uint8)
    mask_HW[10:30, 10:40] = 255
    for number in range(count if masks is None else masks):
        cv2.imwrite(str(folder / f"{number}.mask.png"), mask_HW)
    return open_samples(folder)


@pytest.fixture(scope="module")
def int8_bundle(tiny_chain, trace, tmp_path_factory):
    out = tmp_path_factory.mktemp("int8") / "b"
    return export_chain(tiny_chain, out, resolution=SMALL, precision="int8", trace=trace)


def test_an_int8_bundle_is_int8_symmetric_and_says_how_it_came_about(int8_bundle):
    graph = onnx.load(int8_bundle.model_path()).graph
    stored = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    quantisers = [n for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert quantisers
    assert all(stored[n.input[2]].dtype == np.int8 for n in quantisers)
    assert not any(stored[n.input[2]].any() for n in quantisers)
    record = int8_bundle.manifest.int8
    assert record.gate == "agreement"
    assert record.int8_sites["32"] + len(int8_bundle.manifest.fp32_nodes) == record.sites["32"] == 4
    assert record.calibration == "shipped photographs"
    assert set(record.gain["32"]) <= {"onnxruntime", "openvino"}


def test_cpus_run_the_unsigned_spelling_and_manifest_and_inspect_say_so(int8_bundle, dmx_inside):
    graph = int8_bundle.graph()
    assert (graph.file, graph.unsigned.file) == ("model.onnx", "model.unsigned.onnx")
    assert graph.unsigned.runtimes == UNSIGNED_RUNTIMES
    assert set(graph.files) <= set(int8_bundle.manifest.files)
    assert graph.unsigned.parity["file"] == "model.unsigned.onnx"
    assert graph.unsigned.parity["mask"]["mean_error"] < 0.01
    assert int8_bundle.model_path_for("onnxruntime", "cuda", SMALL).name == "model.onnx"
    code, out, _ = dmx_inside("inspect", int8_bundle.path)
    assert code == 0
    said = " ".join(out.split())
    assert f"{' and '.join(UNSIGNED_RUNTIMES)} on the CPU run model.unsigned.onnx" in said


@pytest.mark.parametrize("runtime", UNSIGNED_RUNTIMES)
def test_a_runtime_runs_the_file_that_the_manifest_names(int8_bundle, runtime):
    (frame,) = open_samples().spread(1)
    (plain, unsigned) = int8_bundle.spellings(runtime)
    manifest_s, named, other = (
        open_runtime(bundle, SMALL, runtime=runtime, device="cpu").run(
            {"frame": frame.image_HW3[None]}
        )
        for bundle in (int8_bundle, unsigned, plain)
    )
    for role in ("mask", "depth"):
        np.testing.assert_array_equal(manifest_s[role], named[role])
        np.testing.assert_allclose(manifest_s[role], other[role], atol=0.02)
    # The search may have left one of the networks as it was.
    assert any((manifest_s[role] != other[role]).any() for role in ("mask", "depth"))


def test_only_the_file_that_engines_are_built_from_is_verified_on_them(int8_bundle, monkeypatch):
    opened = []

    def engine(bundle, resolution, *, runtime, device, threads):
        opened.append((bundle.graph(resolution).file, runtime, device))
        return open_runtime(bundle, resolution, runtime="onnxruntime", threads=threads)

    monkeypatch.setattr(verify, "open_runtime", engine)
    assert verify_bundle(int8_bundle, runtime="tensorrt", device="cuda").parities
    assert opened == [("model.onnx", "tensorrt", "cuda")]


def test_the_tradeoff_is_in_the_bundle(int8_bundle):
    tradeoff = json.loads((int8_bundle.path / "tradeoff.json").read_text())["resolutions"]["32"]
    assert tradeoff["points"][0]["int8_sites"] == 0
    assert tradeoff["points"][0]["losses"]["mask_mae"] < 1e-5
    assert len(tradeoff["sensitivity"]) == 4
    chosen = tradeoff["points"][tradeoff["chosen"]]
    assert chosen["kept_fp32"] == list(int8_bundle.manifest.fp32_nodes)
    assert chosen["latency_ms"]
    assert ElementTree.parse(int8_bundle.path / "tradeoff.svg").getroot().tag.endswith("svg")


def test_verify_repeats_the_gate_of_agreement(int8_bundle):
    assert verify_bundle(int8_bundle)
    manifest = int8_bundle.manifest
    nothing = {"mask_mae": 1e-9, "depth_abs_rel": 1e-9}
    strict = msgspec.structs.replace(
        manifest, int8=msgspec.structs.replace(manifest.int8, budget=nothing)
    )
    failures = verify_bundle(Bundle(int8_bundle.path, strict)).failures()
    assert [text.split(" against")[0] for text in failures] == [
        "at 32 the mask_mae",
        "at 32 the depth_abs_rel",
        "at 32 unsigned the mask_mae",
        "at 32 unsigned the depth_abs_rel",
    ]


def test_labelled_data_are_the_gate_and_verify_judges_on_them_again(tiny_chain, trace, tmp_path):
    bundle = export_chain(
        tiny_chain, tmp_path / "b", resolution=SMALL, precision="int8", trace=trace,
        data=open_samples(),
    )  # fmt: skip
    assert bundle.manifest.int8.gate == "accuracy"
    assert bundle.manifest.int8.budget == {"iou": 0.5, "delta1": 0.5}
    report = verify_bundle(open_bundle(tmp_path / "b"))
    assert report
    search = bundle.manifest.search
    assert (search.searched, search.judged) == ("labelled[0:12]", "labelled[12:24]")
    assert (search.searched_images, search.judged_images) == (12, 12)
    assert report.accuracies["32"].data == search.judged
    # Given explicitly, the same data are judged on by the same half; other data as a whole.
    assert verify_bundle(bundle, data=open_samples()).accuracies["32"].count == 12
    other = labelled(tmp_path / "other", 3)
    assert verify_bundle(bundle, data=other).accuracies["32"].count == 3


def test_the_search_never_sees_an_image_that_the_gate_judges_on():
    for precision, data in (("fp16", None), ("int8", None), ("int8", open_samples())):
        gate = split(precision, data)
        looked_at = {digest(frame) for frame in gate.search_frames}
        looked_at |= {digest(image) for image in gate.searched.images()} if gate.searched else set()
        judged = {digest(frame) for frame in reference_frames()}
        judged |= {digest(image) for image in gate.judged.images()} if gate.judged else set()
        assert looked_at
        assert not looked_at & judged


def test_the_search_is_told_nothing_of_the_other_half(tiny_chain, trace, tmp_path, monkeypatch):
    """Whatever predicts before the graphs are written sees the first half alone, but for PyTorch."""
    data = open_samples()
    judged = {digest(image) for image in data.halves()[1].images()}
    seen = set()
    open_graph = GraphRunner.open

    def spy(self, model):
        run = open_graph(self, model)
        return lambda frame: (seen.add(digest(frame)), run(frame))[1]

    monkeypatch.setattr(GraphRunner, "open", spy)
    export_chain(
        tiny_chain, tmp_path / "b", resolution=SMALL, precision="int8", trace=trace, data=data
    )
    assert seen == {digest(image) for image in data.halves()[0].images()}
    assert not seen & judged


def test_too_few_labelled_images_for_two_halves_are_refused(tiny_chain, tmp_path):
    with pytest.raises(InputError, match=r"8 images or more.*holds 7"):
        export_chain(
            tiny_chain, tmp_path / "b", resolution=SMALL, precision="int8",
            data=labelled(tmp_path / "few", 7),
        )  # fmt: skip


def test_each_half_needs_labels(tiny_chain, trace, tmp_path):
    with pytest.raises(InputError, match=r"half\[4:8\] has neither"):
        export_chain(
            tiny_chain, tmp_path / "b", resolution=SMALL, precision="int8", trace=trace,
            data=labelled(tmp_path / "half", 8, masks=4),
        )  # fmt: skip


def test_calibrating_on_the_photographs_of_the_reference_is_refused(tiny_chain, tmp_path):
    with pytest.raises(InputError, match="8 of the images in photos are in the photographs"):
        export_chain(
            tiny_chain, tmp_path / "b", resolution=SMALL, precision="int8",
            int8=Int8Options(calibration=open_samples(SHIPPED_SAMPLES / "photos")),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("count", "constant", "message"),
    [(3, False, "holds 3"), (6, True, "holds 0")],
)
def test_useless_calibration_data_are_refused(tiny_chain, tmp_path, count, constant, message):
    with pytest.raises(InputError, match=message):
        export_chain(
            tiny_chain, tmp_path / "b", resolution=SMALL, precision="int8",
            int8=Int8Options(calibration=photographs(tmp_path / "c", count, constant)),
        )  # fmt: skip


def test_calibration_data_are_not_judged_on(tiny_chain, tmp_path):
    with pytest.raises(InputError, match="24 of the images"):
        export_chain(
            tiny_chain, tmp_path / "b", resolution=SMALL, precision="int8", data=open_samples(),
            int8=Int8Options(calibration=open_samples()),
        )  # fmt: skip


def test_a_budget_is_parsed():
    assert parse_max_drop("iou=1") == {"iou": 1.0, "delta1": 0.5}
    for wrong in ("iou=-1", "iou", "abs_rel=1", "iou=x", "iou=nan"):
        with pytest.raises(UsageError, match=r"iou=0\.5,delta1=0\.5"):
            parse_max_drop(wrong)


def test_the_search_keeps_no_more_sites_than_the_budget_needs():
    """a to c cost 0.3 points each, the others nothing; 0.8 of a budget of 0.5 leaves room for one."""

    def losses(kept):
        return {"iou": 0.3 * len(set("abc") - kept)}

    points = search(ORDER, MACS, losses, {"iou": 0.5})
    best = choose(points, SMALL)
    assert best.int8_sites == 6
    assert best.int8_mac_share == 6 / 8
    assert points[0].int8_sites == 0
    assert not points[-1].holds


def test_the_fastest_that_holds_is_chosen_but_int8_even_where_it_is_slower():
    points = search(ORDER, MACS, lambda kept: {"iou": 0.0}, {"iou": 0.5})

    def timed(ms):
        return [msgspec.structs.replace(p, latency_ms={"x": ms[p.int8_sites]}) for p in points]

    assert [p.int8_sites for p in points] == [0, 4, 6, 7, 8]
    assert choose(timed({0: 9, 4: 5, 6: 3, 7: 3.5, 8: 4}), SMALL).int8_sites == 6
    assert choose(timed({0: 1, 4: 5, 6: 3, 7: 3.5, 8: 4}), SMALL).int8_sites == 8


def test_an_impossible_budget_says_the_best_there_is():
    points = search(ORDER, MACS, lambda kept: {"iou": (8 - len(kept)) * 0.1}, {"iou": 0.0})
    with pytest.raises(
        CheckFailedError, match=r"best reached loses 0\.10 points of IoU, with 1 of 8"
    ):
        choose(points, SMALL)


def test_dmx_export_int8_as_a_user_calls_it(dmx_inside, tmp_path):
    networks = (
        "--mask",
        "tiny_networks:TinyMask",
        "--depth",
        "tiny_networks:TinyDepth",
        "--init",
        0,
    )
    code, out, err = dmx_inside(
        "export", *networks, "--resolution", 32, "--int8", "--out", tmp_path / "b"
    )
    assert code == 0, err
    assert "convolutions in int8" in out
    code, _, err = dmx_inside("export", *networks, "--max-drop", "iou=1")
    assert (code, "--int8" in err) == (2, True)
