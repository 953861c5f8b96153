"""Mutation fuzzing: damaged files to every parser, each in a child process with bounds.

    python tests/faults/mutate.py --count 2000 --seed 0 manifest images

A child feeds mutations one by one and says what came of each. The parent restarts it behind one that ends
it, takes longer than 10 s, or takes more memory than the child's bound. Same seed, same mutations.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import os
import random
import resource
import select
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECONDS_PER_CASE = 10
SECONDS_TO_START = 120
MEMORY_BYTES = 3 << 30
"""What a child may take beside what it has when its parser is loaded."""

_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1,
            2**63, 2**64 - 1, 10**6, 10**9)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1e308, 1e-320, -0.0, 2**31, 2**63, 2**64, 10**30, 10**400, "", "\0", "\n", "../x",
    "[red]", "\ud800", "x" * 5000, [], {}, [[]], [0] * 1000, {"": 0}, "NaN", "/etc/passwd", "1e999",
    [None], "os:system",
)  # fmt: skip


def mutate(rng: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """One to four changes: flips, cuts, splices, numbers; of JSON and zip files also within."""
    if rng.random() < 0.4:
        if content[:1] == b"{":
            return mutate_json(rng, content)
        if content[:4] == b"PK\x03\x04":
            return mutate_zip(rng, content, others)
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        _CHANGES[rng.randrange(len(_CHANGES))](rng, data, others)
    return bytes(data)


def mutate_json(rng: random.Random, content: bytes) -> bytes:
    """Other values, missing and repeated keys."""
    try:
        document = json.loads(content)
    except ValueError:
        return content
    for _ in range(rng.choice((1, 1, 2, 3))):
        places: list[tuple[Any, Any]] = []
        _places(document, places)
        if not places:
            break
        holder, key = rng.choice(places)
        what = rng.random()
        if what < 0.6:
            holder[key] = copy.deepcopy(rng.choice(_VALUES))
        elif what < 0.75:
            del holder[key]
        elif what < 0.9:
            holder[key] = copy.deepcopy(rng.choice(places)[0])
        elif isinstance(holder, dict):
            holder[rng.choice(("", "x", "../x", str(key) + " "))] = copy.deepcopy(
                rng.choice(_VALUES)
            )
        else:
            holder.append(copy.deepcopy(rng.choice(_VALUES)))
    return json.dumps(document).encode()


def mutate_zip(rng: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """The same archive with a member changed, renamed, repeated or gone, its checksums right."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
    except (zipfile.BadZipFile, KeyError):
        return content
    at = rng.randrange(len(members))
    name, data = members[at]
    what = rng.random()
    if what < 0.8:
        members[at] = (name, mutate(rng, data, [data, *others]) if data else b"\0")
    elif what < 0.9:
        members[at] = (rng.choice(("", "/x", "../x", name + "x", "a\0b")), data)
    elif what < 0.95:
        del members[at]
    else:
        members.append((name, data))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data)
    return out.getvalue()


def _places(document: Any, found: list[tuple[Any, Any]]) -> None:
    keys = document if isinstance(document, dict) else range(len(document))
    for key in list(keys):
        found.append((document, key))
        if isinstance(document[key], (dict, list)):
            _places(document[key], found)


def _position(rng: random.Random, data: bytearray) -> int:
    """Anywhere; often near the beginning, where headers are."""
    size = max(1, len(data) if rng.random() < 0.5 else min(len(data), 256))
    return rng.randrange(size)


def _flip(rng: random.Random, data: bytearray, others: Sequence[bytes]) -> None:
    for _ in range(rng.choice((1, 1, 1, 8))):
        if data:
            data[_position(rng, data)] ^= 1 << rng.randrange(8)


def _cut(rng: random.Random, data: bytearray, others: Sequence[bytes]) -> None:
    del data[_position(rng, data) :]


def _remove(rng: random.Random, data: bytearray, others: Sequence[bytes]) -> None:
    start = _position(rng, data)
    del data[start : start + rng.choice((1, 2, 4, 16, 256))]


def _repeat(rng: random.Random, data: bytearray, others: Sequence[bytes]) -> None:
    start = _position(rng, data)
    part = data[start : start + rng.choice((1, 4, 16, 256))]
    data[start:start] = part * rng.choice((1, 2, 50))


def _splice(rng: random.Random, data: bytearray, others: Sequence[bytes]) -> None:
    other = rng.choice(others) if others else b"\0"
    start = rng.randrange(max(1, len(other)))
    part = other[start : start + rng.choice((4, 16, 64, 512))]
    at = _position(rng, data)
    data[at : at + (len(part) if rng.random() < 0.5 else 0)] = part


def _number(rng: random.Random, data: bytearray, others: Sequence[bytes]) -> None:
    at, width = _position(rng, data), rng.choice((1, 2, 4, 8))
    order = rng.choice(("little", "big"))
    value = rng.choice(_NUMBERS) & ((1 << 8 * width) - 1)
    data[at : at + width] = value.to_bytes(width, order)


def _digits(rng: random.Random, data: bytearray, others: Sequence[bytes]) -> None:
    places = [at for at in range(min(len(data), 4096)) if chr(data[at]).isdigit()]
    if places:
        at = rng.choice(places)
        text = rng.choice((*map(str, _NUMBERS), "-1", "1e999", ".5", "9" * 400))
        data[at : at + 1] = text.encode()


