"""Damaged files that once were an unexpected error; each is now refused in words, or read."""

import json

import pytest

from tests.fuzz import all_targets
from trmml.errors import TrmmlError

LONG = "9" * 4301  # Python refuses to read more than 4,300 digits
DEEP = "[" * 100_000 + "]" * 100_000
REFUSED = (
    ("coco", f'{{"images": {LONG}}}', "as JSON"),
    ("coco", DEEP, "nested too deeply"),
    ("coco", '{"images": "\\ud800"}', "half of a surrogate pair"),
    ("coco", '{"images": [], "images": []}', "names .images. twice in one object"),
    ("label-studio", f"[{LONG}]", "as JSON"),
    ("vg-labels", f'{{"a.png": [{LONG}]}}', "as JSON"),
    ("huggingface-state", f'{{"_data_files": {LONG}}}', "as JSON"),
    ("huggingface-info", f'{{"features": {LONG}}}', "as JSON"),
    ("voc-xml-list", "x" * 300, "name too long"),
    ("yolo-list", "x" * 300 + ".jpg", "name too long"),
    ("nus-cole-labels", "\x93NUMPY\x01\x00v\x00{'shape': (2, 3(}", "no plain numpy array"),
    ("cub-split", f"{LONG} 1\n", "expected a number and a text"),
    ("cub-labels", "1 1 1 3 1\n99999999999999999999 1 1 3 1\n", "filled line 2: .* does not begin"),
    ("mask-own", "\x1c ", "is empty"),
    ("categories", "\u2028", "is empty"),
    ("run-card", "null", "no valid JSON"),
    ("run-card", DEEP, "no valid JSON"),
    ("old-run-log", '{"weighted": [1]}', "which has no checksums, is damaged"),
    ("old-run-log", '{"weighted": {"\\ud800": 1}}', "half of a surrogate pair"),
    ("old-run-skipped", "true", r"skipped\.json cannot be read"),
    ("old-run-skipped", '[{"name": 1, "row": 2, "reason": "x"}]', "0.name: Input should be"),
    ("run-log", "{}", r"log\.jsonl is missing or is not the file"),
    ("cells-grid", '{"same": [], "dataset": "x", "categories": []}', "same: Input should be"),
    ("cells", "null\n", "line 1 is damaged"),
    ("cells-grid", f"[{LONG}]", "is damaged"),
    ("mask-order", f"[{LONG}]", "no file of COCO annotations"),
    ("huggingface-lines", f'{{"file_name": "a.png", "labels": {DEEP}}}', "nested too deeply"),
    ("huggingface-lines", '{"file_name": "a.png", "labels": [[[[[[[[1]]]]]]]]}', "lists of these"),
    ("huggingface-lines", "[]", "each should be an object"),
    ("huggingface-lines", '{"file_name": "a.png", "labels": [[1]]}', "not lists of names"),
    ("huggingface-lines", '{"file_name": "a.png", "labels": [{"a": 1}]}', "not lists of names"),
)


@pytest.mark.parametrize(("name", "text", "message"), REFUSED)
def test_what_was_found_is_refused_in_words(name: str, text: str, message: str) -> None:
    (target,) = (each for each in all_targets() if each.name == name)
    with pytest.raises(TrmmlError, match=f"(?i){message}"):
        target.read(text.encode("utf-8" if "\u2028" in text else "latin-1"))


def test_letters_that_unicode_does_not_have_are_refused() -> None:
    (target,) = (each for each in all_targets() if each.name == "nus-cole-images")
    place = target.valid.rindex(b"a\0\0\0")
    with pytest.raises(TrmmlError, match="no plain numpy array, or damaged"):
        target.read(target.valid[:place] + b"a\0\0\1" + target.valid[place + 4 :])


def test_features_may_be_deep() -> None:
    (target,) = (each for each in all_targets() if each.name == "huggingface-info")
    features = json.loads(target.valid)["features"]
    deep = '{"a":' * 900 + "1" + "}" * 900
    assert target.attempt(f'{{"features": {{"a": {deep}, {json.dumps(features)[1:]}}}'.encode())


@pytest.mark.parametrize("name", ["store-card", "store-whole", "store-shortcut", "store-hashes"])
@pytest.mark.parametrize("text", ["null", "[]", "{}", DEEP, f'{{"holds": {LONG}}}'])
def test_a_damaged_cache_is_made_again(name: str, text: str) -> None:
    (target,) = (each for each in all_targets() if each.name == name)
    assert target.attempt(text.encode())
