"""Triton's model repository, read by the schema that Triton itself reads it by."""

from __future__ import annotations

import shutil

import msgspec
import numpy as np
import onnxruntime
import pytest

from depthmask.bundle import REFERENCE_FILE, open_bundle, write_manifest
from depthmask.engine import EngineHeader, ShapeRange
from depthmask.errors import InputError, UsageError
from depthmask.export import export_chain
from depthmask.export.prototext import Enum, prototext
from depthmask.export.targets import rebuild
from depthmask.export.to_triton import RepositoryOptions
from depthmask.frames import Resolution

text_format = pytest.importorskip("google.protobuf.text_format")
model_config_pb2 = pytest.importorskip(
    "tritonclient.grpc.model_config_pb2", reason="needs tritonclient[grpc]"
)
SIZES = (Resolution(32, 32), Resolution(48, 64))
NUMPY_TYPES = {"TYPE_UINT8": "tensor(uint8)", "TYPE_FP32": "tensor(float)"}


def configs(bundle):
    parsed = {}
    for path in sorted((bundle.path / "triton").glob("*/config.pbtxt")):
        config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
        assert config.name == path.parent.name  # Triton refuses others
        assert (path.parent / "1" / config.default_model_filename).is_file()
        parsed[config.name] = config
    return parsed


@pytest.fixture(scope="module")
def served(tiny_chain, trace, tmp_path_factory):
    """A bundle of two resolutions with an open batch; read-only by agreement."""
    return export_chain(
        tiny_chain,
        tmp_path_factory.mktemp("triton") / "b",
        resolution=SIZES,
        dynamic_batch=True,
        target=RepositoryOptions(instances=2, threads=1, largest_batch=4),
        trace=trace,
    )


def test_the_configuration_is_the_graphs(served):
    found = configs(served)
    preset = served.manifest.chain.preset
    assert set(found) == {f"{preset}-32-fp32", f"{preset}-48x64-fp32"}
    for config in found.values():
        assert config.backend == "onnxruntime"
        assert config.max_batch_size == 4
        assert config.HasField("dynamic_batching")
        assert config.dynamic_batching.max_queue_delay_microseconds == 2000
        (group,) = config.instance_group
        assert (group.count, group.kind) == (2, group.KIND_CPU)
        assert config.parameters["intra_op_thread_count"].string_value == "1"


def test_tensors_and_warm_ups_fit_the_served_file(served):
    for name, config in configs(served).items():
        session = onnxruntime.InferenceSession(served.path / "triton" / name / "1" / "model.onnx")
        for told, tensors in (
            (config.input, session.get_inputs()),
            (config.output, session.get_outputs()),
        ):
            assert [tensor.name for tensor in told] == [tensor.name for tensor in tensors]
            for ours, theirs in zip(told, tensors, strict=True):
                kind = model_config_pb2.DataType.Name(ours.data_type)
                assert NUMPY_TYPES[kind] == theirs.type
                open_sides = [side if isinstance(side, int) else -1 for side in theirs.shape]
                assert [-1, *ours.dims] == open_sides
        assert [warm.batch_size for warm in config.model_warmup] == [1, 4]
        for warm in config.model_warmup:
            (sent,) = warm.inputs.values()
            frames = np.zeros((warm.batch_size, *sent.dims), np.uint8)
            mask, depth = session.run(None, {"frame": frames})
            assert mask.shape == (warm.batch_size, *config.output[0].dims)
            assert depth.shape == (warm.batch_size, *config.output[1].dims)


