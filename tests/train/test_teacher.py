"""Teachers on tiny networks: whatever the layout, the names and the sizes."""

from __future__ import annotations

import pickle

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from depthmask.errors import InputError, UnavailableError, UsageError
from depthmask.frames import Resolution
from depthmask.train import teacher_options
from depthmask.train.teacher import DepthTeacher, MaskTeacher, Teachers
from depthmask.train.teacher_options import TeacherOptions, parse_teacher

IMAGE = np.random.default_rng(0).integers(1, 255, (40, 60, 3), dtype=np.uint8)


def write(path, nodes, *, inputs=None, outputs=("map",), opset=13, constants=None):
    """A graph of `nodes`; `inputs` are (name, shape) or (name, shape, type)."""
    inputs = inputs or [("image", [1, 3, 32, 32])]
    values = [
        helper.make_tensor_value_info(entry[0], (*entry, TensorProto.FLOAT)[2], entry[1])
        for entry in inputs
    ]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    extra = [
        helper.make_tensor(name, TensorProto.FLOAT, np.shape(value), np.ravel(value))
        for name, value in (constants or {}).items()
    ]
    graph = helper.make_graph(nodes, "tiny", values, results, extra)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


def mean_over(axis, name="image", out="map"):
    return helper.make_node("ReduceMean", [name], [out], axes=[axis], keepdims=1)


def brightness(path, shape=(1, 3, 32, 32), axis=1, name="image", **options):
    """A network that gives the mean of the three channels."""
    return write(path, [mean_over(axis, name)], inputs=[(name, list(shape))], **options)


def expected(image=IMAGE, size=(32, 32)):
    import cv2

    shrinks = size[0] <= image.shape[1] and size[1] <= image.shape[0]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    small = cv2.resize(image, size, interpolation=method).mean(2).astype(np.float32) / 255
    return cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)


@pytest.mark.parametrize(
    ("shape", "axis", "name"),
    [
        ((1, 3, 32, 32), 1, "image"),
        ((1, 32, 32, 3), 3, "input.1"),
        (("batch", 3, 32, 32), 1, "0"),
        ((None, 32, 32, 3), 3, "serving_default_x:0"),
    ],
)
def test_layout_name_and_batch_are_found_in_the_graph(tmp_path, shape, axis, name):
    path = brightness(tmp_path / "m.onnx", shape, axis, name)
    depth = DepthTeacher.open(path)(IMAGE)
    assert depth.shape == (40, 60)
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, expected(), atol=2e-6)


@pytest.mark.parametrize(
    ("shape", "axis", "text", "size"),
    [
        ((1, 3, "h", "w"), 1, "m", (224, 224)),
        ((1, 3, "h", "w"), 1, "m,size=32x48", (48, 32)),
        ((1, "h", "w", "c"), 3, "m,size=32,layout=nhwc", (32, 32)),
        ((1, "c", "h", "w"), 1, "m,size=32", (32, 32)),
        ((1, 3, 32, "w"), 1, "m", (224, 32)),
    ],
)
def test_dynamic_sizes_take_an_option_or_the_default(tmp_path, shape, axis, text, size):
    path = brightness(tmp_path / "m.onnx", shape, axis)
    depth = DepthTeacher.open(path, parse_teacher(text)[1])(IMAGE)
    np.testing.assert_allclose(depth, expected(size=size), atol=2e-6)


