"""What is fuzzed: each parser with small good files to start from, and the function that reads one."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import struct
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

Feed = Callable[[bytes], None]


@dataclass(frozen=True)
class Target:
    """A parser; `native` where code that is not Python's reads the file."""

    make_seeds: Callable[[], list[bytes]]
    prepare: Callable[[Path], Feed]
    native: bool = False


def seeds(name: str) -> list[bytes]:
    """Good files, which the parser reads."""
    return TARGETS[name].make_seeds()


# A small bundle, made without torch


@cache
def _model() -> bytes:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
        for name, shape in {"w1": (4, 3, 3, 3), "w2": (1, 4, 1, 1), "w3": (1, 3, 3, 3)}.items()
    ]
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["hidden"], pads=[1] * 4),
        helper.make_node("Relu", ["hidden"], ["positive"]),
        helper.make_node("Conv", ["positive", "w2"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["mask"]),
        helper.make_node("Mul", ["image", "mask"], ["masked"]),
        helper.make_node("Conv", ["masked", "w3"], ["depth"], pads=[1] * 4),
    ]
    maps = [(1, 3, 32, 32), (1, 1, 32, 32), (1, 1, 32, 32)]
    image, mask, depth = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in zip(("image", "mask", "depth"), maps, strict=True)
    )
    graph = helper.make_graph(nodes, "chain", [image], [mask, depth], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _network() -> bytes:
    """Somebody's network, with one image and one map."""
    import onnx

    model = onnx.load_from_string(_model())
    del model.graph.output[1]
    return model.SerializeToString()


@cache
def _reference() -> bytes:
    from depthmask.export.reference import Reference
    from depthmask.frames import Resolution

    map_HW = np.zeros((32, 32), np.float32)
    content = io.BytesIO()
    reference = Reference(
        (np.zeros((8, 9, 3), np.uint8),), {Resolution(32, 32): ((map_HW, map_HW + 1),)}
    )
    reference.save(content)
    return content.getvalue()


def make_bundle(folder: Path) -> Path:
    """A bundle of one small graph."""
    import hostile

    from depthmask.bundle import SHIPPED_BUNDLE

    (bundle := folder / "bundle").mkdir()
    body = hostile.read_manifest(SHIPPED_BUNDLE)
    graph = body["graphs"][0] | {"file": "model.onnx", "height": 32, "width": 32}
    graph["rewrites"] = graph.get("rewrites", [])[:1]
    (bundle / "model.onnx").write_bytes(_model())
    (bundle / "reference.npz").write_bytes(_reference())
    files = dict.fromkeys(("model.onnx", "reference.npz"))
    body |= {"graphs": [graph], "input": "image", "dynamic_batch": False, "files": files}
    body["dynamic_resolution"] = False
    body["accuracy"] = {}
    hostile.seal(bundle, body)
    return bundle


def _manifests() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        document = (make_bundle(Path(folder)) / "manifest.json").read_bytes()
    return [document, json.dumps(json.loads(document)).encode()]


def _by_file(path: Path, read: Callable[[Path], object]) -> Feed:
    """For what reads a file: the content is written there first."""

    def feed(content: bytes) -> None:
        path.write_bytes(content)
        read(path)

    return feed


def _feed_manifest(folder: Path) -> Feed:
    """As it is, or with right digests, so that what is wrong in it gets further."""
    import hostile

    from depthmask.cli import dmx

    bundle = make_bundle(folder)

    def feed(content: bytes) -> None:
        (bundle / "manifest.json").write_bytes(content)
        if zlib.crc32(content) % 4:
            try:
                body = json.loads(content)
            except (ValueError, RecursionError):
                body = None
            if isinstance(body, dict):
                # What msgspec cannot write stays as it was.
                with suppress(ValueError, OverflowError, TypeError):
                    hostile.seal(bundle, body, files=False)
        dmx.main(["inspect", str(bundle)], standalone_mode=False)
        dmx.main(["inspect", str(bundle), "--json"], standalone_mode=False)

    return feed


def _feed_reference(folder: Path) -> Feed:
    from depthmask.export.reference import Reference
    from depthmask.frames import Resolution

    path = folder / "reference.npz"

    def feed(content: bytes) -> None:
        path.write_bytes(content)
        Reference.load(path, [Resolution(32, 32)])

    return feed


def _feed_scan(folder: Path) -> Feed:
    from depthmask.onnx_scan import check_graph

    path = folder / "model.onnx"

    def feed(content: bytes) -> None:
        path.write_bytes(content)
        with path.open("rb") as file:
            check_graph(file, folder, "model.onnx", {"model.onnx": len(content)})

    return feed


# Bundles and networks on runtimes


def _feed_runtime(name: str) -> Callable[[Path], Feed]:
    def prepare(folder: Path) -> Feed:
        import hostile

        from depthmask import Pipeline

        bundle = make_bundle(folder)
        frame_HW3 = np.zeros((20, 30, 3), np.uint8)

        def feed(content: bytes) -> None:
            (bundle / "model.onnx").write_bytes(content)
            hostile.seal(bundle)
            with Pipeline.open(bundle, name, "cpu", threads=1) as pipeline:
                pipeline(frame_HW3)

        return feed

    return prepare


def _feed_network(folder: Path) -> Feed:
    from depthmask.export.onnx_stage import OnnxStage

    path = folder / "network.onnx"

    def feed(content: bytes) -> None:
        path.write_bytes(content)
        OnnxStage(path, "depth", "nchw").graph(18)

    return feed


# Weights


def _state() -> dict[str, object]:
    import torch

    return {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([1.0, 2.0])}


def _pth_files() -> list[bytes]:
    import torch

    found = []
    for zipped in (True, False):
        for stored in (_state(), {"state_dict": _state(), "epoch": 3}):
            content = io.BytesIO()
            torch.save(stored, content, _use_new_zipfile_serialization=zipped)
            found.append(content.getvalue())
    return found


def _feed_pth(folder: Path) -> Feed:
    from depthmask.import_pth import read_pth

    return _by_file(folder / "weights.pth", read_pth)


def _lite_checkpoint() -> Path:
    from depthmask.presets import shipped_checkpoint

    folder = shipped_checkpoint("lite")
    assert folder is not None
    return folder


def _safetensors() -> list[bytes]:
    from safetensors.torch import save

    return [save(_state()), save({**_state(), "half": _state()["bias"].half()})]  # type: ignore


def _feed_safetensors(folder: Path) -> Feed:
    """Of a checkpoint whose description has the right sha256."""
    from depthmask import chain, checkpoint
    from depthmask.errors import InputError

    lite = chain.build("lite")
    checkpoint.build = lambda spec: lite  # once: making one takes longer than reading its weights
    document = json.loads((_lite_checkpoint() / "checkpoint.json").read_bytes())

    def feed(content: bytes) -> None:
        document["weights_sha256"] = hashlib.sha256(content).hexdigest()
        (folder / "weights.safetensors").write_bytes(content)
        (folder / "checkpoint.json").write_text(json.dumps(document))
        try:
            checkpoint.load_checkpoint(folder)
        except InputError as error:
            if "must hold the weights of" not in str(error):  # other keys are what the seeds have
                raise

    return feed


def _feed_checkpoint_json(folder: Path) -> Feed:
    from depthmask.checkpoint import read_info

    def feed(content: bytes) -> None:
        (folder / "checkpoint.json").write_bytes(content)
        read_info(folder)

    return feed


def _programs() -> list[bytes]:
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 1, 3, padding=1)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(self.conv(image))

    content = io.BytesIO()
    torch.export.save(torch.export.export(Net(), (torch.zeros(1, 3, 32, 32),)), content)
    return [content.getvalue()]


