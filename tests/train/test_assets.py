"""Fetching training material, with tiny packages built here: no network."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import depthmask
from depthmask.commands.data_command import command as data_command
from depthmask.errors import InputError, OutputError, UnavailableError, UsageError
from depthmask.train import assets, packages

pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")

CROW = "animals/birds/crow.png"
FROG = "animals/amphibians/frog.png"
TOWER = "/gcompris/src/activities/explore_monuments/resource/france/eiffelTower.webp"
LIBERTY = "/gcompris/src/activities/categorization/resource/images/monuments/statueOfLiberty.webp"
FORT = "/gcompris/src/activities/explore_monuments/resource/wonders/colosseum.webp"
REEF = "/gcompris/src/activities/clickgame/resource/sea3.webp"
MOUNTAINS = "usr/share/backgrounds/picosdeeuropa_by_Aitzol_Berasategi.jpg"
README = """Copyright: Ann Other
License: Public Domain
Source: somewhere
Files:
wonders/colosseum.webp
wonders/colosseum.ogg

Copyright: A Musician
License: CC-BY 3.0
Files:
wonders/colosseum.ogg
"""


def image_bytes(array, suffix):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, suffix)
    return stream.getvalue()


def stamp(height=150, width=140):
    image = np.zeros((height, width, 4), np.uint8)
    image[20:120, 30:110] = (200, 10, 30, 255)
    image[5, 5, 3] = 3  # too faint to count
    return image_bytes(image, "PNG")


def photo(height, width, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return image_bytes(noise, suffix)


def write_rcc(files, *, version=3):
    """Qt's resource format, as its compiler writes it: a tree, names and data."""
    tree = {}
    for path, content in files.items():
        node = tree
        *folders, name = path.strip("/").split("/")
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = content
    nodes, names, data = [("", tree)], b"", b""
    rows = []
    for name, node in nodes:  # grows while it runs: breadth first, as the format wants
        name_at = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
        if isinstance(node, dict):
            row = struct.pack(">IHII", name_at, 2, len(node), len(nodes))
            nodes += node.items()
        else:
            squeezed = name == "README"
            payload = struct.pack(">I", len(node)) + zlib.compress(node) if squeezed else node
            row = struct.pack(">IHHHI", name_at, int(squeezed), 0, 0, len(data))
            data += struct.pack(">I", len(payload)) + payload
        rows.append(row + (b"" if version < 2 else bytes(8)))
    head = 20 if version < 3 else 24
    block = b"".join(rows)
    offsets = (head, head + len(block) + len(names), head + len(block))
    return b"qres" + struct.pack(">4I", version, *offsets) + bytes(head - 20) + block + names + data


def build_deb(folder, name, files, copyright_text, version="1.0-1"):
    root = folder / f"{name}.tree"
    control = f"Package: {name}\nVersion: {version}\nArchitecture: all\n"
    control += "Maintainer: Nobody <nobody@example.org>\nDescription: test\n"
    content = {
        "DEBIAN/control": control.encode(),
        f"usr/share/doc/{name}/copyright": copyright_text.encode(),
        **files,
    }
    for path, data in content.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    command = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(root)]
    subprocess.run([*command, str(folder / f"{name}_{version}_all.deb")], check=True)
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def debs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("debs")
    gpl = "Files: *\nCopyright: 2002 Bill\n  2003 Ben\nLicense: GPL-2\n\nLicense: GPL-2\n"
    gpl += " version 2 of\n the License, or\n (at your option) any later version.\n"
    stamps = {f"usr/share/tuxpaint/stamps/{path}": stamp() for path in (CROW, FROG)}
    stamps["usr/share/tuxpaint/stamps/unreviewed.png"] = stamp()
    build_deb(folder, "tuxpaint-stamps-default", stamps, gpl)
    monuments = {
        FORT: photo(500, 1000, "WEBP"),
        "/gcompris/src/activities/explore_monuments/resource/README": README.encode(),
        FORT.replace("colosseum.webp", "unreviewed.webp"): photo(10, 10, "WEBP"),
        TOWER: photo(400, 300, "WEBP"),
    }
    rules = "Files: *\nCopyright: all\nLicense: GPL-3+\n\n"
    rules += "Files: src/activities/clickgame/resource/sea3.jpg\nCopyright: Diver\n"
    rules += "License: CC0-1.0\n"
    rcc = "usr/share/gcompris-qt/rcc"
    files = {
        f"{rcc}/explore_monuments.rcc": write_rcc(monuments),
        f"{rcc}/categorization.rcc": write_rcc({LIBERTY: photo(40, 30, "WEBP")}),
        f"{rcc}/clickgame.rcc": write_rcc({REEF: photo(60, 80, "WEBP")}, version=1),
    }
    build_deb(folder, "gcompris-qt-data", files, rules)
    build_deb(folder, "mate-backgrounds", {}, "Files: x\nCopyright: y\nLicense: GPL-2+\n")
    alps = "Files: 16.04/picosdeeuropa_by_Aitzol_Berasategi.jpg\nCopyright: Aitzol\n"
    build_deb(
        folder,
        "lomiri-wallpapers-16.04",
        {MOUNTAINS: photo(1000, 1600, "JPEG")},
        alps + "License: CC-BY-4.0\n",
    )
    return folder