def test_opset_7_float16_and_bytes_as_inputs(tmp_path):
    old = brightness(tmp_path / "old.onnx", opset=7)
    np.testing.assert_allclose(DepthTeacher.open(old)(IMAGE), expected(), atol=2e-6)
    for kind, tolerance in ((TensorProto.FLOAT16, 2e-3), (TensorProto.UINT8, 3e-3)):
        cast = helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT)
        scale = helper.make_node("Div", ["float", "full"], ["share"])
        path = write(
            tmp_path / "m.onnx",
            [cast, scale, mean_over(1, "share")],
            inputs=[("image", [1, 3, 32, 32], kind)],
            constants={"full": 255.0},
        )
        options = TeacherOptions(value_range=(0, 255))
        if kind == TensorProto.UINT8:
            with pytest.raises(UsageError, match="is bytes, but got range, mean or std"):
                DepthTeacher.open(path, options)
            options = None
            np.testing.assert_allclose(MaskTeacher.open(path)(IMAGE), expected(), atol=tolerance)
        np.testing.assert_allclose(
            DepthTeacher.open(path, options)(IMAGE), expected(), atol=tolerance
        )


def test_range_mean_and_std(tmp_path):
    path = brightness(tmp_path / "m.onnx")
    options = parse_teacher("m,range=0..255,mean=-1:-2:-3,std=2:2:2")[1]
    depth = DepthTeacher.open(path, options)(IMAGE)
    np.testing.assert_allclose(depth, (expected() * 255 + 2) / 2, rtol=1e-5)
    shifted = DepthTeacher.open(path, parse_teacher("m,range=1..3")[1])(IMAGE)
    np.testing.assert_allclose(shifted, 1 + 2 * expected(), rtol=1e-5)


def test_inverse_depth_becomes_depth(tmp_path):
    path = brightness(tmp_path / "m.onnx", (1, 3, 40, 64))
    wide = np.ascontiguousarray(np.pad(IMAGE, ((0, 0), (0, 4), (0, 0)), mode="edge"))
    inverse = DepthTeacher.open(path, TeacherOptions(inverse=True))(wide)
    np.testing.assert_allclose(inverse, 1 / DepthTeacher.open(path)(wide), rtol=1e-6)


def test_a_named_output_and_the_first_one(tmp_path):
    double = helper.make_node("Add", ["map", "map"], ["other"])
    path = write(tmp_path / "m.onnx", [mean_over(1), double], outputs=("map", "other"))
    first = DepthTeacher.open(path)
    other = DepthTeacher.open(path, TeacherOptions(output="other"))
    np.testing.assert_allclose(other(IMAGE), 2 * first(IMAGE), rtol=1e-6)
    assert other.digest != first.digest
    with pytest.raises(UsageError, match=r"must be one of map, other for .*'third'"):
        DepthTeacher.open(path, TeacherOptions(output="third"))


def test_few_zeros_are_missing_depth_and_many_are_an_error(tmp_path):
    path = brightness(tmp_path / "m.onnx")
    spotted = np.full((32, 32, 3), 200, np.uint8)
    spotted[:2] = 0
    depth = DepthTeacher.open(path)(spotted)
    assert np.isnan(depth[:2]).all()
    assert np.isfinite(depth[2:]).all()
    spotted[:8] = 0
    with pytest.raises(InputError, match=r"m\.onnx must be positive, but 25% are not"):
        DepthTeacher.open(path)(spotted)


def test_what_is_not_finite_is_an_error(tmp_path):
    log = helper.make_node("Log", ["grey"], ["map"])
    path = write(tmp_path / "m.onnx", [mean_over(1, out="grey"), log])
    with pytest.raises(InputError, match=r"'map' of .*m\.onnx must be finite, but is not"):
        DepthTeacher.open(path)(np.zeros((32, 32, 3), np.uint8))


