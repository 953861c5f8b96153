"""Brotli'd siblings of files (`NAME.br`), for servers that send what is compressed already."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

BROTLI_SUFFIX = ".br"
# Half the sizes that gzip gives, in a second; the last 10 % would take minutes.
_QUALITY = 5
_WINDOW_BITS = 24
_NODE_PROGRAM = """
const { brotliCompressSync, constants: c } = require('node:zlib');
const { readFileSync, writeFileSync } = require('node:fs');
const [quality, window, ...paths] = process.argv.slice(1);
const params = { [c.BROTLI_PARAM_QUALITY]: +quality, [c.BROTLI_PARAM_LGWIN]: +window };
for (const path of paths) writeFileSync(path + '.br', brotliCompressSync(readFileSync(path), { params }));
"""


def compress(paths: list[Path]) -> bool:
    """Write the brotli'd sibling of each file, by the package `brotli` or else by node.

    Returns:
        False where this machine has neither: then nothing is written.

    Raises:
        OSError: a file cannot be written.
    """
    node = shutil.which("node")
    if importlib.util.find_spec("brotli") is not None:
        _by_package(paths)
    elif node is not None:
        command = [node, "-e", _NODE_PROGRAM, "--", str(_QUALITY), str(_WINDOW_BITS)]
        try:
            subprocess.run([*command, *map(str, paths)], check=True, capture_output=True, text=True)
        except subprocess.CalledProcessError as error:
            lines = error.stderr.strip().splitlines()
            raise OSError(f"node could not compress: {lines[-1] if lines else error}") from error
    else:
        return False
    return True


def _by_package(paths: list[Path]) -> None:
    import brotli

    for path in paths:
        packed: bytes = brotli.compress(path.read_bytes(), quality=_QUALITY, lgwin=_WINDOW_BITS)
        path.with_name(path.name + BROTLI_SUFFIX).write_bytes(packed)
