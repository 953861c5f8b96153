"""`dmx run --engine ray` on a real cluster: the same files as `dmx run` makes of the same sources."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile

import cv2
import numpy as np
import pytest

from depthmask.bundle import open_bundle
from depthmask.errors import InputError, OutputError
from depthmask.ray_engine import Done
from depthmask.storage import Storage
from depthmask.video import run_pieces as run_pieces_module
from depthmask.video.piece_work import PieceWork, first_readable, read_bundle
from depthmask.video.pieces import PHOTOS_PER_PIECE, plan
from depthmask.video.run_pieces import run_pieces

PHOTOS = PHOTOS_PER_PIECE + 5


def digests(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """More than a piece, one of them unreadable, the first among them."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    (folder / "00.jpg").write_bytes(b"no picture")
    for number in range(1, PHOTOS):
        cv2.imwrite(str(folder / f"{number:02}.jpg"), rng.integers(0, 255, (40, 60, 3), np.uint8))
    return folder


@pytest.fixture(scope="module")
def local(photos, tiny_bundle_path, tmp_path_factory):
    """What `dmx run` makes of them."""
    from depthmask.cli import main

    out = tmp_path_factory.mktemp("local") / "out"
    options = ("--source", photos, "--threads", 1, "--out", out)
    with pytest.raises(SystemExit) as caught:
        main(["run", *map(str, (tiny_bundle_path, *options))])
    assert caught.value.code == 3  # of the unreadable one
    return digests(out)


def on_ray(dmx_inside, bundle, out, *sources, options=()):
    given = [word for source in sources for word in ("--source", source)]
    return dmx_inside("run", bundle, *given, "--engine", "ray", "--out", out, *options)


def test_photographs_are_the_local_runs(
    ray_cluster, dmx_inside, tiny_bundle_path, photos, local, tmp_path
):
    code, _, error = on_ray(dmx_inside, tiny_bundle_path, tmp_path / "out", photos)
    assert code == 3
    assert f"1 of {PHOTOS} files could not be done" in error
    assert str(photos / "00.jpg") in error
    assert digests(tmp_path / "out") == local
    assert "depth.json" in local


def test_videos_are_the_local_runs(
    ray_cluster, dmx_inside, tiny_bundle_path, write_video, tmp_path
):
    (tmp_path / "clips").mkdir()
    for name, count in (("a", 12), ("b", 7)):
        video = write_video(tmp_path / "clips" / f"{name}.mp4", count)
        out = tmp_path / f"{name}.mp4"
        code, _, error = dmx_inside(
            "run", tiny_bundle_path, "--source", video, "--threads", 1, "--out", out
        )
        assert code == 0, error
    (tmp_path / "clips" / "broken.mp4").write_bytes(b"no video")
    out = tmp_path / "out"
    code, text, error = on_ray(
        dmx_inside, tiny_bundle_path, out, tmp_path / "clips", options=("--json",)
    )
    assert code == 3
    assert "broken.mp4" in error
    report = json.loads(text[text.index("{\n") :])
    assert (report["files"], report["frames"], report["complete"]) == (3, 19, False)
    assert sorted(path.name for path in out.iterdir()) == ["a.overlay.mp4", "b.overlay.mp4"]
    for name in ("a", "b"):
        ours = (out / f"{name}.overlay.mp4").read_bytes()
        assert ours == (tmp_path / f"{name}.mp4").read_bytes()


def test_a_store_for_both_ends(
    ray_cluster, s3_bucket, dmx_inside, tiny_bundle_path, photos, local, tmp_path
):
    source = Storage(f"s3://{s3_bucket}/photos")
    for path in sorted(photos.iterdir()):
        source.write(path.name, path.read_bytes())
    out = f"s3://{s3_bucket}/out"
    code, _, error = on_ray(dmx_inside, tiny_bundle_path, out, source.url)
    assert code == 3
    assert f"{source.url}/00.jpg" in error
    stored = Storage(out)
    found = {name: hashlib.sha256(stored.read(name)).hexdigest() for name in stored.names()}
    assert found == local
    code, _, error = on_ray(dmx_inside, tiny_bundle_path, out, source.url)
    assert code == 2
    assert "must be empty" in error


def test_a_bucket_without_permission_is_one_line(
    ray_cluster, s3_denied, dmx_inside, tiny_bundle_path, photos
):
    code, _, error = on_ray(
        dmx_inside, tiny_bundle_path, f"s3://{s3_denied}/out", photos / "01.jpg"
    )
    assert code == 6
    assert "Try other credentials" in error
    assert "Traceback" not in error


