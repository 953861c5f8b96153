"""How much each site costs: the error of the chain's own outputs when int8 computes that site alone."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import onnx_ir as ir

from depthmask.export.budget import MAX_DISAGREEMENT, Judge, worst_share
from depthmask.export.quantise import quantise, sites


class SiteError(msgspec.Struct, frozen=True):
    """One site computed in int8, all others in float32."""

    site: str
    mask_mae: float
    depth_abs_rel: float

    @property
    def share(self) -> float:
        """The larger of both, as a share of what may differ between int8 and float32."""
        errors = {"mask_mae": self.mask_mae, "depth_abs_rel": self.depth_abs_rel}
        return worst_share(errors, MAX_DISAGREEMENT)


def sensitivity(
    model: ir.Model, ranges: Mapping[str, float], judge: Judge
) -> tuple[SiteError, ...]:
    """Every site, the most sensitive first.

    Args:
        model: the float32 graph.
        ranges: as `quantise` takes them.
        judge: by `agreement_judge`.
    """
    names = sites(model)
    errors = [
        SiteError(name, **judge(quantise(model, ranges, keep_fp32=frozenset(names) - {name})))
        for name in names
    ]
    return tuple(sorted(errors, key=lambda error: -error.share))
