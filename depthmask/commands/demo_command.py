"""`dmx demo`."""

from __future__ import annotations

from pathlib import Path

import click

from depthmask.commands.options import (
    PathType,
    console,
    json_option,
    messages,
    overwrite_option,
    print_json,
    threads_option,
)


@click.command()
@click.option("--out", type=PathType(), default="demo-out", show_default=True, help="The folder.")
@overwrite_option
@threads_option
@json_option
def command(out: Path, overwrite: bool, threads: int | None, as_json: bool) -> None:
    """Run the whole path on the shipped photographs: export, verify, benchmark, run, report.

    \b
    Example:
      dmx demo --out demo-out
    """
    from depthmask.models import require_torch

    require_torch()
    from depthmask.bench.demo import run_demo
    from depthmask.bench.plot import require_matplotlib
    from depthmask.bench.table import rich_table

    require_matplotlib()
    with messages.status("starting") as status:
        result = run_demo(out, overwrite=overwrite, threads=threads, progress=status.update)
    if as_json:
        print_json(
            {
                "report": str(result.report),
                "verified": {name: bool(report) for name, report in result.verified.items()},
                "photographs": result.run.frames,
                "seconds": round(result.seconds, 1),
            }
        )
        return
    for name, report in result.verified.items():
        worst = max(a.relative_error for parity in report.parities for a in parity.agreements)
        console.print(f"verified  {name}: at most {worst:.1e} of the range away from PyTorch")
    console.print(rich_table(result.bench))
    console.print(
        f"{result.run.frames} photographs, all done in {result.seconds:.0f} s. Open {result.report}"
    )