def test_masks_are_normalised_as_imagenet_and_stay_within_0_and_1(tmp_path):
    path = brightness(tmp_path / "m.onnx")
    plain = parse_teacher("m,mean=0:0:0")[1]
    np.testing.assert_allclose(MaskTeacher.open(path, plain)(IMAGE), expected(), atol=2e-6)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    grey = np.full((32, 32, 3), 128, np.uint8)
    wanted = ((128 / 255 - mean) / std).mean()
    np.testing.assert_allclose(MaskTeacher.open(path)(grey), wanted, rtol=1e-4)
    with pytest.raises(InputError, match=r"masks of .*m\.onnx must be within 0 and 1, but go"):
        MaskTeacher.open(path)(np.full((32, 32, 3), 255, np.uint8))
    logits = MaskTeacher.open(path, TeacherOptions(sigmoid=True))
    np.testing.assert_allclose(logits(grey), 1 / (1 + np.exp(-wanted)), rtol=1e-4)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ([1, 1, 32, 32], "m", r"must be one RGB image, \[1,3,H,W\] or \[1,H,W,3\], but is \[1, 1,"),
        ([2, 3, 32, 32], "m", r"but is \[2, 3, 32, 32\]"),
        ([3, 32, 32], "m", r"but is \[3, 32, 32\]"),
        ([1, 3, 32, 32], "m,layout=nhwc", r"one RGB image, \[1,H,W,3\], but is"),
    ],
)
def test_other_inputs_are_an_error_that_names_them(tmp_path, shape, options, message):
    path = write(tmp_path / "m.onnx", [mean_over(1)], inputs=[("image", shape)])
    with pytest.raises(InputError, match=message):
        DepthTeacher.open(path, parse_teacher(options)[1])


def test_two_inputs_three_maps_and_integers_are_errors(tmp_path):
    add = helper.make_node("Add", ["image", "other"], ["map"])
    shape = [1, 3, 32, 32]
    two = write(tmp_path / "two.onnx", [add], inputs=[("image", shape), ("other", shape)])
    with pytest.raises(InputError, match=r"must have one input, .* has 2: 'image', 'other'"):
        DepthTeacher.open(two)
    three = write(tmp_path / "three.onnx", [helper.make_node("Relu", ["image"], ["map"])])
    with pytest.raises(InputError, match=r"must be one map of floats, but is .*\[1, 3, 32, 32\]"):
        DepthTeacher.open(three)(IMAGE)
    cast = helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT)
    nodes = [cast, mean_over(1, "float")]
    double = write(tmp_path / "d.onnx", nodes, inputs=[("image", shape, TensorProto.DOUBLE)])
    with pytest.raises(InputError, match=r"must be tensor\(float\), .*, but is tensor\(double\)"):
        DepthTeacher.open(double)


def test_missing_and_broken_files_are_one_line(tmp_path):
    with pytest.raises(InputError, match=r"none\.onnx must be an ONNX model, but: No such file"):
        DepthTeacher.open(tmp_path / "none.onnx")
    for content in (b"", b"nonsense", brightness(tmp_path / "m.onnx").read_bytes()[:-9]):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(InputError, match=r"bad\.onnx cannot be loaded") as caught:
            MaskTeacher.open(tmp_path / "bad.onnx")
        assert "\n" not in str(caught.value)


def test_options_that_contradict_the_graph_are_usage_errors(tmp_path):
    path = brightness(tmp_path / "m.onnx")
    for options, message in (
        (TeacherOptions(size=Resolution(64, 64)), "has the size 32, but got size=64"),
        (TeacherOptions(input="x"), "is 'image', but got input=x"),
        (TeacherOptions(sigmoid=True), "option of a mask teacher"),
    ):
        with pytest.raises(UsageError, match=message):
            DepthTeacher.open(path, options)
    with pytest.raises(UsageError, match="option of a depth teacher"):
        MaskTeacher.open(path, TeacherOptions(inverse=True))


def test_a_failing_run_names_the_model(tmp_path):
    reshape = helper.make_node("Reshape", ["grey", "shape"], ["map"])
    shape = helper.make_node(
        "Constant", [], ["shape"], value=helper.make_tensor("s", TensorProto.INT64, [2], [32, 32])
    )
    path = write(
        tmp_path / "m.onnx",
        [shape, mean_over(1, out="grey"), reshape],
        inputs=[("image", [1, 3, "h", "w"])],
    )
    assert DepthTeacher.open(path, parse_teacher("m,size=32")[1])(IMAGE).shape == (40, 60)
    with pytest.raises(InputError, match=r"m\.onnx cannot be run: ") as caught:
        DepthTeacher.open(path)(IMAGE)
    assert "\n" not in str(caught.value)


