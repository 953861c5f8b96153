from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # hostile.py, mutate.py


@pytest.fixture
def bundle_path(tiny_bundle_path, tmp_path) -> Path:
    """A bundle of our own to spoil."""
    return shutil.copytree(tiny_bundle_path, tmp_path / "bundle")