_CHANGES: tuple[Callable[[random.Random, bytearray, Sequence[bytes]], None], ...] = (
    _flip, _flip, _cut, _remove, _repeat, _splice, _number, _number, _digits,
)  # fmt: skip


@dataclass
class Outcome:
    """What came of the mutations of one parser."""

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    def __str__(self) -> str:
        counted = ", ".join(f"{count} {kind}" for kind, count in sorted(self.counts.items()))
        return f"{self.name}: {counted}; slowest {self.slowest_s:.2f} s, {len(self.faults)} faults"


def fuzz(name: str, count: int, seed: int, keep: Path | None = None) -> Outcome:
    """Feed `count` mutations to a parser, or in turn to several (`a+b`, in one child).

    A list of those that did harm is written to the folder `keep`.
    """
    outcome = Outcome(name)
    first = 0
    while first < count:
        first = _feed_until_it_ends(outcome, first, count, seed)
    if keep is not None and outcome.faults:
        keep.mkdir(parents=True, exist_ok=True)
        (keep / f"{name}.txt").write_text("\n".join(outcome.faults) + "\n")
    return outcome


def _feed_until_it_ends(outcome: Outcome, first: int, count: int, seed: int) -> int:
    """Run one child; gives the index to go on from."""
    command = [sys.executable, __file__, "--child", outcome.name, str(seed), str(first), str(count)]
    with (
        tempfile.TemporaryDirectory(prefix="fuzz-") as folder,
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=said,
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": ""},
        ) as child,
    ):
        assert child.stdout is not None
        index, pending = first, b""
        limit_s, begun = SECONDS_TO_START, time.monotonic()
        while index < count:
            if not select.select([child.stdout], [], [], limit_s)[0]:
                child.kill()
                outcome.faults.append(f"{index}: took longer than {limit_s} s")
                outcome.counts["hung"] += 1
                return index + 1
            chunk = os.read(child.stdout.fileno(), 1 << 16)
            if not chunk:
                said.seek(0)
                tail = said.read()[-300:].decode(errors="replace").strip()
                if limit_s == SECONDS_TO_START:
                    raise RuntimeError(f"{outcome.name} does not start: {tail}")
                outcome.faults.append(f"{index}: ended with {child.wait()}: {tail}")
                outcome.counts["crashed"] += 1
                return index + 1
            pending += chunk
            *lines, pending = pending.split(b"\n")
            for line in lines:
                kind, _, detail = line.decode(errors="replace").partition(" ")
                if kind == "ready":
                    limit_s = SECONDS_PER_CASE
                    begun = time.monotonic()
                    continue
                outcome.slowest_s = max(outcome.slowest_s, time.monotonic() - begun)
                begun = time.monotonic()
                outcome.counts[kind] += 1
                if kind not in ("read", "refused"):
                    outcome.faults.append(f"{index}: {detail}")
                index += 1
    return count


def _child(name: str, seed: int, first: int, count: int) -> None:
    import fuzz_targets

    from depthmask.errors import DepthmaskError

    report = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what parsers print is not for the parent
    folder = Path.cwd()
    targets = []
    for number, one in enumerate(name.split("+")):
        (folder / str(number)).mkdir()
        seeds = fuzz_targets.seeds(one)
        targets.append((seeds, fuzz_targets.TARGETS[one].prepare(folder / str(number))))
        targets[-1][1](seeds[0])  # loads what it needs
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES,) * 2)
    report.write("ready\n")
    for index in range(first, count):
        rng = random.Random(f"{seed} {name} {index}")
        seeds, feed = targets[index % len(targets)]
        content = mutate(rng, rng.choice(seeds), seeds)
        try:
            feed(content)
        except DepthmaskError as error:
            message = str(error)
            fault = "\n" in message or len(message) > 2000
            report.write(f"long {message!r}\n" if fault else "refused\n")
        except BaseException as error:
            report.write(f"bug {_where(error)}\n")
        else:
            report.write("read\n")


def _where(error: BaseException) -> str:
    """An error on one line, with our own innermost line of code."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    ours = [
        f"{Path(f.filename).name}:{f.lineno}" for f in frames if "site-packages" not in f.filename
    ]
    text = f"{type(error).__name__}: {error}".encode("ascii", "backslashreplace").decode()
    return f"{' '.join(text.split())[:300]} at {' '.join(ours[-3:])}"


def main() -> None:
    """Run from the command line; exit 1 where a mutation did harm."""
    sys.path.insert(0, str(Path(__file__).parent))
    if sys.argv[1:2] == ["--child"]:
        name, *numbers = sys.argv[2:]
        _child(name, *map(int, numbers))
        # Native libraries may be in disorder by now; nothing is left to be done.
        os._exit(0)
    import fuzz_targets

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", help=", ".join(fuzz_targets.TARGETS))
    parser.add_argument("--ours", type=int, default=20_000, help="of each parser that is ours")
    parser.add_argument("--native", type=int, default=2_000, help="of each that calls native code")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for a list of what did harm")
    arguments = parser.parse_args()
    faults = 0
    for name in arguments.targets or fuzz_targets.TARGETS:
        native = fuzz_targets.TARGETS[name].native
        begun = time.monotonic()
        outcome = fuzz(
            name, arguments.native if native else arguments.ours, arguments.seed, arguments.keep
        )
        print(f"{outcome} ({time.monotonic() - begun:.0f} s)", flush=True)
        for fault in outcome.faults[:10]:
            print(f"  {fault}", flush=True)
        faults += len(outcome.faults)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