def test_what_is_served_computes_what_was_verified(served):
    # Each version's folder stands alone, with its own weights.
    bundle = open_bundle(served.path)
    with np.load(bundle.path / REFERENCE_FILE) as reference:
        assert reference.files
    for graph in bundle.manifest.graphs:
        name = f"{bundle.manifest.chain.preset}-{graph.resolution}-fp32"
        frame = np.random.default_rng(0).integers(0, 256, (1, 50, 70, 3), np.uint8)
        outputs = [
            onnxruntime.InferenceSession(path).run(None, {"frame": frame})
            for path in (bundle.path / graph.file, bundle.path / "triton" / name / "1/model.onnx")
        ]
        for ours, theirs in zip(*outputs, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_fixed_batch_is_not_batched(tiny_chain, trace, tmp_path):
    bundle = export_chain(
        tiny_chain, tmp_path / "b", resolution=SIZES[0], target=RepositoryOptions(), trace=trace
    )
    (config,) = configs(bundle).values()
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert list(config.input[0].dims) == [1, -1, -1, 3]
    (warm,) = config.model_warmup
    assert warm.batch_size == 1
    assert list(warm.inputs["frame"].dims) == [1, 480, 640, 3]


def test_an_image_input_warms_up_at_its_size(tiny_chain, trace, tmp_path):
    bundle = export_chain(
        tiny_chain,
        tmp_path / "b",
        resolution=SIZES[1],
        input="image",
        target=RepositoryOptions(),
        trace=trace,
    )
    (config,) = configs(bundle).values()
    (warm,) = config.model_warmup
    assert list(config.input[0].dims) == list(warm.inputs["image"].dims) == [1, 3, 48, 64]
    assert config.input[0].data_type == model_config_pb2.TYPE_FP32


def with_engine(bundle, flavour):
    """The same bundle with a file that stands for an engine of its larger graph."""
    (bundle.path / "model.engine").write_bytes(b"a plan")
    header = EngineHeader(
        file="model.engine",
        flavour=flavour,
        version="10.0",
        architectures=("sm89",),
        precision="fp32",
        graph="model.onnx",
        onnx={},
        inputs={"frame": ShapeRange((1, 1, 1, 3), (1, 240, 320, 3), (8, 1080, 1920, 3))},
        workspace_mib=None,
        builder_level=3,
        size_bytes=6,
        build_s=0.0,
    )
    from depthmask.bundle import record_files

    manifest = msgspec.structs.replace(
        bundle.manifest, engines=(header,), files=record_files(bundle.path)
    )
    write_manifest(bundle.path, manifest)


@pytest.fixture
def copied(served, tmp_path):
    return open_bundle(shutil.copytree(served.path, tmp_path / "b"))


def test_a_tensorrt_engine_is_served_beside_its_graph(copied):
    with_engine(copied, "tensorrt")
    found = configs(rebuild(copied.path, RepositoryOptions(device="gpu")))
    assert len(found) == 3
    (config,) = (config for name, config in found.items() if name.endswith("-48x64-fp32-tensorrt"))
    assert config.backend == "tensorrt"
    assert config.max_batch_size == 8
    assert [warm.batch_size for warm in config.model_warmup] == [1, 8]
    assert list(config.model_warmup[0].inputs["frame"].dims) == [240, 320, 3]
    plan = copied.path / "triton" / config.name / "1/model.plan"
    assert plan.read_bytes() == b"a plan"
    groups = [group for config in found.values() for group in config.instance_group]
    assert {group.kind for group in groups} == {model_config_pb2.ModelInstanceGroup.KIND_GPU}


def test_an_engine_that_triton_cannot_load_is_not_served(copied):
    with_engine(copied, "tensorrt-rtx")
    found = configs(rebuild(copied.path, RepositoryOptions()))
    assert {config.backend for config in found.values()} == {"onnxruntime"}


def test_bf16_is_refused_before_anything_is_written(copied):
    write_manifest(copied.path, msgspec.structs.replace(copied.manifest, precision="bf16"))
    before = sorted(copied.path.rglob("*"))
    with pytest.raises(UsageError, match="--fp16"):
        rebuild(copied.path, RepositoryOptions())
    assert sorted(copied.path.rglob("*")) == before


def test_what_is_no_bundle_gets_no_repository(tmp_path):
    with pytest.raises(InputError, match="must be a bundle"):
        rebuild(tmp_path, RepositoryOptions())


def test_the_command_adds_a_repository_and_names_its_models(dmx_inside, tiny_bundle_path, tmp_path):
    path = shutil.copytree(tiny_bundle_path, tmp_path / "b")
    code, out, _ = dmx_inside("export", "--rebuild", path, "--to", "triton", "--for", "gpu")
    assert code == 0
    found = configs(open_bundle(path))
    assert len(found) == 2
    assert all(name in out for name in found)
    assert {config.instance_group[0].kind for config in found.values()} == {
        model_config_pb2.ModelInstanceGroup.KIND_GPU
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--instances", 2), "--to triton"),
        (("--to", "triton", "--gpu", "sm89"), "--to tensorrt-rtx"),
        (("--to", "tensorrt-rtx", "--instances", 2), "--to triton"),
        (("--to", "triton", "--rebuild", "b", "--fp16"), "--rebuild"),
    ],
)
def test_options_of_another_target_are_refused(dmx_inside, options, said):
    code, _, error = dmx_inside("export", *options)
    assert code == 2
    assert said in error


def test_text_is_escaped_as_the_format_wants():
    text = prototext(
        {"name": 'a "b"\n\\é', "backend": "x", "instance_group": [{"kind": Enum("KIND_CPU")}]}
    )
    parsed = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert parsed.name == 'a "b"\n\\é'
    assert parsed.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_CPU
