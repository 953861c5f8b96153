"""`dmx bench --estimate`: times by data sheets, with nothing measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from depthmask.commands.options import console, print_json

if TYPE_CHECKING:
    from pathlib import Path

    from depthmask.bundle import Precision
    from depthmask.frames import Resolution


def run_estimate(
    bundles: tuple[Path, ...],
    names: tuple[str, ...],
    resolutions: tuple[Resolution, ...] | None,
    precisions: tuple[Precision, ...] | None,
    frame_size: tuple[Resolution, ...] | None,
    *,
    as_json: bool,
) -> None:
    """Print what each GPU would take at least, for each bundle and resolution.

    Raises:
        UsageError: there is no data sheet of a GPU, or no such resolution.
        InputError: a bundle is damaged.
    """
    import msgspec

    from depthmask.bench.datasheets import DATASHEETS, datasheet
    from depthmask.bench.estimate import estimate
    from depthmask.bench.estimate_table import rich_estimates
    from depthmask.bench.graph import DEFAULT_FRAME_SIZE
    from depthmask.bundle import open_bundle

    gpus = [datasheet(name) for name in (DATASHEETS if names == ("all",) else names)]
    opened = [open_bundle(path) for path in bundles or (None,)]
    found = [
        estimate(
            bundle, resolution, gpu, frame_size=frame_size[0] if frame_size else DEFAULT_FRAME_SIZE
        )
        for bundle in opened
        if precisions is None or bundle.manifest.precision in precisions
        for resolution in resolutions or bundle.manifest.resolutions
        for gpu in gpus
    ]
    if as_json:
        print_json({"estimates": msgspec.to_builtins(found)})
    else:
        console.print(rich_estimates(found))
