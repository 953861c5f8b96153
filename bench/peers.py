"""The same weights through other people's tools, side by side, in one run.

    python -m depthmask.bench.peers --resolution 64,128,224 --threads 2 --markdown

One resolution after the other: every peer of `bench.peer_list` is opened, compared with PyTorch eager
and warmed up; then they take turns in rounds, in an order drawn anew for each round. A peer that is not
installed or fails becomes a row that says why, and the others go on.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
import torch
from msgspec import structs

from depthmask.bench.grid import turn_order
from depthmask.bench.machine import this_machine
from depthmask.bench.peer_list import PEERS, Peer, Subject
from depthmask.bench.peer_row import PeerMeter
from depthmask.bench.peers_result import PeerRow, PeersResult, markdown_peers, rich_peers
from depthmask.bench.script import run_script
from depthmask.bench.statistics import Recording, compare_quantile, quantile_interval
from depthmask.bundle import Bundle
from depthmask.chain import MaskDepthChain
from depthmask.commands import options
from depthmask.errors import UsageError
from depthmask.export.exporter import DEFAULT_RESOLUTION, export_chain
from depthmask.export.source import open_chain
from depthmask.frames import FloatArray, Normalisation, Resolution, to_network
from depthmask.output_files import check_output, write_output
from depthmask.samples import open_samples

_PACKAGES = ("onnx", "onnxslim", "executorch")

Tell = Callable[[str], None]
"""Told of every step."""
Observe = Callable[[PeersResult], None]
"""Called with what has been found so far, after every resolution."""


def compare_peers(
    chain: MaskDepthChain,
    weights: dict[str, Any],
    *,
    resolutions: Sequence[Resolution] = (DEFAULT_RESOLUTION,),
    threads: int = 2,
    seconds: float = 2.0,
    rounds: int = 5,
    max_warmup_seconds: float = 5.0,
    seed: int = 0,
    peers: Sequence[Peer] = PEERS,
    bundle: Bundle | None = None,
    folder: Path | None = None,
    tell: Tell = lambda doing: None,
    observe: Observe = lambda result: None,
) -> PeersResult:
    """Measure a chain through every peer, at one resolution after the other.

    Args:
        chain: with its weights; it is put into evaluation mode.
        weights: what is recorded of them.
        resolutions: one or more.
        threads: for inference, of every peer.
        seconds: time samples for at least this long per peer and resolution.
        rounds: in how many turns.
        max_warmup_seconds: warm a peer up until it is steady, but no longer than this.
        seed: of the order of turns.
        peers: what to measure.
        bundle: the chain's export with `image` input, at these resolutions; None exports it.
        folder: where peers keep what they convert, for the next time; None: nothing is kept.
        tell: told of every step.
        observe: told of every resolution's result.

    Raises:
        UsageError: a setting is out of range, or the chain cannot be exported.
        CheckFailedError: our export does not agree with PyTorch.
    """
    if min(rounds, threads, len(resolutions), len(peers)) < 1 or seconds < 0:
        raise UsageError(
            "rounds, threads, resolutions and peers must be 1 or more, seconds 0 or more"
        )
    result = PeersResult(
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=this_machine(),
        package_versions=_versions(),
        preset=chain.spec.preset,
        weights=weights,
        threads=threads,
        seconds_per_peer=seconds,
        rounds=rounds,
        seed=seed,
        rows=(),
    )
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with tempfile.TemporaryDirectory(prefix="depthmask-peers-") as name:
            if bundle is None:
                tell("exporting")
                ours = Path(name) / "ours"
                bundle = export_chain(
                    chain, ours, resolution=resolutions, input="image", weights=weights
                )
            for resolution in sorted(set(resolutions)):
                kept = (folder or Path(name)) / str(resolution)
                kept.mkdir(parents=True, exist_ok=True)
                subject = Subject(chain, resolution, threads, bundle, kept)
                some = [PeerMeter(peer, subject) for peer in peers]
                elapsed_s = _measure(some, subject, seconds, rounds, max_warmup_seconds, seed, tell)
                found = _with_ratios([row.found for row in some], elapsed_s)
                result = structs.replace(result, rows=(*result.rows, *found))
                observe(result)
    finally:
        torch.set_num_threads(threads_before)
    return result


def _measure(
    rows: Sequence[PeerMeter],
    subject: Subject,
    seconds: float,
    rounds: int,
    max_warmup_seconds: float,
    seed: int,
    tell: Tell,
) -> float:
    """All steps of all rows; gives the seconds that the rounds took."""
    image_13HW = _image(subject)
    with torch.inference_mode():
        eager = [maps.numpy() for maps in subject.chain(torch.from_numpy(image_13HW))]

    def step(doing: str, row: PeerMeter, take: Callable[[PeerMeter], None]) -> None:
        tell(f"{doing} {row.found.peer} at {subject.resolution}")
        row.attempt(take)

    for row in rows:
        step("opening", row, lambda row: row.open(image_13HW, eager))
    for row in rows:
        step("warming up", row, lambda row: row.warm_up(max_warmup_seconds))
    started = time.perf_counter()
    for number in range(rounds):
        for index in turn_order(seed, number, len(rows)):
            doing = f"round {number + 1} of {rounds}:"
            step(doing, rows[index], lambda row: row.sample(seconds / rounds))
    return time.perf_counter() - started


def _image(subject: Subject) -> FloatArray:
    """The first shipped sample, as the networks see it, (1,3,H,W)."""
    spec = subject.chain.spec
    frame_HW3 = open_samples().image(0)
    return to_network(frame_HW3[None], subject.resolution, Normalisation(spec.mean, spec.std))


def _with_ratios(rows: Sequence[PeerRow], elapsed_s: float) -> list[PeerRow]:
    """The rows of one resolution with intervals, set against the fastest of ours."""
    rows = [structs.replace(row, elapsed_s=elapsed_s) for row in rows]
    measured = [row for row in rows if row.status == "ok" and row.p50_ms is not None]
    best = min(
        (row for row in measured if row.ours), key=lambda row: row.p50_ms or 0.0, default=None
    )
    return [_with_ratio(row, best) if row in measured else _bare(row) for row in rows]


def _with_ratio(row: PeerRow, best: PeerRow | None) -> PeerRow:
    recording = _recording(row)
    interval_ms = quantile_interval(recording) if recording else None
    times_ours = row.p50_ms / best.p50_ms if best and best.p50_ms and row.p50_ms else None
    return structs.replace(
        row,
        p50_interval_ms=(interval_ms.lower, interval_ms.upper) if interval_ms else None,
        times_ours=times_ours,
        times_ours_interval=times_interval(row, best) if best and row is not best else None,
    )


def times_interval(row: PeerRow, ours: PeerRow) -> tuple[float, float] | None:
    """Where the median of a row over that of another lies; None where the samples do not tell."""
    recording, against = _recording(row), _recording(ours)
    if recording is None or against is None:
        return None
    found = compare_quantile(against, recording)
    if found.lower is None or found.upper is None:
        return None
    return 1 + found.lower, 1 + found.upper


def _bare(row: PeerRow) -> PeerRow:
    """A row that failed half-way has no numbers."""
    return structs.replace(row, p50_ms=None, latency=None, own_medians_ms=())


def _recording(row: PeerRow) -> Recording | None:
    """Its samples, in rounds with the turns of the others between them; None of its own meter's."""
    if row.latency is None:
        return None
    runs = [turn.runs for turn in row.latency.turns]
    rounds = np.repeat(np.arange(len(runs)), runs)
    return Recording(np.array(row.latency.samples_ms), rounds, row.elapsed_s)


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _chosen(names: tuple[str, ...] | None) -> Sequence[Peer]:
    """Those of `PEERS` whose name holds one of the words; ours always."""
    if not names:
        return PEERS
    for name in names:
        if not any(name.lower() in peer.name.lower() for peer in PEERS):
            raise UsageError(
                f"a peer must be one of {'; '.join(peer.name for peer in PEERS)}, but got {name!r}"
            )
    return [p for p in PEERS if p.ours or any(name.lower() in p.name.lower() for name in names)]


