"""Threads, forks, closing: right results or a clear error; memory that does not grow."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from depthmask import Pipeline
from depthmask.errors import UsageError

RUNTIMES = ("onnxruntime", "openvino")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_eight_threads_get_what_one_gets(tiny_bundle_path, runtime):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (40 + 7 * k, 60, 3), np.uint8) for k in range(8)]
    with Pipeline.open(tiny_bundle_path, runtime, threads=1) as pipeline:
        expected = [pipeline(frame) for frame in frames]
        together = threading.Barrier(8)

        def predict(number):
            together.wait()
            return [pipeline(frames[(number + k) % 8]) for k in range(16)]

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(predict, range(8)))
    for number, predictions in enumerate(found):
        for k, prediction in enumerate(predictions):
            right = expected[(number + k) % 8]
            np.testing.assert_array_equal(prediction.mask_HW, right.mask_HW)
            np.testing.assert_array_equal(prediction.depth_HW, right.depth_HW)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_results_are_the_callers_own(tiny_bundle_path, runtime, frame_HW3):
    """A later call does not change what an earlier one gave."""
    with Pipeline.open(tiny_bundle_path, runtime) as pipeline:
        first = pipeline(frame_HW3)
        kept = first.mask_HW.copy(), first.depth_HW.copy()
        pipeline(255 - frame_HW3)
    np.testing.assert_array_equal(first.mask_HW, kept[0])
    np.testing.assert_array_equal(first.depth_HW, kept[1])


FORKED = """
import os, sys
import numpy as np
from depthmask import Pipeline
from depthmask.errors import UsageError
frame = np.zeros((32, 32, 3), np.uint8)
pipeline = Pipeline.open(sys.argv[1], sys.argv[2])
pipeline(frame)
child = os.fork()
if child == 0:
    try:
        pipeline(frame)
    except UsageError as error:
        print(error, flush=True)
    pipeline.close()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
pipeline(frame)
pipeline.close()
print("the parent goes on")
"""


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_process_that_is_forked_off_says_so(tiny_bundle_path, runtime):
    """Its runtime has lost its threads there: no library promises anything for that."""
    command = [sys.executable, "-c", FORKED, str(tiny_bundle_path), runtime]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "must be used by the process that opened it" in done.stdout
    assert done.stdout.endswith("the parent goes on\n")


@pytest.mark.parametrize("runtime", [*RUNTIMES, "torch"])
def test_closing_twice_and_use_after(runtime, frame_HW3):
    pipeline = Pipeline.open(None, runtime)
    pipeline.close()
    pipeline.close()
    with pytest.raises(UsageError, match="was closed"):
        pipeline(frame_HW3)
    with pytest.raises(UsageError, match="was closed"):
        pipeline.run_batch([frame_HW3, frame_HW3])


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_closing_while_others_use_it_is_an_answer_or_an_error(tiny_bundle_path, runtime, frame_HW3):
    pipeline = Pipeline.open(tiny_bundle_path, runtime, threads=1)
    begun = threading.Barrier(5)
    strange = []

    def use():
        begun.wait()
        try:
            for _ in range(2000):
                assert np.isfinite(pipeline(frame_HW3).depth_HW).all()
        except UsageError:
            pass
        except BaseException as error:
            strange.append(error)

    users = [threading.Thread(target=use) for _ in range(4)]
    for user in users:
        user.start()
    begun.wait()
    pipeline.close()
    for user in users:
        user.join(30)
    assert strange == []
    assert not any(user.is_alive() for user in users)


OPENED_OFTEN = """
import gc, sys
import numpy as np
from pathlib import Path
from depthmask import Pipeline
frame = np.zeros((32, 32, 3), np.uint8)
def cycle():
    with Pipeline.open(sys.argv[1], sys.argv[2], threads=1) as pipeline:
        pipeline(frame)
def resident():
    gc.collect()
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])
count = int(sys.argv[3])
for _ in range(max(5, count // 10)):
    cycle()
before = resident()
for _ in range(count):
    cycle()
print((resident() - before) / 1e6, len(list(Path("/proc/self/fd").iterdir())))
"""


@pytest.mark.parametrize(
    ("runtime", "count"),
    [
        ("onnxruntime", 40),
        pytest.param("onnxruntime", 1000, marks=pytest.mark.slow),
        pytest.param("openvino", 1000, marks=pytest.mark.slow),
    ],
)
def test_opening_and_closing_does_not_grow(tiny_bundle_path, runtime, count):
    command = [sys.executable, "-c", OPENED_OFTEN, str(tiny_bundle_path), runtime, str(count)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MALLOC_ARENA_MAX": "2"},
    )
    growth_mb, descriptors = map(float, done.stdout.split())
    print(f"{runtime}: {growth_mb:.1f} MB after {count}")
    assert growth_mb < 20
    assert descriptors < 30
