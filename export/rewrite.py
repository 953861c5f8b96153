"""Exact rewrites of a graph: which there are, and which form is put at which site.

A rewrite changes no result but by rounding (its module states the theorem). Whether it pays hangs on the
site, so a cost model proposes a form per site, or a measurement on this machine decides (`export.tune`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import geometric_mean
from typing import Literal

import onnx_ir as ir

from depthmask.bundle import Precision, RewriteRecord
from depthmask.errors import UsageError
from depthmask.export import upsample_conv, winograd
from depthmask.export.tune import cut_out, cut_out_nodes, fastest_ms
from depthmask.export.upsample_conv import FORMS, Form, UpsampleConv

Profile = Literal["cpu", "gpu"]
NAMES = ("upsample-conv", "winograd")
"""In the order in which they are applied."""

Timings = Callable[[Mapping[str, ir.Model]], dict[str, dict[str, float]]]
"""Milliseconds by runtime and name, as `tune.fastest_ms`."""

_AS_EXPORTED = "as exported"
_COULD_PAY = 1.0
"""Where Winograd is predicted to take longer than this share of a convolution, it is not even measured."""
_WORTH_IT = 0.95
"""A rewrite that saves less than a twentieth is not made: measurements are no better than that."""


@dataclass(frozen=True)
class Rates:
    """What a machine takes, roughly; only their ratio decides."""

    ps_per_mac: float
    ps_per_float: float
    """That is written only to be read again."""


RATES: dict[Profile, Rates] = {
    # Fitted to the sites of hu2019 at 64 and 224 px on two cores with AVX-512 (ONNX Runtime and OpenVINO).
    "cpu": Rates(ps_per_mac=9.4, ps_per_float=1100),
    # From the data sheets of small inference GPUs (4 TMAC/s in float32, 300 GB/s); not measured.
    "gpu": Rates(ps_per_mac=0.25, ps_per_float=40),
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
            if name not in ("auto", "all", "none", *NAMES):
                raise UsageError(
                    f"a rewrite must be auto, all, none, or of {', '.join(NAMES)}, but got {name!r}"
                )

    def takes(self, name: str) -> bool:
        """Whether this rewrite is among them."""
        return self.names in ("auto", "all") or name in self.names.split(",")


def rewrite(
    model: ir.Model,
    options: RewriteOptions | None = None,
    *,
    timings: Timings | None = None,
    precision: Precision = "fp32",
) -> tuple[ir.Model, tuple[RewriteRecord, ...]]:
    """A rewritten copy of a graph, and what was done at each site that a rewrite fits.

    Postcondition: the same inputs and outputs; equal up to rounding.

    Args:
        model: float32; not changed.
        options: by default `auto` for CPUs.
        timings: how forms are timed; `tune.fastest_ms` unless a test brings its own.
        precision: that the graph will have; rewrites that round more are made in fp32 only.

    Raises:
        UsageError: a rewrite was named that this precision does not allow.
    """
    options = options or RewriteOptions()
    if options.names == "none":
        return model, ()
    model = model.clone()
    records = []
    sites = list(upsample_conv.find(model.graph)) if options.takes("upsample-conv") else []
    for site in sites:
        measured = _measured(site, options, timings) if options.tune else {}
        form = _choose(site, options, measured)
        records.append(_record(site, form, options.profile, measured))
        if form is not None:
            upsample_conv.apply(model.graph, site, form)
    if options.takes("winograd") and _is_fp32(options, precision):
        records += _winograd(model, options, timings)
    return model, tuple(records)


def _is_fp32(options: RewriteOptions, precision: Precision) -> bool:
    if precision != "fp32" and "winograd" in options.names:
        raise UsageError(f"winograd needs fp32, but got {precision}. Try --rewrite auto")
    return precision == "fp32"


def _winograd(
    model: ir.Model, options: RewriteOptions, timings: Timings | None
) -> list[RewriteRecord]:
    """Where it could pay at all; there are many convolutions in a network, and few of them are large."""
    records = []
    for site in list(winograd.find(model.graph)):
        before_ms, after_ms = (_winograd_ms(site, made, options.profile) for made in (False, True))
        if options.names in ("auto", "all") and after_ms > _COULD_PAY * before_ms:
            continue
        measured = _winograd_measured(site, options, timings) if options.tune else None
        gain = before_ms / after_ms if measured is None else measured
        made = options.names != "auto" or 1 / gain <= _WORTH_IT
        records.append(
            RewriteRecord(
                site=site.name,
                rewrite="winograd",
                form=f"F({winograd.TILE}x{winograd.TILE}, {site.taps}x{site.taps})"
                if made
                else None,
                gmac_before=round(winograd.macs(site, False) / 1e9, 4),
                gmac_after=round(winograd.macs(site, made) / 1e9, 4),
                predicted_gain=round(before_ms / after_ms, 3) if made else 1.0,
                measured_gain=None if measured is None else round(measured if made else 1.0, 3),
            )
        )
        if made:
            winograd.apply(model.graph, site)
    return records


def _winograd_ms(site: winograd.SquareConv, made: bool, profile: Profile) -> float:
    rates = RATES[profile]
    floats = winograd.moved_floats(site, made) * rates.ps_per_float
    macs = winograd.padded_macs(site) if made else winograd.macs(site, False)
    return 1e-9 * (macs * rates.ps_per_mac + floats)


def _winograd_measured(
    site: winograd.SquareConv, options: RewriteOptions, timings: Timings | None
) -> float:
    """The gain: the geometric mean over the runtimes."""
    models = {_AS_EXPORTED: cut_out_nodes([site.conv], [site.conv])}
    models["winograd"] = models[_AS_EXPORTED].clone()
    (alone,) = winograd.find(models["winograd"].graph)
    winograd.apply(models["winograd"].graph, alone)
    found = timings(models) if timings else fastest_ms(models, options.threads)
    return geometric_mean(ms[_AS_EXPORTED] / ms["winograd"] for ms in found.values())


def predicted_ms(site: UpsampleConv, form: Form | None, profile: Profile) -> float:
    """What the cost model says; None: as exported."""
    rates = RATES[profile]
    # A convolution as exported reads its input in place.
    floats = upsample_conv.moved_floats(site, form) if form is not None else 0
    return 1e-9 * (upsample_conv.macs(site, form) * rates.ps_per_mac + floats * rates.ps_per_float)


def _choose(
    site: UpsampleConv, options: RewriteOptions, measured: Mapping[Form | None, float]
) -> Form | None:
    cost = {form: _cost(site, form, options.profile, measured) for form in FORMS}
    best = min(FORMS, key=cost.__getitem__)
    if options.names != "auto":
        return best
    as_exported = _cost(site, None, options.profile, measured)
    return best if cost[best] <= _WORTH_IT * as_exported else None


def _cost(
    site: UpsampleConv, form: Form | None, profile: Profile, measured: Mapping[Form | None, float]
) -> float:
    return measured[form] if measured else predicted_ms(site, form, profile)


def _measured(
    site: UpsampleConv, options: RewriteOptions, timings: Timings | None
) -> dict[Form | None, float]:
    """One number per form: the geometric mean over the runtimes, since one graph serves them all."""
    models: dict[str, ir.Model] = {_AS_EXPORTED: cut_out(site)}
    for form in FORMS:
        models[form] = models[_AS_EXPORTED].clone()
        (alone,) = upsample_conv.find(models[form].graph)
        upsample_conv.apply(models[form].graph, alone, form)
    found = timings(models) if timings else fastest_ms(models, options.threads)
    names: dict[Form | None, str] = {None: _AS_EXPORTED, **{form: form for form in FORMS}}
    return {form: geometric_mean(ms[name] for ms in found.values()) for form, name in names.items()}


def _record(
    site: UpsampleConv,
    form: Form | None,
    profile: Profile,
    measured: Mapping[Form | None, float],
) -> RewriteRecord:
    predicted = predicted_ms(site, None, profile) / predicted_ms(site, form, profile)
    return RewriteRecord(
        site=site.name,
        rewrite="upsample-conv",
        form=form,
        gmac_before=round(upsample_conv.macs(site, None) / 1e9, 4),
        gmac_after=round(upsample_conv.macs(site, form) / 1e9, 4),
        predicted_gain=round(predicted, 3) if form else 1.0,
        measured_gain=round(measured[None] / measured[form], 3) if measured else None,
    )


def saved_gmac(records: Sequence[RewriteRecord]) -> float:
    """What the rewrites of a graph leave out, of multiply-accumulates."""
    return sum(record.gmac_before - record.gmac_after for record in records)
