from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import tiny_networks
import torch

from depthmask import chain as chains
from depthmask.bundle import Limits, open_bundle
from depthmask.chain import MaskDepthChain
from depthmask.errors import CheckFailedError, InputError, OutputError, UsageError
from depthmask.export import export_chain, verify_bundle
from depthmask.export.to_onnx import STAGE_KEY, to_onnx
from depthmask.frames import Normalisation, Resolution, to_frame, to_network
from depthmask.models.frame_chain import FrameChain
from depthmask.pipeline import Pipeline

SMALL = Resolution(32, 32)

# Run in a process that knows nothing of depthmask: what a user of the bundle's model.onnx does.
DMX = "from depthmask.cli import main; main()"
PLAIN_ONNXRUNTIME = """
import sys
sys.modules["depthmask"] = None
import numpy as np, onnxruntime
model, frame, out = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
mask, depth = session.run(["mask", "depth"], {"frame": np.load(frame)[None]})
np.savez(out, mask=mask, depth=depth)
"""


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 1e-2)])
def test_plain_onnxruntime_gives_what_pytorch_gives(
    tiny_chain, trace, frame_HW3, tmp_path, precision, tolerance
):
    bundle = export_chain(
        tiny_chain, tmp_path / "b", resolution=SMALL, precision=precision, trace=trace
    )
    np.save(tmp_path / "frame.npy", frame_HW3)
    files = [bundle.model_path(), tmp_path / "frame.npy", tmp_path / "out.npz"]
    subprocess.run([sys.executable, "-c", PLAIN_ONNXRUNTIME, *files], check=True)
    found = np.load(tmp_path / "out.npz")
    with torch.inference_mode():
        expected = FrameChain(tiny_chain, SMALL)(torch.from_numpy(frame_HW3)[None])
    for name, reference in zip(("mask", "depth"), expected, strict=True):
        assert found[name].dtype == np.float32
        assert found[name].shape == tuple(reference.shape)
        error = np.abs(found[name] - reference.numpy()).max()
        assert error <= tolerance * float(reference.max() - reference.min())


def test_the_manifest_says_what_was_exported(tiny_bundle_path):
    manifest = open_bundle(tiny_bundle_path).manifest
    assert manifest.verified
    assert manifest.resolutions == (Resolution(32, 32), Resolution(48, 64))
    assert [graph.file for graph in manifest.graphs] == ["model-32.onnx", "model.onnx"]
    assert all(graph.parity["mask"]["relative_error"] < 1e-4 for graph in manifest.graphs)
    assert set(manifest.files) == {path.name for path in tiny_bundle_path.iterdir()} - {
        "manifest.json"
    }
    with np.load(tiny_bundle_path / "reference.npz") as reference:
        assert sum(name.startswith("frame/") for name in reference.files) >= 8


