from __future__ import annotations

import json

import msgspec
import pytest

from depthmask.bench.result import (
    check_complete,
    read_result,
    write_result,
)
from depthmask.errors import (
    CheckFailedError,
    InputError,
    UnavailableError,
)


def test_a_result_survives_its_file(result, tmp_path):
    write_result(result, tmp_path / "bench.json")
    assert read_result(tmp_path / "bench.json") == result
    document = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert document["schema"] == 2
    assert document["machine"]["memory_bytes"] == 8 << 30
    assert document["cells"][0]["latency"]["samples_ms"] == [10.0, 11.0, 12.0]


@pytest.mark.parametrize("document", [b"", b"{}", b'{"schema": 2}', b"\xff"])
def test_a_damaged_file_is_refused(tmp_path, document):
    path = tmp_path / "bench.json"
    path.write_bytes(document)
    with pytest.raises(InputError, match="damaged or of another version"):
        read_result(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_result(tmp_path / "absent.json")


def test_an_incomplete_result_fails(result):
    with pytest.raises(CheckFailedError, match=r"1 of 2 were not: b\[red\] 64x96 openvino: no"):
        check_complete(result)
    missing = msgspec.structs.replace(result.cells[1], status="unavailable")
    with pytest.raises(UnavailableError):
        check_complete(msgspec.structs.replace(result, cells=(result.cells[0], missing)))
    check_complete(msgspec.structs.replace(result, cells=result.cells[:1]))


def test_a_chain_is_judged_by_its_kind(result):
    cell = result.cells[0]
    assert cell.depth is cell.accuracy.depth_in_mask
    assert msgspec.structs.replace(cell, kind="relevance").depth is None  # no whole-frame depth
    assert str(cell.resolution) == "64x96"
