from __future__ import annotations

import msgspec
import pytest

pytest.importorskip("torch")

from depthmask.bench import demo_page


def test_every_bundle_names_its_own_resolutions(fake_bundle):
    line = demo_page._bundle_line([fake_bundle("one", (64, 128)), fake_bundle("two", (224,))])
    assert "one 0.0 MB with 64, 128; two 0.0 MB with 224." in line


def test_a_runtime_that_was_not_there_is_named(result):
    assert demo_page._not_installed(result) == ""
    alone = demo_page._not_installed(msgspec.structs.replace(result, cells=result.cells[:1]))
    assert "neither verified nor measured: openvino." in alone
