from __future__ import annotations

import io
import json
import pickle
import tarfile

import cv2
import numpy as np
import pytest

from depthmask.errors import InputError
from depthmask.samples import open_samples

SIZE = (6, 8)


def encoded(suffix, image):
    return cv2.imencode(suffix, image)[1].tobytes()


def image_of(number):
    return np.random.default_rng(number).integers(0, 255, (*SIZE, 3), np.uint8)


def members_of(number, *, labelled=True):
    files = {"png": encoded(".png", image_of(number)[:, :, ::-1]), "json": b"{}"}
    if labelled:
        files["mask.png"] = encoded(".png", np.full(SIZE, number, np.uint8))
        files["depth.png"] = encoded(".png", np.full(SIZE, 100 * number, np.uint16))
    return {f"{number:06d}.{suffix}": content for suffix, content in files.items()}


def write_shard(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def folder(tmp_path):
    """Seven samples in shards of three."""
    for shard in range(3):
        numbers = range(3 * shard, min(3 * shard + 3, 7))
        members = {name: content for n in numbers for name, content in members_of(n).items()}
        write_shard(tmp_path / f"shard-{shard:06d}.tar", members)
    info = {"schema": 1, "count": 7, "depth_scale_m": 0.01, "shard_size": 3}
    (tmp_path / "dataset.json").write_text(json.dumps(info))
    return tmp_path


def test_samples_are_read_in_any_order(folder):
    samples = open_samples(folder)
    assert len(samples) == 7
    assert samples.labelled
    for number in (6, 0, 3, 2, 5):
        sample = samples[number]
        assert sample.name == f"{number:06d}"
        np.testing.assert_array_equal(sample.image_HW3, image_of(number))
        assert (sample.mask_HW == number).all()
        depth_m_HW = np.full(SIZE, number or np.nan, np.float32)
        np.testing.assert_allclose(sample.depth_m_HW, depth_m_HW)
    assert samples[-1].name == "000006"
    assert [sample.name for sample in samples] == [f"{number:06d}" for number in range(7)]
    with pytest.raises(IndexError):
        samples[7]


def test_samples_go_to_other_processes(folder):
    samples = open_samples(folder)
    assert samples[4].name == pickle.loads(pickle.dumps(samples))[4].name


def test_shards_of_another_maker_are_read_too(tmp_path):
    """Any names, other members, no dataset.json: photographs without labels."""
    write_shard(tmp_path / "b.tar", members_of(5, labelled=False) | {"notes.txt": b"x"})
    write_shard(tmp_path / "a.tar", members_of(2, labelled=False) | members_of(1, labelled=False))
    samples = open_samples(tmp_path)
    assert [sample.name for sample in samples] == ["000002", "000001", "000005"]
    assert not samples.labelled
    assert samples[0].mask_HW is None


def test_a_depth_without_a_scale_is_refused(tmp_path):
    write_shard(tmp_path / "a.tar", members_of(2))
    with pytest.raises(InputError, match=r"000002 in .*a\.tar must have a scale"):
        open_samples(tmp_path)[0]


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.8, 0.95, 1.0])
def test_a_shard_cut_short_is_found_when_it_is_read(folder, keep):
    path = folder / "shard-000001.tar"
    content = path.read_bytes()
    # Of what is there before the padding at a tar file's end.
    path.write_bytes(content[: int(keep * len(content.rstrip(b"\0")))])
    samples = open_samples(folder)
    assert samples[2].name == "000002"
    with pytest.raises(
        InputError, match=r"shard-000001\.tar must be a whole shard.*which makes it anew"
    ):
        samples[5]


def test_a_shard_that_is_cut_short_after_it_was_opened_is_found(folder):
    samples = open_samples(folder)
    assert samples[3].name == "000003"
    path = folder / "shard-000001.tar"
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(InputError, match="it is cut short"):
        samples[5]
    path.unlink()
    with pytest.raises(InputError, match="No such file"):
        samples[5]


def test_what_is_no_tar_file_is_refused(folder):
    (folder / "shard-000000.tar").write_bytes(b"\x01" * 2000)
    with pytest.raises(InputError, match="must be a whole shard"):
        open_samples(folder)[0]


def test_a_damaged_member_is_named_with_its_shard(folder):
    broken = members_of(6) | {"000006.png": b"broken"}
    write_shard(folder / "shard-000002.tar", broken)
    with pytest.raises(InputError, match=r"000006 in .*shard-000002\.tar"):
        open_samples(folder)[6]


def test_a_sample_without_an_image_is_refused(folder):
    members = members_of(6)
    del members["000006.png"]
    write_shard(folder / "shard-000002.tar", members)
    with pytest.raises(InputError, match="000006 has no image"):
        open_samples(folder)[6]


def test_a_missing_shard_is_said_when_opened(folder):
    (folder / "shard-000001.tar").unlink()
    assert [sample.name for sample in open_samples(folder, unfinished=True)][2:4] == [
        "000002",
        "000006",
    ]
    with pytest.raises(InputError, match=r"must hold the 7 images .* holds 4"):
        open_samples(folder)


def test_a_shard_too_many_is_refused(folder):
    write_shard(folder / "shard-000003.tar", members_of(9))
    with pytest.raises(InputError, match=r"shard-000003\.tar must be a shard that dataset\.json"):
        open_samples(folder)
