"""Data sets composed by a real Ray cluster, into folders and into a real S3 server."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import threading
import time

import onnx
import pytest

from depthmask.errors import InputError, OutputError, UnavailableError, UsageError
from depthmask.storage import Storage
from depthmask.train.compose_to_store import compose_to_store
from depthmask.train.materialise import materialise
from depthmask.train.ray_blocks import ShardWork, make_on_ray
from depthmask.train.recipe import PhotoRecipe, StageRecipe
from depthmask.train.teacher import DepthTeacher, MaskTeacher, Teachers
from depthmask.train.teacher_options import parse_teacher

RECIPE = StageRecipe(seed=3, canvas_px=64)
COUNT, SHARD_SIZE = 11, 2
SHARDS = 6


def digests(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }


@pytest.fixture(scope="module")
def local(assets, tmp_path_factory):
    """What one process makes."""
    out = tmp_path_factory.mktemp("local") / "data"
    materialise(RECIPE, assets, out, COUNT, shard_size=SHARD_SIZE)
    return digests(out)


def on_ray(assets, out, *, workers=2, make=make_on_ray, **options):
    return materialise(
        RECIPE,
        assets,
        out,
        COUNT,
        shard_size=SHARD_SIZE,
        workers=workers,
        on_ray=make,
        **options,
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_the_bytes_are_one_processs(ray_cluster, assets, local, tmp_path, workers):
    ticks = []
    result = on_ray(
        assets,
        tmp_path / "data",
        workers=workers,
        progress=lambda done, total: ticks.append((done, total)),
    )
    assert digests(tmp_path / "data") == local
    assert (result.count, result.made) == (COUNT, COUNT)
    assert ticks == [(done, COUNT) for done in range(COUNT + 1)]


def test_finished_shards_are_not_made_again(ray_cluster, assets, local, tmp_path):
    out = tmp_path / "data"
    on_ray(assets, out)
    (out / "shard-000001.tar").unlink()
    (out / "shard-000003.tar").write_bytes(b"cut short")
    kept = (out / "shard-000000.tar").stat()
    result = on_ray(assets, out)
    assert result.made == 2 * SHARD_SIZE
    assert digests(out) == local
    assert (out / "shard-000000.tar").stat().st_ino == kept.st_ino


class FailingWork(ShardWork):
    """Cannot make shard 2."""

    def _make(self, assets, block):
        if block == 2:
            raise InputError("cut-out.png cannot be read")
        return super()._make(assets, block)


def failing(work, assets, numbers, workers):
    """As `make_on_ray`, in this process: what a worker gives is the same."""
    from depthmask.ray_engine import Done

    bad = FailingWork(work.blocks, work.teachers_sha256, work.storage)
    make = bad.open(assets)
    for number in numbers:
        try:
            yield Done(number, make(number))
        except InputError as error:
            yield Done(number, None, error)


def test_a_shard_that_fails_is_named_and_the_others_are_made(assets, local, tmp_path):
    out = tmp_path / "data"
    with pytest.raises(InputError, match=r"1 of 6 were not; the first, shard-000002\.tar: cut-out"):
        on_ray(assets, out, make=failing)
    expected = {name: digest for name, digest in local.items() if name != "shard-000002.tar"}
    assert digests(out) == expected
    result = materialise(RECIPE, assets, out, COUNT, shard_size=SHARD_SIZE)  # the same, elsewhere
    assert result.made == SHARD_SIZE
    assert digests(out) == local


def test_killed_workers_cost_nothing_but_time(ray_cluster, assets, local, tmp_path):
    killer = Killer(every_s=0.05, times=3)  # the job itself takes half a second
    with killer:
        on_ray(assets, tmp_path / "data")
    assert digests(tmp_path / "data") == local
    assert killer.killed


@pytest.mark.slow
def test_twenty_kills_in_a_job(ray_cluster, assets, tmp_path):
    options = {"count": 4000, "shard_size": 50}
    materialise(RECIPE, assets, tmp_path / "local", **options)
    killer = Killer(every_s=1.5, times=20)
    with killer:
        materialise(RECIPE, assets, tmp_path / "ray", workers=2, on_ray=make_on_ray, **options)
    assert len(killer.killed) == 20
    assert digests(tmp_path / "ray") == digests(tmp_path / "local")


class Killer:
    """Kills a worker now and then, as the kernel does when memory is short."""

    def __init__(self, *, every_s, times):
        self.killed = []
        self._every_s, self._times = every_s, times
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        while len(self.killed) < self._times and not self._stop.wait(self._every_s):
            for pid in self._workers():
                if pid not in self.killed:
                    os.kill(pid, signal.SIGKILL)
                    self.killed.append(pid)
                    break

    @staticmethod
    def _workers():
        from pathlib import Path

        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                is_worker = path.read_bytes().startswith(b"ray::_Worker")
                parents = path.parent.joinpath("status").read_text()
            except OSError:
                continue
            if is_worker and parents:
                yield int(path.parent.name)

    def __enter__(self):
        self._thread.start()

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


@dataclasses.dataclass(frozen=True)
class OtherTeachers:
    """Of a machine whose files are others."""

    digest: str = "of that machine"


def test_other_teachers_at_the_same_path_are_refused(recipe, assets):
    from depthmask.train.shards import Blocks

    blocks = Blocks(recipe, OtherTeachers(), 4, 2)
    with pytest.raises(UnavailableError, match="others at their paths"):
        ShardWork(blocks, "of this machine").open(assets)


def test_teachers_label_alike_on_a_cluster(ray_cluster, assets, tmp_path):
    value = onnx.helper.make_tensor_value_info
    nodes = [onnx.helper.make_node("ReduceMax", ["image"], ["grey"], axes=[1], keepdims=1)]
    shape = [1, 3, 32, 32]
    graph = onnx.helper.make_graph(
        nodes,
        "brightest",
        [value("image", onnx.TensorProto.FLOAT, shape)],
        [value("grey", onnx.TensorProto.FLOAT, [1, 1, *shape[2:]])],
    )
    opset = onnx.helper.make_opsetid("", 13)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset]), tmp_path / "m.onnx")
    squashed = parse_teacher("m,sigmoid")[1]
    teachers = Teachers(
        DepthTeacher.open(tmp_path / "m.onnx"), MaskTeacher.open(tmp_path / "m.onnx", squashed)
    )
    recipe = PhotoRecipe(canvas_px=32)
    for out, options in (("local", {}), ("ray", {"workers": 2, "on_ray": make_on_ray})):
        materialise(recipe, assets, tmp_path / out, 6, teachers=teachers, shard_size=2, **options)
    assert digests(tmp_path / "ray") == digests(tmp_path / "local")


def test_loose_files_are_for_one_machine(dmx_inside, assets_folder, tmp_path):
    options = ("--engine", "ray", "--format", "files", "--out", tmp_path / "d")
    code, _, error = dmx_inside("data", "compose", "--assets", assets_folder, *options)
    assert code == 2
    assert "--format shards" in error


def test_the_command_reports_what_ray_made(ray_cluster, dmx, assets_folder, tmp_path):
    address = ("--address", ray_cluster.get_runtime_context().gcs_address)
    options = ("--assets", assets_folder, "--limit", 5, "--size", 64, "--shard-size", 2, "--json")
    made = {}
    for engine in ("local", "ray"):
        out = tmp_path / engine
        where = ("--engine", engine, *(address if engine == "ray" else ()))
        done = dmx("data", "compose", *options, *where, "--out", out)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["made"] == 5
        made[engine] = digests(out)
    assert made["ray"] == made["local"]


def test_a_cluster_that_is_not_there_is_one_line(dmx, assets_folder, tmp_path):
    pytest.importorskip("ray", reason="needs the extra ray")
    options = ("--assets", assets_folder, "--out", tmp_path / "d", "--limit", 2)
    done = dmx("data", "compose", *options, "--engine", "ray", "--address", "127.0.0.1:1")
    assert done.returncode == 3
    assert done.stderr.startswith("error: a Ray cluster must answer at 127.0.0.1:1, but")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "d").exists()


def test_an_address_is_of_ray(dmx_inside, assets_folder):
    options = ("--assets", assets_folder, "--out", "d", "--address", "127.0.0.1:1")
    code, _, error = dmx_inside("data", "compose", *options)
    assert code == 2
    assert "--engine ray" in error


# --- into a store


@pytest.fixture
def prefix(s3_bucket):
    return Storage(f"s3://{s3_bucket}/sets/{time.time_ns()}")


def to_store(assets, storage, **options):
    return compose_to_store(
        RECIPE, assets, storage, COUNT, shard_size=SHARD_SIZE, workers=2, **options
    )


def stored(storage):
    return {
        name: hashlib.sha256(storage.read(name)).hexdigest() for name in sorted(storage.names())
    }


def test_a_store_gets_the_same_bytes_and_only_what_it_lacks(
    ray_cluster, s3_bucket, prefix, assets, local
):
    assert to_store(assets, prefix).made == COUNT
    assert stored(prefix) == local
    prefix.remove("shard-000004.tar")
    assert to_store(assets, prefix).made == SHARD_SIZE
    assert stored(prefix) == local
    assert to_store(assets, prefix).made == 0


def test_a_prefix_that_is_not_empty_is_kept(ray_cluster, prefix, assets):
    prefix.write("holiday.jpg", b"somebody's")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=r"must be empty .* 'holiday\.jpg'"):
            to_store(assets, prefix, overwrite=overwrite)
    assert prefix.names() == {"holiday.jpg"}


def test_another_data_set_is_replaced_only_if_asked(ray_cluster, prefix, assets, local):
    other = StageRecipe(seed=4, canvas_px=64)
    compose_to_store(other, assets, prefix, 20, shard_size=SHARD_SIZE, workers=2)
    with pytest.raises(UsageError, match="another count, recipe"):
        to_store(assets, prefix)
    to_store(assets, prefix, overwrite=True)
    assert stored(prefix) == local


def test_a_bucket_without_permission_is_one_line(ray_cluster, s3_denied, assets):
    for call in (
        lambda: to_store(assets, Storage(f"s3://{s3_denied}/set")),
        lambda: Storage(f"s3://{s3_denied}/set").write("x", b""),
    ):
        with pytest.raises((InputError, OutputError), match="Try other credentials") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_store_needs_ray(dmx_inside, assets_folder):
    code, _, error = dmx_inside("data", "compose", "--assets", assets_folder, "--out", "s3://b/p")
    assert code == 2
    assert "--engine ray" in error


def test_a_store_that_nobody_knows_is_refused(dmx_inside, assets_folder):
    code, _, error = dmx_inside(
        "data", "compose", "--assets", assets_folder, "--out", "s33://b/p", "--engine", "ray"
    )
    assert code == 2
    assert "fsspec" in error
