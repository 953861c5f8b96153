"""`dmx verify`."""

from __future__ import annotations

from pathlib import Path

import click

from depthmask.commands.options import (
    PathType,
    console,
    data_option,
    device_option,
    json_option,
    messages,
    print_json,
    runtime_option,
    threads_option,
)
from depthmask.errors import CheckFailedError


@click.command()
@click.argument("bundle", type=PathType(), required=False)
@runtime_option
@device_option
@threads_option
@data_option
@json_option
def command(
    bundle: Path | None,
    runtime: str,
    device: str,
    threads: int | None,
    data: Path | None,
    as_json: bool,
) -> None:
    """Check a bundle on this machine: its files first, then every graph against PyTorch's outputs.

    Needs no torch: the bundle carries PyTorch's outputs on its reference frames. With --data, accuracy
    is checked too.

    \b
    Example:
      dmx verify lite-224-fp16 --runtime openvino
    """
    from depthmask.bundle import open_bundle
    from depthmask.export import verify_bundle
    from depthmask.samples import open_samples

    with messages.status("verifying"):
        opened = open_bundle(bundle)
        report = verify_bundle(
            opened,
            data=open_samples(data) if data else None,
            runtime=runtime,
            device=device,
            threads=threads,
        )
    if as_json:
        print_json(
            {
                "path": str(opened.path),
                "holds": bool(report),
                "graphs": {str(p.resolution): p.as_dict() for p in report.parities},
                "failures": report.failures(),
            }
        )
    else:
        for parity in report.parities:
            errors = ", ".join(
                f"{a.output} {a.relative_error:.1e} (allowed {a.tolerance:g})"
                for a in parity.agreements
            )
            console.print(f"{parity.resolution} on {parity.runtime}: {errors}")
        console.print(f"files: {len(opened.manifest.files)} unchanged")
    if not report:
        raise CheckFailedError(f"{opened.path} does not hold: {'; '.join(report.failures())}")
