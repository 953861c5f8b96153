"""`dmx compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from depthmask.commands import compare_options, options

if TYPE_CHECKING:
    from depthmask.bench.compare import Limit


@click.command()
@click.argument("a", type=options.PathType(), metavar="A.json")
@click.argument("b", type=options.PathType(), metavar="[B.json]", required=False)
@compare_options.confidence_option
@compare_options.tolerance_option
@compare_options.fail_if_option
@options.json_option
def command(
    a: Path,
    b: Path | None,
    confidence: float,
    tolerance: float,
    fail_if: tuple[tuple[Limit, float], ...],
    as_json: bool,
) -> None:
    """Compare two results of `dmx bench --out` of one machine: what of B is faster or slower than A.

    With A alone, its bundles are compared with the first of them, round by round: what the machine did to one
    it did to the others, so much smaller changes are told (`dmx bench fp32/ int8/ --rounds 30`).

    A cell is called faster or slower only where the interval of its median's change leaves out 0 and
    the change is larger than the tolerance; no difference shown, where the whole interval is within the
    tolerance; else, cannot tell. Recordings of 10 s and more (`dmx bench --seconds 10`) tell more.

    \b
    Examples:
      dmx compare before.json after.json --fail-if slower=3% --fail-if p99-slower=10%
      dmx compare both.json
    """
    import msgspec

    from depthmask.bench.compare import check_limits, compare, compare_side_by_side
    from depthmask.bench.compare_table import rich_table
    from depthmask.bench.result import read_result

    if b is None:
        found = read_result(a)
        comparison = compare_side_by_side(found, confidence=confidence, tolerance=tolerance)
    else:
        comparison = compare(
            read_result(a), read_result(b), confidence=confidence, tolerance=tolerance
        )
    if as_json:
        options.print_json(msgspec.to_builtins(comparison))
    else:
        options.console.print(rich_table(comparison))
    check_limits(comparison, dict(fail_if))
