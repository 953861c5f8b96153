"""Chains to verified bundles: ONNX, precision, verification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from depthmask.export.exporter import ExportOptions, export_chain
    from depthmask.export.verify import VerifyReport, verify_bundle

__all__ = ["ExportOptions", "VerifyReport", "export_chain", "verify_bundle"]

_HOMES = {
    "ExportOptions": "exporter",
    "export_chain": "exporter",
    "VerifyReport": "verify",
    "verify_bundle": "verify",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  (the protocol of PEP 562)
    """Load on first use: verification needs no torch, exporting does."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"depthmask.export.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'depthmask.export' has no attribute {name!r}")