def _feed_program(folder: Path) -> Feed:
    from depthmask.export.from_pt2 import read_program

    return _by_file(folder / "network.pt2", read_program)


# Images and videos


def _images() -> list[bytes]:
    from PIL import Image

    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    saved = [
        (rgb, "PNG", {"exif": exif}),
        (rgb.convert("RGBA"), "PNG", {}),
        (rgb.quantize(16), "PNG", {"transparency": 1}),
        (rgb, "JPEG", {"exif": exif}),
        (rgb, "JPEG", {"progressive": True}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (rgb, "WEBP", {}),
        (rgb.convert("RGBA"), "WEBP", {"lossless": True, "exif": exif}),
        (rgb, "BMP", {}),
        (rgb.convert("1"), "BMP", {}),
        (rgb, "TIFF", {}),
        (rgb.convert("RGBA"), "TIFF", {"compression": "tiff_lzw"}),
        (rgb, "TIFF", {"compression": "tiff_adobe_deflate"}),
    ]
    found = []
    for image, kind, options in saved:
        content = io.BytesIO()
        image.save(content, kind, **options)
        found.append(content.getvalue())
    return found


def _feed_image(folder: Path) -> Feed:
    from depthmask.frames import read_image, read_rgba

    path = folder / "photo.png"

    def feed(content: bytes) -> None:
        path.write_bytes(content)
        read_image(path)
        read_rgba(path)

    return feed


def _feed_image_header(folder: Path) -> Feed:
    from depthmask.image_size import size_px
    from depthmask.orientation import exif_orientation

    def feed(content: bytes) -> None:
        size_px(content)
        if not 1 <= exif_orientation(content) <= 8:
            raise AssertionError("orientation")

    return feed


def _videos() -> list[bytes]:
    import av

    found = []
    for suffix, codec in (
        (".mp4", "mpeg4"),
        (".mkv", "mpeg4"),
        (".avi", "mjpeg"),
        (".mp4", "libx264"),
    ):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"clip{suffix}"
            with av.open(str(path), "w") as container:
                stream = container.add_stream(codec, rate=10)
                stream.width, stream.height = 64, 48
                stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
                for value in range(4):
                    picture = av.VideoFrame.from_ndarray(
                        np.full((48, 64, 3), 60 * value, np.uint8), format="rgb24"
                    )
                    container.mux(stream.encode(picture))
                container.mux(stream.encode())
            found.append(path.read_bytes())
    return found


def _feed_video(folder: Path) -> Feed:
    from itertools import islice

    from depthmask.video.sources import open_source

    path = folder / "clip.mp4"

    def feed(content: bytes) -> None:
        path.write_bytes(content)
        with open_source(str(path)) as source:
            for frame in islice(source, 20):
                frame.image_HW3.sum()

    return feed


# Documents, data sets, material


def _configs() -> list[bytes]:
    from importlib import resources

    folder = Path(str(resources.files("depthmask.configs")))
    return [path.read_bytes() for path in sorted(folder.glob("*.yaml"))]


def _feed_config(folder: Path) -> Feed:
    from depthmask.train.config import read_config
    from depthmask.train.documents import read_recipe

    path = folder / "config.yaml"

    def feed(content: bytes) -> None:
        path.write_bytes(content)
        try:
            read_config(path)
        finally:
            read_recipe(path)

    return feed


def _data_sets() -> list[bytes]:
    document = {"schema": 1, "count": 1, "depth_scale_m": 0.001, "depth_unit": "m", "recipe": {}}
    return [json.dumps(document).encode(), b'{"schema": 1, "count": 1}']


def _feed_data_set(folder: Path) -> Feed:
    from depthmask.samples import SHIPPED_SAMPLES, open_samples

    shutil.copy(next(SHIPPED_SAMPLES.rglob("*.jpg")), folder / "a.jpg")

    def feed(content: bytes) -> None:
        (folder / "dataset.json").write_bytes(content)
        samples = open_samples(folder)
        samples.check()
        _ = samples[0]

    return feed


def _shards() -> list[bytes]:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        png = _images()[0]
        for name in ("a.png", "a.mask.png", "b.png"):
            member = tarfile.TarInfo(name)
            member.size = len(png)
            archive.addfile(member, io.BytesIO(png))
    return [content.getvalue()]


def _feed_shard(folder: Path) -> Feed:
    from depthmask.samples import open_samples

    path = folder / "shard-00000.tar"

    def feed(content: bytes) -> None:
        path.write_bytes(content)
        samples = open_samples(folder)
        samples.check()
        for index in range(min(len(samples), 3)):
            samples.image(index)

    return feed


def _rcc() -> list[bytes]:
    """One folder with one file (Qt's format 1)."""
    names = b"".join(
        struct.pack(">HI", len(name), 0) + name.encode("utf-16-be") for name in ("folder", "a.webp")
    )
    payload = zlib.compress(b"picture" * 20)
    data = struct.pack(">I", len(payload) + 4) + struct.pack(">I", 140) + payload
    rows = struct.pack(">IHII", 0, 2, 1, 1) + struct.pack(">IHII", 0, 2, 1, 2)
    rows += struct.pack(">IHHHI", 18, 1, 0, 0, 0)
    head = 20
    offsets = (head, head + len(rows) + len(names), head + len(rows))
    return [b"qres" + struct.pack(">4I", 1, *offsets) + rows + names + data]


def _feed_rcc(folder: Path) -> Feed:
    from depthmask.train.packages import read_rcc

    return _by_file(folder / "x.rcc", read_rcc)


def _bench_results() -> list[bytes]:
    import msgspec

    from depthmask.bench.machine import this_machine
    from depthmask.bench.result import BenchResult

    result = BenchResult(
        made_at="2026-01-01T00:00:00Z", machine=this_machine(), data="d", frame_sizes=("1x1",),
        decode_p50_ms=1.0, seconds_per_cell=1.0, rounds=1, rounds_done=1, seed=0, cells=(),
    )  # fmt: skip
    return [msgspec.json.encode(result)]


def _feed_bench_result(folder: Path) -> Feed:
    from depthmask.bench.result import read_result

    return _by_file(folder / "bench.json", read_result)


TARGETS = {
    "manifest": Target(_manifests, _feed_manifest),
    "onnx_scan": Target(lambda: [_model()], _feed_scan),
    "reference": Target(lambda: [_reference()], _feed_reference),
    "checkpoint_json": Target(
        lambda: [(_lite_checkpoint() / "checkpoint.json").read_bytes()], _feed_checkpoint_json
    ),
    "config": Target(_configs, _feed_config),
    "data_set": Target(_data_sets, _feed_data_set),
    "shard": Target(_shards, _feed_shard),
    "image_header": Target(_images, _feed_image_header),
    "rcc": Target(_rcc, _feed_rcc),
    "bench_result": Target(_bench_results, _feed_bench_result),
    "safetensors": Target(_safetensors, _feed_safetensors, native=True),
    "pth": Target(_pth_files, _feed_pth, native=True),
    "pt2": Target(_programs, _feed_program, native=True),
    "images": Target(_images, _feed_image, native=True),
    "videos": Target(_videos, _feed_video, native=True),
    "onnxruntime": Target(lambda: [_model()], _feed_runtime("onnxruntime"), native=True),
    "openvino": Target(lambda: [_model()], _feed_runtime("openvino"), native=True),
    "network": Target(lambda: [_network()], _feed_network, native=True),
}