@click.command()
@options.preset_option
@options.checkpoint_option
@click.option("--init", type=int, metavar="SEED", help="Untrained weights of a seed.")
@options.resolutions_option
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=0, max=3600), default=2.0, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--peers", type=options.NAMES, help="Only those whose names hold these words.")
@click.option("--markdown", is_flag=True, help="Print the table in Markdown.")
@options.out_option("Write the result with every sample as JSON.")
@options.overwrite_option
@options.json_option
def main(
    preset: str | None,
    checkpoint: Path | None,
    init: int | None,
    resolutions: tuple[Resolution, ...] | None,
    threads: int,
    seconds: float,
    rounds: int,
    peers: tuple[str, ...] | None,
    markdown: bool,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    r"""Measure a chain through PyTorch, ONNX Runtime, OpenVINO and others, beside ours.

    \b
    Example:
      python -m depthmask.bench.peers --resolution 64,128,224 --out peers.json --markdown
    """
    if out is not None:
        check_output(out, overwrite=overwrite)

    def write(result: PeersResult) -> None:
        if out is not None:
            write_output(out, msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")

    chain, weights = open_chain(preset, checkpoint=checkpoint, init=init)
    with options.messages.status("opening") as status:
        result = compare_peers(
            chain,
            weights,
            resolutions=resolutions or (DEFAULT_RESOLUTION,),
            threads=threads,
            seconds=seconds,
            rounds=rounds,
            peers=_chosen(peers),
            tell=status.update,
            observe=write,
        )
    if as_json:
        options.print_json(msgspec.to_builtins(result))
    elif markdown:
        click.echo(markdown_peers(result), nl=False)
    else:
        options.console.print(rich_peers(result))


if __name__ == "__main__":
    run_script(main, "peers")
