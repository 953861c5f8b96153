"""Debian packages as sources of images: fetching, unpacking, resources inside .rcc, licences.

Nothing here needs root: `apt-get download` writes into a folder, `dpkg-deb` unpacks into another.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from depthmask.errors import InputError, UnavailableError

_SPDX = {
    "public-domain": "LicenseRef-public-domain",
    "gpl-2": "GPL-2.0-only",
    "gpl-2+": "GPL-2.0-or-later",
    "gplv2+": "GPL-2.0-or-later",
    "gpl-3": "GPL-3.0-only",
    "gpl-3+": "GPL-3.0-or-later",
}
# Where a package installs what its copyright file names by the path in the upstream sources.
_UPSTREAM = (
    ("/gcompris/", ""),
    ("usr/share/backgrounds/mate/", ""),
    ("usr/share/backgrounds/", "16.04/"),
)
_IMAGE_SUFFIX = re.compile(r"\.(jpe?g|png|webp)$", re.I)
_OR_LATER = re.compile(r"version 2 of the License, or\s+\(at your option\) any later")
_RCC_HEADER = struct.Struct(">4s4I")
_RCC_COMPRESSED, _RCC_FOLDER = 1, 2


@dataclass(frozen=True)
class Package:
    """An unpacked Debian package: its name, version and the folder that holds `usr/`."""

    name: str
    version: str
    root: Path


@dataclass(frozen=True)
class Credit:
    """Whose work a file is: an SPDX licence identifier, the holders, and where it came from."""

    licence: str
    author: str
    origin: str = ""


@dataclass(frozen=True)
class CreditRule:
    """The credit of all files that one of `patterns` (shell wildcards, on whole paths) matches."""

    patterns: tuple[str, ...]
    credit: Credit


@dataclass(frozen=True)
class Source:
    """A file of a package: its bytes, and whose work it is."""

    package: str
    version: str
    content: bytes = field(repr=False)
    credit: Credit


class Library:
    """Finds files in unpacked packages, also inside .rcc files, with their credits."""

    def __init__(self, packages: Mapping[str, Package]) -> None:
        self._packages = packages
        self._resources: dict[Path, dict[str, bytes]] = {}
        self._rules: dict[str, list[CreditRule]] = {}

    def find(self, package: str, path: str) -> Source | None:
        """The file, or None where the package does not hold it.

        A path such as `usr/share/x.rcc/pictures/y.webp` goes on inside the .rcc file.

        Raises:
            InputError: the package is damaged, or names no licence for the file.

        """
        found = self._packages[package]
        container, inner = _split_rcc(path)
        if not (found.root / container).is_file():
            return None
        if package not in self._rules:
            self._rules[package] = read_copyright(found)
        rules = self._rules[package]
        if inner:
            resources = self._open_rcc(found.root / container)
            content = resources.get(inner)
            rules = rules + _readme_rules(resources, inner)
        else:
            content = (found.root / container).read_bytes()
        if content is None:
            return None
        credit = find_credit(_upstream_path(inner or container), rules)
        return Source(package, found.version, content, credit)

    def _open_rcc(self, path: Path) -> dict[str, bytes]:
        if path not in self._resources:
            self._resources[path] = read_rcc(path)
        return self._resources[path]


def download_packages(names: Sequence[str], folder: Path) -> None:
    """Fetch the newest version of each package that apt knows into `folder`, without root.

    Raises:
        UnavailableError: apt-get is missing, or it cannot fetch one of them.

    """
    apt = find_tool("apt-get", "fetch the packages on a Debian machine and pass packages_dir")
    command = [apt, "download", "-qq", *names]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise UnavailableError(
            f"apt-get must be able to download {', '.join(names)}, but got: "
            f"{last_line(result.stderr)}. Try `apt-get update`, or pass packages_dir."
        )


def find_package(name: str, folder: Path) -> Path:
    """The .deb of a package in a folder; of several versions the last by name.

    Raises:
        InputError: there is none.

    """
    found = sorted(folder.glob(f"{name}_*.deb"))
    if not found:
        raise InputError(
            f"{folder} must hold {name}_*.deb, but got none. Try `apt-get download {name}` there."
        )
    return found[-1]


def unpack_package(deb: Path, folder: Path) -> Package:
    """Unpack a .deb file into `folder`.

    Raises:
        UnavailableError: dpkg-deb is missing.
        InputError: the package is damaged.

    """
    tool = find_tool("dpkg-deb", "install dpkg")
    fields = _dpkg_deb([tool, "--field", str(deb), "Package", "Version"], deb)
    values = dict(line.split(": ", 1) for line in fields.splitlines() if ": " in line)
    if "Package" not in values or "Version" not in values:
        raise InputError(f"{deb} must name its Package and Version, but got {fields!r}.")
    folder.mkdir(parents=True)
    _dpkg_deb([tool, "--extract", str(deb), str(folder)], deb)
    return Package(values["Package"], values["Version"], folder)


def read_rcc(path: Path) -> dict[str, bytes]:
    """All files of a Qt resource file, by their path in its tree (Qt's rcc formats 1 to 3).

    Entries that Qt compressed with zstd are left out: images never are.

    Raises:
        InputError: the file is not a resource file, or is damaged.

    """
    content = path.read_bytes()
    try:
        return dict(_rcc_entries(content))
    except (struct.error, zlib.error, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path.name} must be a Qt resource file, but got: {error}. Try fetching it again."
        ) from error


def read_copyright(package: Package) -> list[CreditRule]:
    """The rules of the package's machine-readable copyright file, most general first.

    Raises:
        InputError: the package has no copyright file.

    """
    path = package.root / "usr/share/doc" / package.name / "copyright"
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(
            f"{package.name} must hold a copyright file, but got {error.strerror}."
        ) from error
    or_later = _OR_LATER.search(re.sub(r"\n\s*", " ", text)) is not None
    return [rule for part in re.split(r"\n\s*\n", text) if (rule := _debian_rule(part, or_later))]


def read_credits(text: str, folder: str) -> list[CreditRule]:
    """The rules of a README of GCompris: Copyright, License, Source, file names, by blocks.

    The names are relative to `folder`, the README's own.
    """
    rules = []
    for part in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = dict(
            re.findall(r"^(Copyright|License|Source|Comment): *(.+)$", part, re.M)
        )
        names = re.findall(r"^([\w./*()+-]+\.\w{3,4})$", part, re.M)
        if names and {"Copyright", "License"} <= fields.keys():
            origin = fields.get("Source", fields.get("Comment", ""))
            credit = Credit(spdx(fields["License"]), fields["Copyright"].strip(), origin)
            rules.append(CreditRule(tuple(f"{folder}/{name}" for name in names), credit))
    return rules


def find_credit(path: str, rules: Sequence[CreditRule]) -> Credit:
    """The credit that the last matching rule gives; .jpg, .png and .webp count as the same.

    (GCompris converted its pictures to WebP after the rules had been written.)

    Raises:
        InputError: no rule matches.

    """
    plain = _without_suffix(path)
    for rule in reversed(rules):
        if any(fnmatchcase(plain, _without_suffix(pattern)) for pattern in rule.patterns):
            return rule.credit
    raise InputError(f"{path} must have a licence in its package, but got none.")


def spdx(name: str) -> str:
    """An SPDX identifier for a licence's short name; unknown ones become a LicenseRef."""
    short = re.sub(r"\s+", "-", name.strip())
    if short.lower() in _SPDX:
        return _SPDX[short.lower()]
    if re.fullmatch(r"CC0-1\.0|CC-BY(-SA)?-[1-4]\.[05]", short, re.I):
        return short.upper()
    return "LicenseRef-" + re.sub(r"[^A-Za-z0-9.-]+", "-", short)


def find_tool(name: str, otherwise: str) -> str:
    """The path of a program.

    Raises:
        UnavailableError: there is none; the message tries `otherwise`.

    """
    found = shutil.which(name)
    if found is None:
        raise UnavailableError(
            f"{name} must be installed, but got no such program. Try: {otherwise}."
        )
    return found


def last_line(text: str) -> str:
    """What a program said last, for a message of one line."""
    return (text.strip().splitlines() or ["no message"])[-1].strip().rstrip(".")


def _dpkg_deb(command: list[str], deb: Path) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise InputError(
            f"{deb} must be a Debian package, but got: {last_line(result.stderr)}. "
            "Try fetching it again."
        )
    return result.stdout


def _debian_rule(part: str, or_later: bool) -> CreditRule | None:
    fields: dict[str, str] = dict(re.findall(r"^(\w[\w-]*):((?:.*)(?:\n[ \t]+.*)*)", part, re.M))
    if not {"Files", "License"} <= fields.keys():
        return None
    short = fields["License"].strip().splitlines()[0]
    licence = "GPL-2.0-or-later" if short == "GPL-2" and or_later else spdx(short)
    author = "; ".join(line.strip() for line in fields.get("Copyright", "").strip().splitlines())
    origin = " ".join(fields.get("Comment", "").split())
    return CreditRule(tuple(fields["Files"].split()), Credit(licence, author, origin))


def _split_rcc(path: str) -> tuple[str, str]:
    container, mark, inner = path.partition(".rcc/")
    return (f"{container}.rcc", f"/{inner}") if mark else (path, "")


def _upstream_path(path: str) -> str:
    for installed, upstream in _UPSTREAM:
        if path.startswith(installed):
            return upstream + path.removeprefix(installed)
    return path


def _readme_rules(resources: Mapping[str, bytes], path: str) -> list[CreditRule]:
    """The credits of the README files in the folders above a resource, the nearest last."""
    rules: list[CreditRule] = []
    for folder in reversed(PurePosixPath(path).parents):
        text = resources.get(f"{folder}/README", b"").decode("utf-8", errors="replace")
        rules += read_credits(text, _upstream_path(f"{folder}"))
    return rules


def _without_suffix(path: str) -> str:
    return _IMAGE_SUFFIX.sub("", path)


def _rcc_entries(content: bytes) -> Iterator[tuple[str, bytes]]:
    if content[:4] != b"qres":
        raise ValueError(f"its first bytes are {content[:4]!r}")
    _, version, tree_at, data_at, names_at = _RCC_HEADER.unpack_from(content)
    node_bytes = 14 if version < 2 else 22

    def name(offset: int) -> str:
        (count,) = struct.unpack_from(">H", content, names_at + offset)
        start = names_at + offset + 6
        return content[start : start + 2 * count].decode("utf-16-be")

    def walk(index: int, parent: str) -> Iterator[tuple[str, bytes]]:
        at = tree_at + index * node_bytes
        name_at, flags = struct.unpack_from(">IH", content, at)
        path = f"{parent}/{name(name_at)}" if index else ""
        if flags & _RCC_FOLDER:
            count, first = struct.unpack_from(">2I", content, at + 6)
            for child in range(first, first + count):
                yield from walk(child, path)
        elif flags in (0, _RCC_COMPRESSED):
            (offset,) = struct.unpack_from(">I", content, at + 10)
            (size_bytes,) = struct.unpack_from(">I", content, data_at + offset)
            start = data_at + offset + 4
            if start + size_bytes > len(content):
                raise ValueError(f"{path} ends behind the end of the file")
            data = content[start : start + size_bytes]
            yield path, zlib.decompress(data[4:]) if flags else data

    return walk(0, "")
