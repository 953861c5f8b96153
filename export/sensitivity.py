"""How much each site costs: the error of the chain's own outputs when int8 computes that site alone."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from depthmask.export.budget import MAX_DISAGREEMENT, worst_share
from depthmask.export.precision_search import Losses


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


def sensitivity(names: Sequence[str], losses: Losses) -> tuple[SiteError, ...]:
    """Every site, the most sensitive first.

    Args:
        names: of all sites.
        losses: by `agreement_judge`.
    """
    everything = frozenset(names)
    errors = [SiteError(name, **losses(everything - {name})) for name in names]
    return tuple(sorted(errors, key=lambda error: -error.share))
