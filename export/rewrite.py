"""Exact rewrites of a graph: which there are, and which form is put at which site.

A rewrite changes no result but by rounding (its module states the theorem). Whether it pays hangs on the
site, so a cost model proposes a form per site, or a measurement on this machine decides (`export.tune`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import geometric_mean
from typing import Any, Literal, Protocol

import onnx_ir as ir

from depthmask.bundle import Precision, RewriteRecord
from depthmask.errors import UsageError
from depthmask.export import upsample_conv, winograd
from depthmask.export.tune import cut_out, fastest_ms

Profile = Literal["cpu", "gpu"]


class Site(Protocol):
    """Where a rewrite fits."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def forms(self) -> tuple[str, ...]:
        """What can be put in its place."""

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """What is replaced; the first reads the site's only input."""


class Rewrite(Protocol):
    """A module that states a theorem and rewrites by it; sites are its own."""

    @property
    def MOVES_ROWS(self) -> bool:
        """Whether numbers are moved in the same order or in whole rows."""

    def find(self, graph: ir.Graph) -> Iterator[Any]:
        """The sites."""

    def apply(self, graph: ir.Graph, site: Any, form: Any) -> None:  # noqa: ANN401
        """Put a form in a site's place."""

    def macs(self, site: Any, form: Any) -> int:  # noqa: ANN401
        """Multiply-accumulates of a form; None: as exported."""

    def moved_floats(self, site: Any, form: Any) -> int:  # noqa: ANN401
        """What a form writes beside its output, only to read it again."""


REWRITES: dict[str, Rewrite] = {"upsample-conv": upsample_conv, "winograd": winograd}
"""In the order in which they are applied."""
_FLOAT32_ONLY = ("winograd",)

Timings = Callable[[Mapping[str, ir.Model]], dict[str, dict[str, float]]]
"""Milliseconds by runtime and name, as `tune.fastest_ms`."""

_AS_EXPORTED = "as exported"
_HOPELESS = 1.25
"""What the cost model expects to take so much longer is neither measured nor listed."""
_WORTH_IT = 0.95
"""A rewrite that saves less than a twentieth is not made: measurements are no better than that."""


@dataclass(frozen=True)
class Rates:
    """What a machine takes, roughly; only their ratio decides."""

    ps_per_mac: float
    ps_per_float: float
    """That is written only to be read again, in another order."""
    ps_per_float_in_rows: float
    """Likewise, in the same order or in whole rows."""


RATES: dict[Profile, Rates] = {
    # Fitted to the sites of hu2019 at 64 and 224 px on two cores with AVX-512 (ONNX Runtime and OpenVINO).
    "cpu": Rates(ps_per_mac=9.4, ps_per_float=1100, ps_per_float_in_rows=300),
    # From the data sheets of small inference GPUs (4 TMAC/s in float32, 300 GB/s); not measured.
    "gpu": Rates(ps_per_mac=0.25, ps_per_float=40, ps_per_float_in_rows=40),
}


@dataclass(frozen=True)
class RewriteOptions:
    """How rewrites are chosen.

    Args:
        names: `auto` (what pays), `all` (at every site, the form that the cost model likes best), `none`,
            or names of rewrites, of which every site is rewritten.
        profile: the kind of machine that the cost model is of.
        tune: measure every form of every site on this machine instead.
        threads: that the measurement uses.
    """

    names: str = "auto"
    profile: Profile = "cpu"
    tune: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in self.names.split(","):
            if name not in ("auto", "all", "none", *REWRITES):
                known = ", ".join(REWRITES)
                raise UsageError(
                    f"a rewrite must be auto, all, none, or of {known}, but got {name!r}"
                )

    def asks_for(self, name: str) -> bool:
        """Whether sites of this rewrite are looked at."""
        return not {"auto", "all", name}.isdisjoint(self.names.split(","))