def test_a_pickled_teacher_is_the_same_teacher(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    brightness(tmp_path / "m.onnx")
    depth = DepthTeacher.open(teacher_options.Path("m.onnx"))
    mask = MaskTeacher.open(tmp_path / "m.onnx", parse_teacher("m,mean=0:0:0")[1])
    teachers = Teachers(depth, mask)
    monkeypatch.chdir("/")
    again = pickle.loads(pickle.dumps(teachers))
    assert again.digest == teachers.digest
    np.testing.assert_array_equal(again.depth(IMAGE), depth(IMAGE))
    np.testing.assert_array_equal(again.mask(IMAGE), mask(IMAGE))
    plain = MaskTeacher.open(tmp_path / "m.onnx")
    assert pickle.loads(pickle.dumps(plain)).digest == plain.digest != mask.digest
    assert len({Teachers().digest, Teachers(depth).digest, teachers.digest}) == 3


def test_the_digest_is_of_the_content(tmp_path):
    first = DepthTeacher.open(brightness(tmp_path / "a.onnx"))
    assert DepthTeacher.open(brightness(tmp_path / "b.onnx")).digest == first.digest
    assert DepthTeacher.open(brightness(tmp_path / "a.onnx", opset=12)).digest != first.digest


def test_without_onnxruntime_the_message_says_how_to_get_it(tmp_path, monkeypatch):
    path = brightness(tmp_path / "m.onnx")
    monkeypatch.setattr("depthmask.runtimes.is_installed", lambda name: False)
    with pytest.raises(UnavailableError, match=r"pip install 'depthmask\[cpu\]'"):
        DepthTeacher.open(path)


def test_the_command_lines_form():
    text = "teacher=a/b.onnx,input=x,layout=NHWC,size=192x256,range=-1..1,mean=0:0.5:1,std=1:2:3"
    path, options = parse_teacher(text + ",output=y,inverse,sigmoid")
    assert str(path) == "a/b.onnx"
    assert options == TeacherOptions(
        "x", "nhwc", Resolution(192, 256), (-1, 1), (0, 0.5, 1), (1, 2, 3), "y", True, True
    )
    for name in ("run=1/n.onnx", "colour=m.onnx", "./size=3/n.onnx", "="):
        for text in (f"{name},inverse", f"teacher={name},inverse"):
            assert parse_teacher(text) == (teacher_options.Path(name), TeacherOptions(inverse=True))
    assert parse_teacher("m.onnx") == (teacher_options.Path("m.onnx"), TeacherOptions())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"teacher=MODEL\.onnx.*but got ''. The keys are input, layout"),
        ("teacher=", "must be teacher=MODEL"),
        ("size=224", "must be teacher=MODEL"),
        ("teacher=size=224,m.onnx", "must be teacher=MODEL"),
        ("m,scale=2", "one of input, layout, size, .* but got 'scale'"),
        ("m,size=32,size=32", "once, but got size twice"),
        ("m,size=big", "a resolution must be H or HxW"),
        ("m,size", "size must have a value, such as size=224"),
        ("m,layout=chw", "must be nchw or nhwc, but got 'chw'"),
        ("m,range=0-1", r"must be LOW\.\.HIGH"),
        ("m,range=1..0", r"LOW below HIGH, but got 1\.\.0"),
        ("m,mean=1:2", "mean must be three numbers such as"),
        ("m,std=a:b:c", "std must be three numbers such as"),
        ("m,std=0:1:1", "std must be above 0"),
        ("m,inverse=yes", "inverse is a flag without a value"),
    ],
)
def test_the_command_lines_form_in_error(text, message):
    with pytest.raises(UsageError, match=message):
        parse_teacher(text)
