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
from depthmask.export import (
    fold_norm,
    merge_convs,
    nearest_polyphase,
    plain_nearest,
    upsample_conv,
    winograd,
)
from depthmask.export.tune import cut_out, fastest_ms

Profile = Literal["cpu", "gpu"]


class RewriteSite(Protocol):
    """Where a rewrite fits; what else it holds is its module's."""

    @property
    def name(self) -> str:
        """In the graph's terms, for people."""
        ...

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """In order; the first reads the site's input."""
        ...


@dataclass(frozen=True)
class Rewrite:
    """What a rewrite's module gives: its sites, of a type of its own, and what is said of each form."""

    find: Callable[[ir.Graph], Iterator[Any]]
    forms: Callable[[Any], tuple[str, ...]]
    apply: Callable[[ir.Graph, Any, Any], None]
    macs: Callable[[Any, Any], int]
    """Multiply-accumulates; of None: as exported."""
    moved_floats: Callable[[Any, Any], int]
    """Numbers that are written beside the output, or read once more."""
    is_timed: bool = True
    """False where less is done in any case, so that `--tune` has nothing to decide."""
    moves_rows: bool = False
    """Whether numbers are moved in the same order or in whole rows."""
    is_selective: bool = False
    """True where there are many sites, and few where it can pay: the others are not even listed."""
    is_float32_only: bool = False
    """True where other types are too coarse for what is computed in between."""


REWRITES: dict[str, Rewrite] = {
    "fold-norm": Rewrite(
        fold_norm.find,
        lambda site: fold_norm.FORMS,
        fold_norm.apply,
        fold_norm.macs,
        fold_norm.moved_floats,
        is_timed=False,
    ),
    "nearest-polyphase": Rewrite(
        nearest_polyphase.find,
        nearest_polyphase.forms,
        nearest_polyphase.apply,
        nearest_polyphase.macs,
        nearest_polyphase.moved_floats,
    ),
    "plain-nearest": Rewrite(
        plain_nearest.find,
        lambda site: plain_nearest.FORMS,
        plain_nearest.apply,
        plain_nearest.macs,
        plain_nearest.moved_floats,
        is_timed=False,
    ),
    "upsample-conv": Rewrite(
        upsample_conv.find,
        lambda site: upsample_conv.FORMS,
        upsample_conv.apply,
        upsample_conv.macs,
        upsample_conv.moved_floats,
    ),
    "merge-convs": Rewrite(
        merge_convs.find,
        lambda site: merge_convs.FORMS,
        merge_convs.apply,
        merge_convs.macs,
        merge_convs.moved_floats,
    ),
    "winograd": Rewrite(
        winograd.find,
        winograd.forms,
        winograd.apply,
        winograd.macs,
        winograd.moved_floats,
        moves_rows=True,
        is_selective=True,
        is_float32_only=True,
    ),
}
"""In the order in which they are applied: folding shows the sites of others, merging finds what they made,
and what is a convolution in the end may become products.
"""
NAMES = tuple(REWRITES)

Timings = Callable[[Mapping[str, ir.Model]], dict[str, dict[str, float]]]
"""Milliseconds by runtime and name, as `tune.fastest_ms`."""

_AS_EXPORTED = "as exported"
_HOPELESS = 1.25
"""What the cost model expects to take so much longer cannot pay."""
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
        names: `auto` (what pays), `all` (at every site where it can pay, the form that the cost model likes
            best), `none`, or names of rewrites, of which every site is rewritten.
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
    chosen = [name for name in NAMES if name in options.names.split(",")]
    records = []
    if not chosen or "fold-norm" in chosen:
        fold_norm.fold_constants(model.graph)
    for name in chosen or NAMES:
        one = REWRITES[name]
        if one.is_float32_only and precision != "fp32":
            continue
        for site in list(one.find(model.graph)):
            if one.is_selective and not chosen and _is_hopeless(one, site, options.profile):
                continue
            measured = (
                _measured(one, site, options, timings) if options.tune and one.is_timed else {}
            )
            form = _choose(one, site, options, measured)
            records.append(_record(name, site, form, options.profile, measured))
            if form is not None:
                one.apply(model.graph, site, form)
    return model, tuple(records)


def predicted_ms(one: Rewrite, site: RewriteSite, form: str | None, profile: Profile) -> float:
    """What the cost model says; None: as exported."""
    rates = RATES[profile]
    ps_per_float = rates.ps_per_float_in_rows if one.moves_rows else rates.ps_per_float
    ps = one.macs(site, form) * rates.ps_per_mac + one.moved_floats(site, form) * ps_per_float
    return 1e-9 * ps


def _is_hopeless(one: Rewrite, site: RewriteSite, profile: Profile) -> bool:
    as_exported = predicted_ms(one, site, None, profile)
    return all(
        predicted_ms(one, site, form, profile) > _HOPELESS * as_exported for form in one.forms(site)
    )


def _choose(
    one: Rewrite, site: RewriteSite, options: RewriteOptions, measured: Mapping[str | None, float]
) -> str | None:
    forms = one.forms(site)
    cost = {
        form: measured[form] if measured else predicted_ms(one, site, form, options.profile)
        for form in (*forms, None)
    }
    best = min(forms, key=cost.__getitem__)
    if options.names != "auto" or not one.is_timed:
        return best
    return best if cost[best] <= _WORTH_IT * cost[None] else None


def _measured(
    one: Rewrite, site: RewriteSite, options: RewriteOptions, timings: Timings | None
) -> dict[str | None, float]:
    """One number per form: the geometric mean over the runtimes, since one graph serves them all."""
    models: dict[str, ir.Model] = {_AS_EXPORTED: cut_out(site.nodes)}
    forms = one.forms(site)
    for form in forms:
        models[form] = models[_AS_EXPORTED].clone()
        (alone,) = one.find(models[form].graph)
        one.apply(models[form].graph, alone, form)
    found = timings(models) if timings else fastest_ms(models, options.threads)
    names: dict[str | None, str] = {None: _AS_EXPORTED, **{form: form for form in forms}}
    return {form: geometric_mean(ms[name] for ms in found.values()) for form, name in names.items()}


def _record(
    name: str,
    site: RewriteSite,
    form: str | None,
    profile: Profile,
    measured: Mapping[str | None, float],
) -> RewriteRecord:
    one = REWRITES[name]
    after = predicted_ms(one, site, form, profile)
    return RewriteRecord(
        site=site.name,
        rewrite=name,
        form=form,
        gmac_before=round(one.macs(site, None) / 1e9, 4),
        gmac_after=round(one.macs(site, form) / 1e9, 4),
        predicted_gain=round(predicted_ms(one, site, None, profile) / after, 3)
        if form and after
        else 1.0,
        measured_gain=round(measured[None] / measured[form], 3) if measured else None,
    )


def saved_gmac(records: Sequence[RewriteRecord]) -> float:
    """What the rewrites of a graph leave out, of multiply-accumulates."""
    return sum(record.gmac_before - record.gmac_after for record in records)
