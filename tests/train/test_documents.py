from __future__ import annotations

import json

import msgspec
import pytest

from depthmask.errors import InputError, UsageError
from depthmask.train.documents import check_document, find_document, read_document, read_recipe
from depthmask.train.recipe import GridRecipe, PhotoRecipe, RenderRecipe, StageRecipe, count_of

pytest.importorskip("yaml")


class Part(msgspec.Struct, forbid_unknown_fields=True):
    size: int
    rate: float = 0.1


class Whole(msgspec.Struct, forbid_unknown_fields=True):
    recipe: StageRecipe | GridRecipe
    parts: tuple[Part, ...] = ()
    best: Part | None = None


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("kind: grid\nseed: 4\n", GridRecipe(seed=4)),
        ("kind: render\n", RenderRecipe()),
        ("kind: photos\nsplit: test\n", PhotoRecipe(split="test")),
        ("seed: 3\naugment: false\n", StageRecipe(seed=3, augment=False)),
        ("recipe:\n  kind: grid\n  positions: 3\nphases: whatever\n", GridRecipe(positions=3)),
    ],
)
def test_a_recipe_is_a_document_or_a_section_of_one(tmp_path, text, wanted):
    assert read_recipe(write(tmp_path / "r.yaml", text)) == wanted


def test_yaml_and_json_say_the_same(tmp_path):
    recipe = GridRecipe(seed=9, offset_px=(1, 5))
    document = write(tmp_path / "r.json", json.dumps(msgspec.to_builtins(recipe)))
    assert read_recipe(document) == recipe


def test_the_reference_ships_and_enumerates_424320_samples():
    recipe = read_recipe("reference")
    assert recipe == read_recipe(find_document("reference")) == GridRecipe()
    assert count_of(recipe) == 424_320
    assert count_of(StageRecipe()) is None


def test_a_folder_does_not_hide_what_ships_under_its_name(tmp_path, monkeypatch):
    (tmp_path / "reference").mkdir()
    monkeypatch.chdir(tmp_path)
    assert read_recipe("reference").count == 424_320


def test_an_unknown_name_lists_those_that_ship():
    with pytest.raises(InputError, match=r"those that ship \(.*reference.*\), but got nothing"):
        read_recipe("nothing")


def test_every_error_is_named_at_once_and_with_its_place(tmp_path):
    text = """
    recipe: {kind: grid, sed: 1, canvas_px: 8, split: most}
    parts: [{size: 1}, {rate: 1e-3}, {size: x, extra: 1}]
    best: {size: null}
    spare: 1
    """
    with pytest.raises(InputError) as caught:
        read_document(write(tmp_path / "w.yaml", text), Whole)
    message = str(caught.value)
    assert "these 9 errors" in message
    assert "\n" not in message
    for part in (
        "recipe.sed is not a known key (is seed meant?)",
        "recipe.canvas_px must be int >= 32, but got 8",
        "recipe.split must be one of train, test, all, but got 'most'",
        "parts[1].size is missing",
        "parts[1].rate must be float, but got '1e-3' (a number in YAML needs a point",
        "parts[2].size must be int, but got 'x'",
        "parts[2].extra is not a known key",
        "best.size must be int, but got None",
        "spare is not a known key",
    ):
        assert part in message


def test_a_key_given_twice_is_an_error_beside_the_others(tmp_path):
    text = """
    recipe: {kind: grid, seed: 1, sed: 2,
             seed: 3}
    parts:
      - size: 1
        "size": 2
        size: 3
    parts: [{size: x}]
    """
    with pytest.raises(InputError) as caught:
        read_document(write(tmp_path / "w.yaml", text), Whole)
    message = str(caught.value)
    assert "these 5 errors" in message
    for part in (
        "recipe.seed must be given once, but is on the lines 2, 3",
        "parts[0].size must be given once, but is on the lines 5, 6, 7",
        "parts must be given once, but is on the lines 4, 8",
        "recipe.sed is not a known key (is seed meant?)",
        "parts[0].size must be int, but got 'x'",
    ):
        assert part in message


