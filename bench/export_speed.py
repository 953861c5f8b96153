"""What our exports gain over plain ones: the same weights, side by side, in one run.

    python -m depthmask.bench.export_speed --chains hu2019 --resolutions 64,128 --out speed.json --markdown

For every chain and resolution: a plain export and ours on ONNX Runtime and on OpenVINO, and PyTorch eager
channels-last, in turns (`bench.peers`); the time and memory of the export, and the memory of running
(`bench.export_cost`). With `--out` an interrupted run goes on where it stopped, and with `--work` what was
exported is kept, so that `--parts` can be measured one after the other.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec
from msgspec import structs

from depthmask.bench.export_cost import chain_of, export_cost, running_memory
from depthmask.bench.export_speed_result import (
    EAGER,
    OURS,
    PLAIN,
    Cell,
    ExportSpeed,
    Gain,
    Running,
    markdown,
)
from depthmask.bench.machine import this_machine
from depthmask.bench.peer_list import PEERS, Subject, plain_onnx
from depthmask.bench.peers import compare_peers, times_interval
from depthmask.bench.peers_result import PeerRow
from depthmask.bench.script import run_script
from depthmask.bundle import Bundle, Precision, open_bundle
from depthmask.commands import options
from depthmask.errors import InputError, UsageError
from depthmask.frames import Resolution
from depthmask.output_files import write_output

PARTS = ("export", "speed", "memory")
_COMPARED = tuple(peer for peer in PEERS if peer.name in {*PLAIN.values(), *OURS.values(), EAGER})

Tell = Callable[[str], None]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How cells are measured."""

    threads: int = 2
    seconds: float = 4.0
    """Per way of running and cell."""
    rounds: int = 6
    max_warmup_seconds: float = 5.0


def measure_cell(
    cell: Cell,
    parts: Sequence[str],
    settings: Settings,
    work: Path,
    tell: Tell = lambda doing: None,
) -> Cell:
    """Measure those parts of a cell that it has not.

    Args:
        cell: as far as it is measured.
        parts: of `PARTS`.
        settings: how.
        work: a folder for what is exported; what it holds of this cell is used again.
        tell: told of every step.

    Raises:
        UsageError: the chain cannot be exported.
        UnavailableError: a measuring process ended early.
    """
    name = f"{Path(cell.chain).stem}-{cell.resolution}"
    ours = work / f"{name}-{cell.precision}{'-tuned' if cell.tuned else ''}"
    if not ours.is_dir() or ("export" in parts and cell.export is None):
        tell(f"exporting {name}")
        if ours.is_dir():
            shutil.rmtree(ours)
        found = export_cost(cell.chain, cell.resolution, cell.precision, cell.tuned, ours)
        cell = structs.replace(cell, export=found)
    bundle = open_bundle(ours, check_files=False)
    cell = structs.replace(cell, gmac=bundle.graph(cell.resolution).gmac)
    plain = work / f"{name}-plain"
    if "speed" in parts and not cell.rows:
        rows = _rows(cell, bundle, plain, settings, tell)
        cell = structs.replace(cell, rows=rows, gains=_gains(rows))
    if "memory" in parts and not cell.running:
        tell(f"memory of {name}")
        cell = structs.replace(cell, running=_running(cell, bundle, plain, settings.threads))
    return cell


def _rows(
    cell: Cell, bundle: Bundle, plain: Path, settings: Settings, tell: Tell
) -> tuple[PeerRow, ...]:
    chain, weights = chain_of(cell.chain)
    return compare_peers(
        chain,
        weights,
        resolutions=[cell.resolution],
        threads=settings.threads,
        seconds=settings.seconds,
        rounds=settings.rounds,
        max_warmup_seconds=settings.max_warmup_seconds,
        peers=_COMPARED,
        bundle=bundle,
        folder=plain,
        tell=tell,
    ).rows


def _gains(rows: Sequence[PeerRow]) -> tuple[Gain, ...]:
    """Each plain export against ours on the same runtime, eager against the faster of ours."""
    measured = {row.peer: row for row in rows if row.p50_ms is not None}
    pairs = [(PLAIN[runtime], OURS[runtime]) for runtime in PLAIN]
    ours = [measured[name] for name in OURS.values() if name in measured]
    if ours:
        pairs.append((EAGER, min(ours, key=lambda row: row.p50_ms or 0.0).peer))
    return tuple(
        Gain(
            against=theirs,
            ours=ours,
            times=(measured[theirs].p50_ms or 0.0) / (measured[ours].p50_ms or 1.0),
            interval=times_interval(measured[theirs], measured[ours]),
        )
        for theirs, ours in pairs
        if theirs in measured and ours in measured
    )


