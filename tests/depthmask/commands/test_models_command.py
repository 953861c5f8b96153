from __future__ import annotations

import json

import pytest

from depthmask import models
from depthmask.models.describe import layers, summarise


def test_the_list_names_every_network_and_preset(dmx):
    code, out, _ = dmx("models")
    assert code == 0
    for word in (*models.names(), "seed", "hu2019", "relevance", "16.39 M", "ICCV 2019"):
        assert word in out


def test_the_list_as_json_holds_the_known_counts(dmx):
    code, out, err = dmx("models", "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    rows = {row["name"]: row for row in result["networks"]}
    assert rows.keys() == set(models.names())
    assert round(rows["hu_resnet50"]["parameters"] / 1e6, 2) == 67.57
    assert round(rows["drn_d_22"]["parameters"] / 1e6, 2) == 16.39
    # 314 GFLOP for both at 224x224, as docs/ measured of the exported graph.
    both = rows["hu_resnet50"]["gmac_224"] + rows["drn22_autoencoder"]["gmac_224"]
    assert both == pytest.approx(157, abs=1)
    assert {"preset": "lite", "kind": "foreground", "mask": "lite_mask", "depth": "lite_depth"} in (
        result["presets"]
    )


def test_a_network_is_shown_layer_by_layer(dmx):
    code, out, err = dmx("models", "lite_depth", "--resolution", "64x96", "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result["resolution"] == [64, 96]
    first, *_, last = result["layers"]
    assert first == {
        "name": "trunk.encoder.stem.conv",
        "kind": "Conv2d",
        "output_shape": [1, 32, 32, 48],
        "parameters": 864,
    }
    assert last["output_shape"] == [1, 1, 32, 48]
    assert sum(layer["parameters"] for layer in result["layers"]) == result["parameters"]
    code, out, _ = dmx("models", "lite_depth")
    assert "trunk.encoder.stem.conv" in out
    assert "1x32x112x112" in out


@pytest.mark.parametrize("name", models.names())
def test_layers_account_for_all_parameters(name):
    assert sum(layer.parameters for layer in layers(name)) == summarise(name).parameters


@pytest.mark.parametrize(
    "arguments",
    [["nope"], ["--resolution", "64"], ["lite_mask", "--resolution", "64,128"], ["--nope"]],
)
def test_usage_errors(dmx, arguments):
    code, out, err = dmx("models", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
