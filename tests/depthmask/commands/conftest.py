from __future__ import annotations

import pytest


@pytest.fixture
def dmx(dmx_inside):
    return dmx_inside