@pytest.fixture(scope="module")
def material(debs, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "material"
    seen = []
    summary = assets.fetch_assets(
        out, packages_dir=debs, progress=lambda what, done, total: seen.append((what, done, total))
    )
    return out, summary, seen


def index(out):
    return {asset["file"]: asset for asset in json.loads((out / "assets.json").read_text())}


def test_writes_what_was_reviewed_and_nothing_else(material):
    out, summary, _ = material
    assert set(index(out)) == {
        "foregrounds/animals_birds_crow.png",
        "foregrounds/animals_amphibians_frog.png",
        "backgrounds/wonders_colosseum.jpg",
        "backgrounds/resource_sea3.jpg",
        "photos/france_eiffelTower.jpg",
        *(f"backgrounds/backgrounds_picosdeeuropa_by_Aitzol_Berasategi_{i}.jpg" for i in range(4)),
    }
    written = {str(path.relative_to(out)) for path in out.rglob("*.*")}
    expected = {name for file in index(out) for name in (file, f"{file}.license")}
    assert written == expected | {"assets.json"}
    assert (summary.foregrounds, summary.foreground_groups) == (2, 2)
    assert (summary.backgrounds, summary.background_groups) == (6, 3)
    assert (summary.photos, summary.photo_groups) == (1, 1)
    assert summary.out == out
    assert f"usr/share/tuxpaint/stamps/{CROW}" not in summary.missing
    assert "usr/share/tuxpaint/stamps/animals/birds/owl.png" in summary.missing


def test_foregrounds_are_cropped_to_what_is_visible_plus_two_pixels(material):
    out, _, _ = material
    image = np.array(Image.open(out / "foregrounds/animals_birds_crow.png"))
    assert image.shape == (104, 84, 4)
    assert image[2:-2, 2:-2].reshape(-1, 4).tolist() == [[200, 10, 30, 255]] * 8000
    assert image[:2].max() == 0


def test_backgrounds_are_rgb_and_at_most_640_pixels(material):
    out, _, _ = material
    assert Image.open(out / "backgrounds/wonders_colosseum.jpg").size == (640, 320)
    assert Image.open(out / "backgrounds/resource_sea3.jpg").size == (80, 60)


def test_the_index_describes_each_file(material):
    out, _, _ = material
    for file, asset in index(out).items():
        content = (out / file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == asset["sha256"]
        assert Image.open(out / file).size == (asset["width"], asset["height"])
        assert asset["role"] == file.split("/")[0].removesuffix("s")
        assert asset["version"] == "1.0-1"


def test_crops_of_one_photograph_are_one_group(material):
    groups = {a["group"] for f, a in index(material[0]).items() if "picosdeeuropa" in f}
    assert len(groups) == 1


@pytest.mark.parametrize(
    ("file", "licence", "author"),
    [
        ("foregrounds/animals_birds_crow.png", "GPL-2.0-or-later", "2002 Bill; 2003 Ben"),
        ("backgrounds/wonders_colosseum.jpg", "LicenseRef-public-domain", "Ann Other"),
        ("backgrounds/resource_sea3.jpg", "CC0-1.0", "Diver"),
        (
            "backgrounds/backgrounds_picosdeeuropa_by_Aitzol_Berasategi_0.jpg",
            "CC-BY-4.0",
            "Aitzol",
        ),
    ],
)
def test_each_file_has_its_own_licence(material, file, licence, author):
    out, _, _ = material
    asset = index(out)[file]
    assert (asset["licence"], asset["author"]) == (licence, author)
    text = (out / f"{file}.license").read_text()
    assert f"SPDX-License-Identifier: {licence}\n" in text
    assert f"SPDX-FileCopyrightText: {author}\n" in text
    assert f"{asset['package']} 1.0-1: {asset['path']}" in text


def test_progress_counts_up_to_the_number_of_images(material):
    images = [entry for entry in material[2] if entry[0] == "writing images"]
    assert [done for _, done, _ in images] == list(range(images[0][2]))


def test_an_existing_folder_is_kept_unless_overwrite(debs, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="must not exist yet"):
        assets.fetch_assets(tmp_path, packages_dir=debs)
    with pytest.raises(UsageError, match=r"mine\.txt"):
        assets.fetch_assets(tmp_path, packages_dir=debs, overwrite=True)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    (tmp_path / "assets.json").write_text("[]")
    assets.fetch_assets(tmp_path, packages_dir=debs, overwrite=True)
    assert not (tmp_path / "mine.txt").exists()
    assert (tmp_path / "assets.json").is_file()


def test_an_empty_folder_and_a_file_as_out(debs, tmp_path):
    (tmp_path / "empty").mkdir()
    assets.fetch_assets(tmp_path / "empty", packages_dir=debs)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="must be a folder, but it is a file"):
        assets.fetch_assets(tmp_path / "file", packages_dir=debs, overwrite=True)


def test_an_output_under_a_file_is_an_output_error(debs, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        assets.fetch_assets(tmp_path / "file" / "out", packages_dir=debs)


def test_a_failing_write_is_an_output_error_and_leaves_nothing(debs, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(assets, "_write_item", full)
    with pytest.raises(OutputError, match="No space left on device"):
        assets.fetch_assets(tmp_path / "out", packages_dir=debs)
    assert list(tmp_path.iterdir()) == []


def damaged_copy(debs, folder, name, content):
    shutil.copytree(debs, folder)
    next(folder.glob(f"{name}_*.deb")).write_bytes(content)
    return folder


@pytest.mark.parametrize("content", [b"", b"!<arch>\nnonsense"])
def test_a_damaged_package_is_an_input_error(debs, tmp_path, content):
    folder = damaged_copy(debs, tmp_path / "debs", "mate-backgrounds", content)
    with pytest.raises(InputError, match=r"mate-backgrounds.* must be a Debian package, but got"):
        assets.fetch_assets(tmp_path / "out", packages_dir=folder)
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_an_input_error(debs, tmp_path):
    with pytest.raises(InputError, match=r"must hold tuxpaint-stamps-default_\*\.deb"):
        assets.fetch_assets(tmp_path / "out", packages_dir=tmp_path)


@pytest.mark.parametrize("cut", [0, 3, 30, -5])
def test_a_damaged_resource_file_is_an_input_error(tmp_path, cut):
    path = tmp_path / "x.rcc"
    path.write_bytes(write_rcc({"/a/b.webp": b"RIFF1234WEBP"})[:cut])
    with pytest.raises(InputError, match=r"x\.rcc must be a Qt resource file, but got"):
        packages.read_rcc(path)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_resources_keep_their_names_and_bytes(tmp_path, version):
    path = tmp_path / "x.rcc"
    files = {"/a/b.webp": b"RIFF1234WEBP", "/a/README": b"squeezed" * 9, "/c/d/e.txt": b""}
    path.write_bytes(write_rcc(files, version=version))
    assert packages.read_rcc(path) == files


def test_without_apt_the_message_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match=r"apt-get must be installed.*packages_dir"):
        assets.fetch_assets(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_without_dpkg_deb_it_is_unavailable(debs, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="dpkg-deb must be installed"):
        assets.fetch_assets(tmp_path / "out", packages_dir=debs)


def test_a_failing_download_is_unavailable(tmp_path, monkeypatch):
    apt = tmp_path / "apt-get"
    apt.write_text("#!/bin/sh\necho 'E: no such package' >&2\nexit 100\n")
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="E: no such package"):
        packages.download_packages(["x"], tmp_path)


def test_a_picture_without_alpha_or_visible_pixels_is_an_input_error():
    credit = packages.Credit("CC0-1.0", "somebody")
    source = packages.Source("p", "1", photo(4, 4, "PNG"), credit)
    with pytest.raises(InputError, match="must be an image of 4 channels"):
        assets._decode(source, "x.png", channels=4)
    with pytest.raises(InputError, match="must have visible pixels"):
        assets.crop_visible(np.zeros((9, 9, 4), np.uint8))


def test_tiles_cover_the_image_without_overlap():
    image = np.arange(7 * 10 * 3, dtype=np.uint8).reshape(7, 10, 3)
    parts = list(assets.tiles(image, 3, 2))
    assert len(parts) == 6
    rows = [np.concatenate(parts[:3], axis=1), np.concatenate(parts[3:], axis=1)]
    np.testing.assert_array_equal(np.concatenate(rows), image)


def test_scaling_averages_areas():
    image = np.zeros((4, 8, 3), np.uint8)
    image[::2, ::2] = 200
    assert assets.limit_size(image, 4).tolist() == np.full((2, 4, 3), 50).tolist()
    assert assets.limit_size(image, 8) is image


def test_spdx_identifiers():
    assert packages.spdx("Public Domain") == "LicenseRef-public-domain"
    assert packages.spdx("CC-BY-SA 4.0") == "CC-BY-SA-4.0"
    assert packages.spdx("free art") == "LicenseRef-free-art"


def test_the_reviewed_lists_are_sound():
    stamps, photos = assets.reviewed_stamps(), assets.reviewed_photos()
    for items in (stamps, photos):
        paths = [(item.package, item.path) for item in items]
        assert len(set(paths)) == len(paths)
    names = [assets._name(item) for item in stamps]
    names += [f"{item.role}/{assets._name(item)}" for item in assets.used_photos()]
    assert len(set(names)) == len(names)
    assert {photo.package for photo in photos} < set(assets.PACKAGES)


def test_what_the_samples_were_made_from_is_never_trained_on():
    sources = Path(depthmask.__file__).parent / "data/samples/SOURCES.md"
    text = sources.read_text(encoding="utf-8")
    photos = assets.reviewed_photos()
    shipped = {p.path.split("/resource/")[-1] for p in photos if p.kind == "sample"}
    assert all(path in text for path in shipped)
    used = assets.used_photos()
    assert {photo.kind for photo in used} == {"scene", "object"}
    assert [photo.path for photo in used if photo.path.split("/resource/")[-1] in text] == []
    groups = {photo.group for photo in photos if photo.kind == "sample"}
    assert groups.isdisjoint(photo.group for photo in used)


def test_cartoons_drawings_and_graves_are_not_reviewed_material():
    paths = [item.path.lower() for item in [*assets.reviewed_stamps(), *assets.reviewed_photos()]]
    unwanted = ("cartoon", "drawing", "grave", "tombstone", "clipart")
    assert [path for path in paths if any(word in path for word in unwanted)] == []
    left_out = ("/erase/", "explore_world_animals", "explore_farm_animals")
    assert [path for path in paths if any(group in path for group in left_out)] == []


def test_the_command_without_apt_ends_with_exit_code_4(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    result = CliRunner().invoke(data_command, ["fetch", "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, UnavailableError)
    assert result.exception.exit_code == 4


def test_the_command_counts_what_it_wrote(debs, tmp_path):
    arguments = ["fetch", "--packages-dir", str(debs), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(data_command, arguments, catch_exceptions=False)
    assert (
        "2 foregrounds in 2 groups, 6 backgrounds in 3 groups, 1 photographs in 1" in result.output
    )
    counts = json.loads(
        CliRunner()
        .invoke(data_command, [*arguments, "--overwrite", "--json"], catch_exceptions=False)
        .stdout
    )
    assert (counts["photos"], counts["photo_groups"]) == (1, 1)


def test_the_shipped_samples_are_small_and_listed():
    folder = Path(depthmask.__file__).parent / "data/samples"
    text = (folder / "SOURCES.md").read_text(encoding="utf-8")
    assert sum(path.stat().st_size for path in folder.rglob("*.*")) <= 3_000_000
    material = Path(__file__).parent.parent / "data" / "material"
    made_from = [*material.rglob("*.jpg"), *material.rglob("*.png")]
    pictures = [*(folder / "photos").iterdir(), *made_from]
    assert all(f"{path.parent.name}/{path.name}" in text for path in pictures)
    for path in (material / "foregrounds").iterdir():
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert image.shape[2] == 4
        assert 140 <= image.shape[0] <= 260
