"""What a bundle may hold beside its ONNX: engines, a page for the browser, a model repository.

Each is a `Target`: options that know how to make it. An export makes one with the bundle; `rebuild` gives one
to a bundle that exists.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from depthmask.atomic import new_folder
from depthmask.bundle import Bundle, Manifest, Precision, open_bundle, write_manifest

Progress = Callable[[str], None]
"""Told of each phase as it begins."""
Make = Callable[[Path, Manifest, Progress], Manifest]
"""Adds files to a bundle's folder, which holds its graphs; gives the manifest with them, not yet written."""


class Target(Protocol):
    """Options of what is made."""

    @property
    def name(self) -> str:
        """What `--to` calls it."""

    def prepare(self, precision: Precision) -> Make:
        """Check and fetch what making it needs, before any slow work.

        Raises:
            UsageError: it cannot be made of a bundle in this precision, or as asked for.
            UnavailableError: a package, a GPU or a file that it needs is not here.
        """

    def replaces(self, file: str) -> bool:
        """Whether a file of a bundle, by its name there, goes when this target is made again."""


def rebuild(path: Path, target: Target, progress: Progress = lambda phase: None) -> Bundle:
    """Give a bundle a target in place of the one that it may have; what is beside that stays. Needs no torch.

    Raises:
        InputError: it is no bundle, or a damaged one.
        OutputError: it cannot be written; the old one stays.
        UsageError, CheckFailedError, UnavailableError: as the target's `prepare` and what that gives.
    """
    bundle = open_bundle(path)
    make = target.prepare(bundle.manifest.precision)
    with new_folder(bundle.path, overwrite=True) as folder:
        for name in bundle.manifest.files:
            if not target.replaces(name):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(bundle.path / name, folder / name)
        write_manifest(folder, make(folder, bundle.manifest, progress))
    return open_bundle(bundle.path, check_files=False)