def test_a_runtime_that_workers_lack_is_one_line(
    ray_cluster, dmx_inside, tiny_bundle_path, photos, tmp_path
):
    options = ("--runtime", "tensorrt")
    code, _, error = on_ray(dmx_inside, tiny_bundle_path, tmp_path / "out", photos, options=options)
    assert code == 4
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--smooth-ms", 100), "--engine local"),
        (("--limit", 3), "--engine local"),
        (("--out", "clip.mp4"), "must be a folder"),
        (("--view", "nothing"), "--view must be"),
        (("--background", "#00ff00"), "--view cutout"),
        (("--source", "absent.jpg"), "does not exist"),
    ],
)
def test_what_a_cluster_cannot_do_is_refused(dmx_inside, photos, tmp_path, options, words):
    code, _, error = on_ray(
        dmx_inside, tmp_path / "bundle", tmp_path / "out", photos, options=options
    )
    assert code in (2, 3)
    assert words in error


def test_several_sources_need_ray(dmx_inside, photos, tmp_path):
    code, _, error = dmx_inside(
        "run", "--source", photos, "--source", photos, "--out", tmp_path / "o"
    )
    assert code == 2
    assert "--engine ray" in error


def test_an_output_that_is_not_empty_is_kept(dmx_inside, tiny_bundle_path, photos, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "holiday.jpg").write_bytes(b"somebody's")
    for options in ((), ("--overwrite",)):
        code, _, _ = on_ray(dmx_inside, tiny_bundle_path, out, photos, options=options)
        assert code == 2
    assert (out / "holiday.jpg").read_bytes() == b"somebody's"


def test_the_plan_holds_every_file_once(photos, tmp_path, write_video):
    video = write_video(tmp_path / "clip.mkv", 2)
    shutil.copy(photos / "01.jpg", tmp_path / "01.jpg")
    pieces = plan([str(video), str(photos), str(tmp_path / "*.jpg"), str(photos / "02.jpg")])
    assert [piece.kind for piece in pieces] == ["video", "photographs", "photographs"]
    files = [file for piece in pieces for file in piece.files]
    assert sorted(files) == sorted(map(str, [video, *photos.iterdir(), tmp_path / "01.jpg"]))
    names = [name for piece in pieces[1:] for name in piece.names]
    assert len(set(names)) == PHOTOS + 1
    assert f"{photos.name}_01" in names


def test_shards_are_their_photographs(ray_cluster, dmx_inside, tiny_bundle_path, photos, tmp_path):
    sets = tmp_path / "sets"
    sets.mkdir()
    loose = tmp_path / "loose"
    loose.mkdir()
    for number, names in enumerate((("01", "02"), ("03",))):
        with tarfile.open(sets / f"s{number}.tar", "w") as archive:
            for name in names:
                archive.add(photos / f"{name}.jpg", f"{name}.jpg")
                shutil.copy(photos / f"{name}.jpg", loose / f"s{number}_{name}.jpg")
    (sets / "s2.tar").write_bytes(b"no shard")
    code, _, error = on_ray(dmx_inside, tiny_bundle_path, tmp_path / "out", sets)
    assert code == 3
    assert "s2.tar" in error
    options = ("--source", loose, "--threads", 1, "--out", tmp_path / "local")
    assert dmx_inside("run", tiny_bundle_path, *options)[0] == 0
    assert digests(tmp_path / "out") == digests(tmp_path / "local")


def test_an_empty_folder_is_no_source(tmp_path):
    with pytest.raises(InputError, match="must hold images"):
        plan([str(tmp_path)])


def test_the_first_readable_photograph_gives_the_scale(photos):
    assert first_readable(plan([str(photos)])) == str(photos / "01.jpg")


def test_workers_that_disagree_about_the_scale_are_found_out(
    photos, tiny_bundle_path, tmp_path, monkeypatch
):
    bundle = open_bundle(tiny_bundle_path)
    pieces = plan([str(photos)])
    scales = iter((0.001, 0.01))

    def disagreeing(work, files, tasks, **_):
        make = work.open(files)
        for task in tasks:
            result = make(task)
            yield Done(task, type(result)(**{**vars(result), "depth_scale": next(scales)}))

    monkeypatch.setattr(run_pieces_module, "map_on_ray", disagreeing)
    work = PieceWork(
        runtime="onnxruntime",
        device="cpu",
        threads=1,
        resolution=None,
        views=("depth",),
        background=None,
        first_photo=str(photos / "01.jpg"),
    )
    with pytest.raises(OutputError, match="must be of one scale"):
        run_pieces(pieces, bundle, work, tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()


def test_a_bundle_travels_whole(tiny_bundle_path):
    bundle = open_bundle(tiny_bundle_path)
    assert set(read_bundle(bundle)) == {*bundle.manifest.files, "manifest.json"}


def test_nothing_readable_leaves_nothing(
    ray_cluster, dmx_inside, tiny_bundle_path, photos, tmp_path
):
    code, _, error = on_ray(dmx_inside, tiny_bundle_path, tmp_path / "out", photos / "00.jpg")
    assert code == 3
    assert "none of the 1 sources" in error
    assert not (tmp_path / "out").exists()
