"""New parts for a bundle that exists, in place of the old ones; what it has beside them stays."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from depthmask.atomic import new_folder
from depthmask.bundle import Bundle, Manifest, open_bundle, write_manifest


def remake(
    bundle: Bundle, is_replaced: Callable[[str], bool], make: Callable[[Path], Manifest]
) -> Bundle:
    """Copy a bundle without some of its files, add new ones, and put it in the old one's place.

    Args:
        bundle: whole, as `open_bundle` checks.
        is_replaced: whether a file of it, by name, is left out.
        make: adds files to the folder and gives the manifest, which lists them.

    Raises:
        OutputError: it cannot be written; the old one stays.
    """
    with new_folder(bundle.path, overwrite=True) as folder:
        for name in bundle.manifest.files:
            if not is_replaced(name):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(bundle.path / name, folder / name)
        write_manifest(folder, make(folder))
    return open_bundle(bundle.path, check_files=False)
