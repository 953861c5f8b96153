from __future__ import annotations

import json
import zlib

import numpy as np
import pytest

from depthmask.errors import InputError
from depthmask.frames import write_png
from depthmask.samples import LabelledSample, open_samples, shipped_photos

HEIGHT, WIDTH = 6, 8


def write_image(folder, name, height=HEIGHT, width=WIDTH):
    seed = sum(name.encode())
    image = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    write_png(folder / f"{name}.png", image)
    return image


def write_info(folder, **fields):
    (folder / "dataset.json").write_text(json.dumps({"schema": 1, **fields}), encoding="utf-8")


@pytest.fixture
def dataset(tmp_path):
    """Two labelled images and one photograph."""
    for name in ("b", "a", "photo"):
        write_image(tmp_path, name)
    mask_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask_HW[2:4] = 255
    depth_HW = np.full((HEIGHT, WIDTH), 1500, np.uint16)
    depth_HW[0] = 0
    for name in ("a", "b"):
        write_png(tmp_path / f"{name}.mask.png", mask_HW)
        write_png(tmp_path / f"{name}.depth.png", depth_HW)
    write_info(tmp_path, count=3, depth_scale_m=0.002, recipe={"seed": 3})
    return tmp_path


def test_samples_come_sorted_with_their_labels(dataset):
    samples = open_samples(dataset)
    assert [sample.name for sample in samples] == ["a", "b", "photo"]
    assert len(samples) == 3
    assert samples.labelled
    assert samples.name == dataset.name
    first = samples[0]
    np.testing.assert_array_equal(first.image_HW3, write_image(dataset, "a"))
    assert first.mask_HW.dtype == np.uint8
    assert first.mask_HW[2].tolist() == [255] * WIDTH
    assert first.depth_m_HW.dtype == np.float32
    np.testing.assert_allclose(first.depth_m_HW[1:], 3.0)
    assert np.isnan(first.depth_m_HW[0]).all()


def test_a_sample_may_lack_labels(dataset):
    last = open_samples(dataset)[-1]
    assert last.mask_HW is None
    assert last.depth_m_HW is None
    assert repr(last) == "LabelledSample(photo, 6x8, no labels)"


def test_a_folder_of_photographs_is_a_data_set_without_labels(tmp_path):
    write_image(tmp_path, "one")
    (tmp_path / "notes.txt").write_text("not an image", encoding="utf-8")
    samples = open_samples(str(tmp_path))
    assert len(samples) == 1
    assert not samples.labelled


def test_files_are_read_when_asked_for(tmp_path):
    write_image(tmp_path, "a")
    (tmp_path / "b.png").write_bytes(b"broken")
    samples = open_samples(tmp_path)
    assert samples[0].name == "a"
    with pytest.raises(InputError, match=r"b\.png"):
        samples[1]


def test_a_missing_folder_an_empty_one_and_a_file(tmp_path):
    with pytest.raises(InputError, match="but there is none"):
        open_samples(tmp_path / "absent")
    with pytest.raises(InputError, match="it holds none"):
        open_samples(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="it is a file"):
        open_samples(tmp_path / "file")


def test_labels_alone_are_not_images(tmp_path):
    write_png(tmp_path / "a.mask.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError, match="it holds none"):
        open_samples(tmp_path)


@pytest.mark.parametrize(
    ("suffix", "label", "message"),
    [
        ("mask", np.zeros((HEIGHT, WIDTH + 1), np.uint8), "size 6x8, but got 6x9"),
        ("depth", np.zeros((HEIGHT + 1, WIDTH), np.uint16), "size 6x8, but got 7x8"),
        ("depth", np.zeros((HEIGHT, WIDTH), np.uint8), "16 bit grey.* got 8 bit"),
        ("mask", np.zeros((HEIGHT, WIDTH), np.uint16), "8 bit grey.* got 16 bit"),
        ("mask", np.zeros((HEIGHT, WIDTH, 3), np.uint8), "3 channel"),
    ],
)
def test_labels_that_do_not_fit_are_refused(dataset, suffix, label, message):
    write_png(dataset / f"a.{suffix}.png", label)
    with pytest.raises(InputError, match=message):
        open_samples(dataset)[0]


def test_a_label_cut_short_is_refused(dataset):
    path = dataset / "a.mask.png"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="whole PNG"):
        open_samples(dataset)[0]


def test_a_label_with_an_oversized_header_is_refused(dataset):
    """OpenCV raises here, where it otherwise gives nothing."""
    path = dataset / "a.mask.png"
    content = bytearray(path.read_bytes())
    content[16:24] = (1 << 30).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.mask\.png"):
        open_samples(dataset)[0]


def test_depth_without_a_scale_is_refused(dataset):
    (dataset / "dataset.json").unlink()
    with pytest.raises(InputError, match="must have a scale"):
        open_samples(dataset)[0]


def test_fewer_images_than_promised_is_refused(dataset):
    write_info(dataset, count=4)
    assert len(open_samples(dataset, unfinished=True)) == 3
    with pytest.raises(InputError, match="4 images"):
        open_samples(dataset)


@pytest.mark.parametrize(
    "document",
    ["{", "[]", '{"schema": 2, "count": 3}', '{"schema": 1}', '{"count": 3, "depth_scale_m": 0}'],
)
def test_a_damaged_description_is_refused(dataset, document):
    (dataset / "dataset.json").write_text(document, encoding="utf-8")
    with pytest.raises(InputError, match=r"dataset\.json is damaged"):
        open_samples(dataset)


def test_two_images_of_one_name_are_refused(dataset):
    (dataset / "a.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="each name once"):
        open_samples(dataset)


def test_a_sample_checks_its_labels():
    with pytest.raises(InputError, match="mask of x"):
        LabelledSample("x", np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.uint8))


def test_photographs_are_shipped():
    photos = shipped_photos()
    assert len(photos) >= 8
    assert photos == sorted(photos)


def test_halves_are_in_order_disjoint_and_named(dataset):
    whole = open_samples(dataset)
    first, second = whole.halves()
    assert (len(first), len(second)) == (1, 2)
    assert [sample.name for half in (first, second) for sample in half] == [s.name for s in whole]
    assert (first.name, second.name) == (f"{whole.name}[0:1]", f"{whole.name}[1:3]")
    assert np.array_equal(second.image(0), whole.image(1))
    with pytest.raises(IndexError):
        first.image(1)
