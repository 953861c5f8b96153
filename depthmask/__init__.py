"""depthmask: a chain of two networks goes in, a verified bundle comes out, and it runs everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from depthmask.version import __version__

if TYPE_CHECKING:
    from depthmask.pipeline import Pipeline, Prediction

__all__ = ["Pipeline", "Prediction", "__version__"]


def __getattr__(name: str) -> Any:  # noqa: ANN401  (the protocol of PEP 562)
    """Load the pipeline on first use: `import depthmask` alone stays instant."""
    if name in ("Pipeline", "Prediction"):
        from depthmask import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module 'depthmask' has no attribute {name!r}")
