from __future__ import annotations

from functools import cache

import pytest

from depthmask.export import to_onnx, trusted


@pytest.fixture(scope="module")
def one_trace():
    """Tracing takes most of the time; the export's serves for the right values of every fault too."""
    traced = cache(to_onnx.traced_program)
    with pytest.MonkeyPatch.context() as patch:
        for module in (to_onnx, trusted):
            patch.setattr(module, "traced_program", traced)
        yield
