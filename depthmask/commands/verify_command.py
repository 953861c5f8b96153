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
    is measured, and compared with PyTorch's where the export was measured on the same data.

    \b
    Example:
      dmx verify lite-224-fp16 --runtime openvino
    """
    import msgspec

    from depthmask.bundle import open_bundle
    from depthmask.export.verify import pytorch_accuracy, verify_bundle
    from depthmask.frames import Resolution
    from depthmask.samples import open_samples

    with messages.status("verifying"):
        opened = open_bundle(bundle)
        samples = open_samples(data) if data else None
        report = verify_bundle(
            opened,
            data=samples,
            runtime=runtime,
            device=device,
            threads=threads,
        )
    if as_json:
        print_json(
            {
                "path": str(opened.path),
                "holds": bool(report),
                "graphs": {p.label: p.as_dict() for p in report.parities},
                "accuracy": msgspec.to_builtins(report.accuracies),
                "failures": report.failures(),
                "unchecked": report.unchecked,
            }
        )
    else:
        for parity in report.parities:
            errors = ", ".join(
                f"{a.output} {a.relative_error:.1e}"
                + (f" (allowed {a.tolerance:g})" if a.tolerance is not None else "")
                for a in parity.agreements
            )
            console.print(f"{parity.label} on {parity.runtime}: {errors}")
        for label, found in report.accuracies.items():
            compared = pytorch_accuracy(opened.manifest, Resolution.parse(label.split()[0]), found)
            mask_iou = f"mask IoU {found.mask.iou:.4f}" if found.mask else "no masks"
            beside = (
                "compared with PyTorch's" if compared else "PyTorch's on these data is not known"
            )
            console.print(f"{label} on {found.data}: {mask_iou}, {beside}")
        for remark in report.unchecked:
            messages.print(remark)
        console.print(f"files: {len(opened.manifest.files)} unchanged")
    if not report:
        raise CheckFailedError(
            f"{opened.path} does not hold: {'; '.join(report.failures())}", details=report.details()
        )