def test_a_key_given_twice_in_json_is_an_error_too(tmp_path):
    text = '{"recipe": {"kind": "grid", "seed": 1, "seed": 1}, "parts": [{"size": 1, "size": 2}]}'
    with pytest.raises(InputError) as caught:
        read_document(write(tmp_path / "w.json", text), Whole)
    assert str(caught.value).endswith(
        "these 2 errors: recipe.seed must be given once, but is given 2 times;"
        " parts[0].size must be given once, but is given 2 times"
    )
    with pytest.raises(InputError, match=r"this error: recipe\.seed must be given once"):
        read_recipe(write(tmp_path / "r.json", text.partition(', "parts"')[0] + "}"))


def test_a_merged_key_may_be_given_again_and_an_alias_is_no_duplicate(tmp_path):
    text = "best: &part {size: 1, rate: 0.5}\nparts: [*part, {<<: *part, size: 2}]\nrecipe: {kind: grid}"
    assert read_document(write(tmp_path / "w.yaml", text), Whole).parts == (
        Part(1, 0.5),
        Part(2, 0.5),
    )


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("&a [*a]", "must be YAML or JSON|it must be a mapping"),
        ("? [a, b]\n: 1", "must be YAML or JSON"),
        ("a: [", "must be YAML or JSON"),
        ("", "it must be a mapping"),
        ("[1, 2]", "it must be a mapping"),
        ("kind: nope", "kind must be one of stage, grid, render, photos, but got 'nope'"),
        ("kind: [1]", r"kind must be one of stage, grid, render, photos, but got \[1\]"),
        ("kind: {a: 1}", "kind must be one of stage, grid, render, photos, but got {'a': 1}"),
        ("recipe: {kind: [grid]}", r"recipe\.kind must be one of .*, but got \['grid'\]"),
        ("recipe: {}", "recipe.kind must be one of .* but is missing"),
        ("kind: grid\ncanvas_px: 100", "every foreground is whole, but got 224 and 100"),
        ("kind: grid\noffset_px: [9, 3]", "must be .smallest, largest., but got 9, 3"),
        ("kind: stage\nempty_share: 2", "empty_share must be float <= 1.0, but got 2"),
    ],
)
def test_a_bad_recipe_is_an_input_error(tmp_path, text, match):
    with pytest.raises(InputError, match=match):
        read_recipe(write(tmp_path / "r.yaml", text))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("w.yaml", "size: .inf\nrates: [1.0, .nan]"),
        ("w.json", '{"size": Infinity, "rates": [1, NaN]}'),
    ],
)
def test_a_number_that_is_not_finite_is_refused(tmp_path, name, text):
    class Document(msgspec.Struct):
        size: float
        rates: tuple[float, float]

    with pytest.raises(InputError, match="size must be finite, but got inf; rates must be finite"):
        read_document(write(tmp_path / name, text), Document)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("parts: {size: 1}", "parts must be a list, but got {'size': 1}"),
        ("best: [1]", "best must be a mapping | null, but got [1]"),
        ("recipe: 3", "recipe must be a mapping, but got 3"),
        ("parts: [[1]]", "parts[0] must be a mapping, but got [1]"),
    ],
)
def test_a_part_of_another_kind_is_said_in_one_clause(tmp_path, text, said):
    document = text if text.startswith("recipe") else f"recipe: {{kind: grid}}\n{text}"
    with pytest.raises(InputError) as caught:
        read_document(write(tmp_path / "w.yaml", document), Whole)
    assert str(caught.value).endswith(f"this error: {said}")


def test_missing_or_binary_files_are_input_errors(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_recipe(tmp_path / "r.yaml")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="must be YAML or JSON"):
        read_recipe(tmp_path / "b.json")


def test_a_valid_part_with_an_error_across_fields_has_its_place():
    content = {"recipe": {"kind": "grid", "canvas_px": 100}}
    with pytest.raises(InputError, match=r"w must be .* this error: recipe: the largest"):
        check_document(content, Whole, "w")


def test_a_recipe_made_in_python_names_all_its_errors_too():
    with pytest.raises(UsageError, match=r"seed must be .*; canvas_px must be"):
        StageRecipe(seed=-1, canvas_px=31)