def test_two_resolutions_share_their_weights_on_disk(tiny_chain, tmp_path):
    class Wide(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Conv2d(3, 64, 5, padding=2)
            self.outer = torch.nn.Conv2d(64, 1, 5, padding=2)

        def forward(self, image_B3HW):
            return torch.sigmoid(self.outer(self.inner(image_B3HW)))

    torch.manual_seed(0)
    wide = MaskDepthChain(Wide(), tiny_chain.depth).eval()
    bundle = export_chain(wide, tmp_path / "b", resolution=[SMALL, Resolution(64, 64)])
    weights_bytes = 4 * (3 * 64 * 25 + 64 * 25)
    stored = (bundle.path / "weights.bin").stat().st_size
    assert weights_bytes <= stored < 1.5 * weights_bytes + 4096
    assert verify_bundle(bundle)


def test_fp16_keeps_what_would_overflow_in_fp32(tmp_path):
    chain = MaskDepthChain(tiny_networks.overflowing_mask(), tiny_networks.TinyDepth()).eval()
    bundle = export_chain(chain, tmp_path / "b", resolution=SMALL, precision="fp16")
    assert any("mask" in name for name in bundle.manifest.fp32_nodes)
    assert not any("depth" in name for name in bundle.manifest.fp32_nodes)
    assert verify_bundle(bundle)


def test_an_fp16_graph_computes_its_networks_in_fp16(tiny_chain, trace, tmp_path):
    bundle = export_chain(
        tiny_chain, tmp_path / "b", resolution=SMALL, precision="fp16", trace=trace
    )
    graph = onnx.load(bundle.model_path()).graph
    types = {item.name: item.data_type for item in graph.initializer}
    weights = [types[node.input[1]] for node in graph.node if node.op_type == "Conv"]
    assert set(weights) == {onnx.TensorProto.FLOAT16}
    assert {output.type.tensor_type.elem_type for output in graph.output} == {
        onnx.TensorProto.FLOAT
    }


def test_dynamic_batch_and_resolution(tiny_chain, tmp_path):
    bundle = export_chain(
        tiny_chain,
        tmp_path / "b",
        resolution=Resolution(64, 96),
        input="image",
        dynamic_batch=True,
        dynamic_resolution=True,
    )
    import onnxruntime

    session = onnxruntime.InferenceSession(bundle.model_path(), providers=["CPUExecutionProvider"])
    image_B3HW = np.random.default_rng(0).standard_normal((3, 3, 128, 64), np.float32)
    mask, depth = session.run(["mask", "depth"], {"image": image_B3HW})
    with torch.inference_mode():
        mask_B1HW, depth_B1HW = tiny_chain(torch.from_numpy(image_B3HW))
    np.testing.assert_allclose(mask, mask_B1HW.numpy(), atol=1e-5)
    np.testing.assert_allclose(depth, depth_B1HW.numpy(), atol=1e-5)


def test_nodes_carry_their_stage_and_no_local_path(tiny_chain):
    model = to_onnx(tiny_chain, SMALL)
    stages = {node.metadata_props[STAGE_KEY] for node in model.graph}
    assert stages == {"preprocess", "mask", "depth", "chain"}
    names = [node.name for node in model.graph]
    assert len(set(names)) == len(names)
    texts = [str(dict(node.metadata_props)) for node in model.graph]
    assert not any(".py" in text or "/" in text for text in texts)


def test_one_trace_serves_both_precisions_and_stays_as_it_is(tiny_chain, trace, tmp_path):
    sizes = [SMALL, Resolution(48, 64)]
    models = []
    for number, precision in enumerate(("fp32", "fp16", "fp32")):
        out = tmp_path / str(number)
        export_chain(tiny_chain, out, resolution=sizes, precision=precision, trace=trace)
        assert verify_bundle(open_bundle(out))
        models.append((out / "model.onnx").read_bytes())
    assert models[0] == models[2] != models[1]


def test_a_preset_with_untrained_weights_runs_on_pytorch_too(dmx, tmp_path, frame_HW3):
    done = dmx(
        "export", "--preset", "lite", "--init", 0, "--resolution", 32, "--json", timeout_s=300
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["path"] == "lite-32-fp32"
    assert result["weights"] == {"init_seed": 0}
    bundle = open_bundle(tmp_path / result["path"])
    assert verify_bundle(bundle)
    with Pipeline.open(bundle.path, "torch") as a, Pipeline.open(bundle.path) as b:
        np.testing.assert_allclose(a(frame_HW3).mask_HW, b(frame_HW3).mask_HW, atol=1e-4)


def test_your_own_networks(dmx_inside, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    networks = ("--mask", "tiny_networks:TinyMask", "--depth", "tiny_networks:TinyDepth")
    code, _, err = dmx_inside("export", *networks)
    assert code == 0, err
    bundle = open_bundle(tmp_path / "custom-224-fp32")
    assert bundle.manifest.chain.mask.network == "tiny_networks:TinyMask"


@pytest.mark.parametrize(
    ("factory", "exit_code", "said"),
    [
        ("tiny_networks:wrong_shape", 2, "must give (2,1,h,w)"),
        ("tiny_networks:raising", 2, "RuntimeError: no weights here"),
        ("tiny_networks:not_a_network", 2, "must return a torch.nn.Module, but got str"),
        ("tiny_networks:missing", 3, "cannot be imported"),
        ("no_such_module:mask", 3, "cannot be imported"),
    ],
)
def test_a_bad_factory(dmx_inside, tmp_path, factory, exit_code, said):
    options = ("--mask", factory, "--depth", "tiny_networks:TinyDepth", "--out", tmp_path / "b")
    code, _, err = dmx_inside("export", *options)
    assert (code, said in err) == (exit_code, True), err
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_disagrees_is_not_written(tiny_chain, trace, tmp_path):
    def broken(*arguments, **options):
        model = trace(*arguments, **options).clone()
        bias = next(v for name, v in model.graph.initializers.items() if "depth.second.b" in name)
        bias.const_value = ir.tensor(bias.const_value.numpy() + 1, name=bias.name)
        return model

    with pytest.raises(CheckFailedError, match="at 32 the depth differs from PyTorch"):
        export_chain(tiny_chain, tmp_path / "b", resolution=SMALL, trace=broken)
    assert list(tmp_path.iterdir()) == []
    kept = export_chain(tiny_chain, tmp_path / "b", resolution=SMALL, force=True, trace=broken)
    assert not kept.manifest.verified
    assert not verify_bundle(kept)


def test_weights_that_are_not_finite_are_named(tmp_path):
    chain = MaskDepthChain(tiny_networks.TinyMask(), tiny_networks.TinyDepth()).eval()
    with torch.no_grad():
        chain.mask.first.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match=r"mask\.first\.weight holds NaN"):
        export_chain(chain, tmp_path / "b", resolution=SMALL)


def test_an_output_that_exists_is_refused_before_any_work(tiny_chain, trace, tmp_path):
    out = tmp_path / "b"
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    with pytest.raises(UsageError, match=r"must not exist yet"):
        export_chain(tiny_chain, out, resolution=SMALL)
    with pytest.raises(UsageError, match=r"it holds 'mine.txt'"):
        export_chain(tiny_chain, out, resolution=SMALL, overwrite=True)
    assert (out / "mine.txt").read_text() == "kept"
    (out / "mine.txt").rename(out / "manifest.json")  # now it looks like a bundle
    replaced = export_chain(tiny_chain, out, resolution=SMALL, overwrite=True, trace=trace)
    assert replaced.manifest.verified


def test_a_place_that_cannot_be_written(tiny_chain, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match="cannot be written"):
        export_chain(tiny_chain, tmp_path / "file" / "b", resolution=SMALL)


def test_a_chain_in_training_mode_is_exported_as_it_is(tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 1, 1), torch.nn.BatchNorm2d(1))
    chain = MaskDepthChain(tiny_networks.TinyMask(), network).train()
    export_chain(chain, tmp_path / "b", resolution=SMALL)
    assert network[1].num_batches_tracked == 0


def test_a_mask_of_logits_is_refused(tmp_path):
    chain = MaskDepthChain(tiny_networks.TinyDepth(), tiny_networks.TinyDepth()).eval()
    with pytest.raises(UsageError, match=r"--mask-activation sigmoid"):
        export_chain(chain, tmp_path / "b", resolution=SMALL)


def test_verification_on_torch_would_check_nothing(tiny_bundle_path):
    with pytest.raises(UsageError, match="a runtime that executes its graphs"):
        verify_bundle(open_bundle(tiny_bundle_path), runtime="torch")


def test_a_frame_graph_has_one_resolution(tiny_chain, tmp_path):
    with pytest.raises(UsageError, match="--input image"):
        export_chain(tiny_chain, tmp_path / "b", resolution=SMALL, dynamic_resolution=True)


def test_ctrl_c_leaves_the_old_bundle(tmp_path):
    out = tmp_path / "b"
    out.mkdir()
    (out / "manifest.json").write_text("old")
    process = subprocess.Popen(
        [sys.executable, "-c", DMX, "export", "--init", "0", "--out", str(out), "--overwrite"],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and "tracing" not in _status(process):
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stderr.strip().splitlines()[-1] == "error: interrupted"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert (out / "manifest.json").read_text() == "old"


def _status(process: subprocess.Popen[str]) -> str:
    """Whether the export is well under way: torch is loaded once the process has grown."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    resident_kb = int(status.split("VmRSS:")[1].split()[0])
    return "tracing" if resident_kb > 400_000 else "starting"


def test_presets_build_and_predict_at_odd_sizes():
    for name in ("lite",):
        mask, depth = chains.build(name, seed=0)(torch.zeros(1, 3, 33, 47))
        assert mask.shape == (1, 1, 33, 47)
        assert depth.shape[:2] == (1, 1)


def test_limits_are_chosen_recorded_shown_and_kept(tiny_chain, tmp_path, frame_HW3, dmx_inside):
    limits = Limits.of(largest_batch=3, smallest=Resolution(64, 64), largest=Resolution(128, 160))
    bundle = export_chain(
        tiny_chain,
        tmp_path / "b",
        resolution=Resolution(64, 96),
        input="image",
        dynamic_batch=True,
        dynamic_resolution=True,
        limits=limits,
    )
    assert open_bundle(bundle.path).manifest.limits == limits
    _, out, _ = dmx_inside("inspect", bundle.path)
    assert "batches of up to 3 and resolutions of 64 to 128x160 in steps of 32" in out
    with Pipeline.open(bundle.path, resolution=Resolution(128, 160)) as pipeline:
        found = pipeline.run_batch([frame_HW3] * 3)
        with pytest.raises(UsageError, match=r"of 3 frames at most.*--largest-batch 4"):
            pipeline.run_batch([frame_HW3] * 4)
    with torch.inference_mode():
        normalisation = Normalisation(tiny_chain.spec.mean, tiny_chain.spec.std)
        image = to_network(frame_HW3[None], Resolution(128, 160), normalisation)
        mask_11HW, _ = tiny_chain(torch.from_numpy(image))
    expected = to_frame(mask_11HW.numpy()[0, 0], *frame_HW3.shape[:2])
    np.testing.assert_allclose(found[2].mask_HW, expected, atol=1e-5)
    for refused in ("160", "128x100", "32"):
        code, _, err = dmx_inside("bench", bundle.path, "--resolution", refused)
        assert (code, "exported for, 64 to 128x160" in err, err.count("\n")) == (2, True, 1), err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--largest-batch", "4"), "--largest-batch is of --dynamic-batch"),
        (("--smallest", "64"), "--smallest is of --dynamic-resolution"),
        (("--dynamic-resolution", "--largest", "100"), "in steps of 32, but got 100"),
        (("--dynamic-resolution", "--smallest", "128", "--largest", "96"), "within the largest"),
    ],
)
def test_limits_that_cannot_be(dmx_inside, options, said):
    code, _, err = dmx_inside("export", "--input", "image", *options)
    assert (code, said in err, err.count("\n")) == (2, True, 1), err


@pytest.mark.parametrize(
    ("factory", "what", "code"),
    [
        ("SingularValues", "ONNX has no operator for _linalg_svd", "torch.linalg.svdvals(mask)"),
        ("Branching", "data-dependent", "if mask.mean() > 0.5:"),
    ],
)
def test_what_cannot_be_traced_is_said_with_the_line_of_the_users_code(
    dmx_inside, tmp_path, factory, what, code
):
    options = ("--mask", f"tiny_networks:{factory}", "--depth", "tiny_networks:TinyDepth")
    exit_code, out, err = dmx_inside(
        "export", *options, "--init", 0, "--resolution", 32, "--out", tmp_path / "b"
    )
    assert (exit_code, out) == (2, "")
    (line,) = err.splitlines()
    lines = Path(tiny_networks.__file__).read_text().splitlines()
    (number,) = [n for n, text in enumerate(lines, 1) if code in text]
    assert what in line
    assert f"at {tiny_networks.__file__}:{number} (" in line
    assert code in line