def _running(cell: Cell, bundle: Bundle, plain: Path, threads: int) -> tuple[Running, ...]:
    folder = plain / str(cell.resolution)
    folder.mkdir(parents=True, exist_ok=True)
    chain, _ = chain_of(cell.chain)
    graph = plain_onnx(Subject(chain, cell.resolution, threads, bundle, folder))
    return tuple(
        Running(
            runtime=runtime,
            as_exported=running_memory(graph, cell.resolution, runtime, threads),
            ours=running_memory(bundle.path, cell.resolution, runtime, threads),
        )
        for runtime in PLAIN
    )


def _earlier(out: Path | None, fresh: ExportSpeed) -> ExportSpeed:
    """What `out` holds already, where this run may go on with it."""
    if out is None or not out.exists():
        return fresh
    try:
        found = msgspec.json.decode(out.read_bytes(), type=ExportSpeed)
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(
            f"{out} must be a result of this benchmark, but is not: {error}"
        ) from error
    for name, mine, its in (
        ("machine", fresh.machine.cpu, found.machine.cpu),
        ("packages", fresh.machine.packages, found.machine.packages),
        ("threads", fresh.threads, found.threads),
        ("seconds", fresh.seconds_per_peer, found.seconds_per_peer),
    ):
        if mine != its:
            raise UsageError(
                f"{out} must have the same {name} to go on with it, but has {its}, not {mine}. Try"
                " another --out"
            )
    return found


@click.command()
@click.option(
    "--chains",
    type=options.NAMES,
    default="hu2019,seed,lite",
    show_default=True,
    help="Presets (untrained weights of seed 0 where none ship), or ONNX depth models.",
)
@click.option("--resolutions", type=options.RESOLUTIONS, default="64,128,224", show_default=True)
@click.option("--precision", type=click.Choice(("fp32", "fp16", "int8")), default="fp32")
@click.option("--tune", is_flag=True, help="Rewrites chosen by a measurement, not by the model.")
@click.option("--parts", type=options.NAMES, default=",".join(PARTS), show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=0, max=3600), default=4.0, show_default=True)
@click.option("--work", type=options.PathType(), help="Keep what is exported here.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print the tables in Markdown.")
@options.out_option(
    "Write the result with every sample as JSON; a file that exists is gone on with."
)
def main(
    chains: tuple[str, ...],
    resolutions: tuple[Resolution, ...],
    precision: Precision,
    tune: bool,
    parts: tuple[str, ...],
    threads: int,
    seconds: float,
    work: Path | None,
    as_markdown: bool,
    out: Path | None,
) -> None:
    r"""Measure our exports beside plain ones: speed, difference, time of the export, memory.

    \b
    Example:
      python -m depthmask.bench.export_speed --chains lite --resolutions 64,224 --out s.json --markdown
    """
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise UsageError(f"parts must be of {', '.join(PARTS)}, but got {', '.join(unknown)}")
    settings = Settings(threads=threads, seconds=seconds)
    result = ExportSpeed(
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=this_machine(),
        threads=threads,
        seconds_per_peer=seconds,
        rounds=settings.rounds,
    )
    result = _earlier(out, result)
    with ExitStack() as stack:
        status = stack.enter_context(options.messages.status("measuring"))
        if work is None:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="depthmask-speed-")))
        work.mkdir(parents=True, exist_ok=True)
        for chain in chains:
            for resolution in resolutions:
                wanted = Cell(
                    chain=chain,
                    height_px=resolution.height,
                    width_px=resolution.width,
                    precision=precision,
                    tuned=tune,
                )
                for part in parts:
                    cells = {cell.key: cell for cell in result.cells}
                    begun = cells.get(wanted.key, wanted)
                    measured = measure_cell(begun, (part,), settings, work, status.update)
                    cells[wanted.key] = measured
                    result = structs.replace(result, cells=tuple(cells.values()))
                    if out is not None:
                        encoded = msgspec.json.format(msgspec.json.encode(result), indent=2)
                        write_output(out, encoded + b"\n")
    if as_markdown or out is None:
        click.echo(markdown(result), nl=False)


if __name__ == "__main__":
    run_script(main, "export_speed")