def rewrite(
    model: ir.Model,
    options: RewriteOptions | None = None,
    *,
    precision: Precision = "fp32",
    timings: Timings | None = None,
) -> tuple[ir.Model, tuple[RewriteRecord, ...]]:
    """A rewritten copy of a graph, and what was done at each site that a rewrite fits.

    Postcondition: the same inputs and outputs; equal up to rounding.

    Args:
        model: float32; not changed.
        options: by default `auto` for CPUs.
        precision: that the graph will have. What float32 alone is fine enough for is left out of others.
        timings: how forms are timed; `tune.fastest_ms` unless a test brings its own.
    """
    options = options or RewriteOptions()
    if options.names == "none":
        return model, ()
    model = model.clone()
    records: list[RewriteRecord] = []
    for name, kind in REWRITES.items():
        if options.asks_for(name) and (precision == "fp32" or name not in _FLOAT32_ONLY):
            records += _rewritten(model.graph, name, kind, options, timings)
    return model, tuple(records)


def _rewritten(
    graph: ir.Graph, name: str, kind: Rewrite, options: RewriteOptions, timings: Timings | None
) -> Iterator[RewriteRecord]:
    for site in list(kind.find(graph)):
        if options.names == "auto" and _is_hopeless(kind, site, options.profile):
            continue
        measured = _measured(kind, site, options, timings) if options.tune else {}
        form = _choose(kind, site, options, measured)
        yield _record(name, kind, site, form, options.profile, measured)
        if form is not None:
            kind.apply(graph, site, form)


def predicted_ms(kind: Rewrite, site: Site, form: str | None, profile: Profile) -> float:
    """What the cost model says; None: as exported."""
    rates = RATES[profile]
    # A convolution as exported reads its input in place.
    floats = kind.moved_floats(site, form) if form is not None else 0
    ps_per_float = rates.ps_per_float_in_rows if kind.MOVES_ROWS else rates.ps_per_float
    return 1e-9 * (kind.macs(site, form) * rates.ps_per_mac + floats * ps_per_float)


def _is_hopeless(kind: Rewrite, site: Site, profile: Profile) -> bool:
    as_exported = predicted_ms(kind, site, None, profile)
    return all(
        predicted_ms(kind, site, form, profile) > _HOPELESS * as_exported for form in site.forms
    )


def _choose(
    kind: Rewrite, site: Site, options: RewriteOptions, measured: Mapping[str | None, float]
) -> str | None:
    cost = measured or {
        form: predicted_ms(kind, site, form, options.profile) for form in (None, *site.forms)
    }
    best = min(site.forms, key=cost.__getitem__)
    return best if options.names != "auto" or cost[best] <= _WORTH_IT * cost[None] else None


def _measured(
    kind: Rewrite, site: Site, options: RewriteOptions, timings: Timings | None
) -> dict[str | None, float]:
    """One number per form: the geometric mean over the runtimes, since one graph serves them all."""
    models: dict[str, ir.Model] = {_AS_EXPORTED: cut_out(site.nodes)}
    for form in site.forms:
        models[form] = models[_AS_EXPORTED].clone()
        (alone,) = kind.find(models[form].graph)
        kind.apply(models[form].graph, alone, form)
    found = timings(models) if timings else fastest_ms(models, options.threads)
    names: dict[str | None, str] = {None: _AS_EXPORTED, **{form: form for form in site.forms}}
    return {form: geometric_mean(ms[name] for ms in found.values()) for form, name in names.items()}


def _record(
    name: str,
    kind: Rewrite,
    site: Site,
    form: str | None,
    profile: Profile,
    measured: Mapping[str | None, float],
) -> RewriteRecord:
    predicted = predicted_ms(kind, site, None, profile) / predicted_ms(kind, site, form, profile)
    return RewriteRecord(
        site=site.name,
        rewrite=name,
        form=form,
        gmac_before=round(kind.macs(site, None) / 1e9, 4),
        gmac_after=round(kind.macs(site, form) / 1e9, 4),
        predicted_gain=round(predicted, 3) if form else 1.0,
        measured_gain=round(measured[None] / measured[form], 3) if measured else None,
    )


def saved_gmac(records: Sequence[RewriteRecord]) -> float:
    """What the rewrites of a graph leave out, of multiply-accumulates."""
    return sum(record.gmac_before - record.gmac_after for record in records)
