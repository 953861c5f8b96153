from __future__ import annotations

import hashlib
import json

import msgspec
import pytest
import torch
from torch import nn

from depthmask.chain import MaskDepthChain, build
from depthmask.checkpoint import load_checkpoint, load_weights, read_info, save_checkpoint
from depthmask.errors import InputError, UsageError
from depthmask.presets import preset


@pytest.fixture(scope="module")
def chain():
    return build("lite", seed=1)


@pytest.fixture
def folder(chain, tmp_path):
    save_checkpoint(chain, tmp_path / "checkpoint", training={"steps": 3})
    return tmp_path / "checkpoint"


def rewrite(folder, **changes):
    path = folder / "checkpoint.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_round_trip_is_exact(chain, folder):
    loaded = load_checkpoint(folder)
    assert loaded.spec == chain.spec
    assert not loaded.training
    for (key, wanted), found in zip(
        chain.state_dict().items(), loaded.state_dict().values(), strict=True
    ):
        assert torch.equal(wanted, found), key
    assert read_info(folder).training == {"steps": 3}


def test_half_stores_float16_and_loads_float32(chain, folder, tmp_path):
    save_checkpoint(chain, tmp_path / "half", half=True)
    sizes = [(path / "weights.safetensors").stat().st_size for path in (folder, tmp_path / "half")]
    assert sizes[1] < 0.55 * sizes[0]
    wanted = chain.mask.head.weight
    found = load_checkpoint(tmp_path / "half").mask.head.weight
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


def test_half_keeps_what_float16_cannot_hold(tmp_path):
    chain = build("lite", seed=1)
    chain.mask.trunk.encoder.stem.bn.running_var[0] = 1e6
    save_checkpoint(chain, tmp_path / "half", half=True)
    loaded = load_checkpoint(tmp_path / "half")
    assert loaded.mask.trunk.encoder.stem.bn.running_var[0] == 1e6


def test_weights_in_another_memory_layout_are_saved_alike(chain, folder, tmp_path):
    other = build("lite", seed=1).to(memory_format=torch.channels_last)
    save_checkpoint(other, tmp_path / "other")
    assert read_info(tmp_path / "other").weights_sha256 == read_info(folder).weights_sha256


def test_an_existing_checkpoint_is_kept_without_overwrite(chain, folder):
    with pytest.raises(UsageError, match="--overwrite"):
        save_checkpoint(chain, folder)
    save_checkpoint(chain, folder, overwrite=True)
    assert read_info(folder).training == {}


def test_another_architecture_is_refused(folder):
    with pytest.raises(InputError, match="must hold weights of hu_resnet50 and drn22_autoencoder"):
        load_checkpoint(folder, like=preset("seed"))


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damaged_weights_are_refused(folder, damage):
    path = folder / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    if damage == "delete":
        path.unlink()
    else:
        path.write_bytes(data if damage == "flip" else data[:-5])
    with pytest.raises(InputError, match=r"weights\.safetensors"):
        load_checkpoint(folder)


@pytest.mark.parametrize("data", [b"", b"\xff" * 64, b"\x80\x02cos\nsystem\n."])
def test_weights_that_are_not_safetensors_are_refused(folder, data):
    (folder / "weights.safetensors").write_bytes(data)
    rewrite(folder, weights_sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(InputError, match="must be a safetensors file"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"schema": 2}']
)
def test_a_damaged_description_is_an_input_error(folder, content):
    (folder / "checkpoint.json").write_bytes(content)
    with pytest.raises(InputError, match=r"checkpoint\.json"):
        read_info(folder)


def test_what_is_no_checkpoint_is_an_input_error(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"x")
    for path in (tmp_path, tmp_path / "none", tmp_path / "weights.pth"):
        with pytest.raises(InputError, match="dmx import"):
            load_checkpoint(path)


def test_a_foreign_network_is_never_imported_because_a_checkpoint_names_it(folder, tmp_path):
    canary = tmp_path / "canary"
    module = f"import pathlib\npathlib.Path({str(canary)!r}).write_text('ran')\n"
    (tmp_path / "evil.py").write_text(module)
    spec = msgspec.to_builtins(preset("lite"))
    spec["mask"]["network"] = "evil:Network"
    rewrite(folder, chain=spec)
    with pytest.raises(UsageError, match="evil:Network"):
        load_checkpoint(folder)
    assert not canary.exists()


def test_a_chain_of_other_modules_is_saved_and_loaded_where_it_is_named(tmp_path):
    chain = MaskDepthChain(nn.Conv2d(3, 1, 1), nn.Conv2d(3, 1, 1))
    save_checkpoint(chain, tmp_path / "checkpoint")
    assert read_info(tmp_path / "checkpoint").chain.mask.is_foreign
    with pytest.raises(UsageError, match="with --mask or --depth"):
        load_checkpoint(tmp_path / "checkpoint")


def test_weights_must_fit_in_every_key_and_shape():
    wanted = {"weight": torch.ones(1, 3, 1, 1), "bias": torch.ones(1)}
    network = nn.Conv2d(3, 1, 1)
    load_weights(network, {**wanted, "num_batches_tracked": torch.tensor(3)}, "file")
    assert network.weight.sum() == 3
    for state, message in (
        ({"weight": wanted["weight"]}, r"1 missing \(bias\)"),
        ({**wanted, "extra": wanted["bias"]}, r"1 unexpected \(extra\)"),
        ({**wanted, "bias": torch.ones(2)}, r"of another shape \(bias \(2,\) for \(1,\)\)"),
    ):
        with pytest.raises(InputError, match=message):
            load_weights(network, state, "file")
