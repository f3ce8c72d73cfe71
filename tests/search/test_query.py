"""What words of the command line ask for, and the SQL of their filters."""

import pytest

from trmml.errors import DataError
from trmml.search.query import Query, TagFilter, Term, parse_query, where
from trmml.search.table import IndexCard, quoted


def card(*names: str) -> IndexCard:
    thresholds = [0.5] * len(names)
    return IndexCard(1, "/", {"feature_size": 8}, None, "{}", "", list(names), thresholds, "0")


def test_terms_have_weights_and_signs() -> None:
    query = parse_query(["2:red car", "12:30 train"], like=["a.jpg"], unlike=["0.5:b.jpg"])
    assert query.terms == (
        Term("text", "red car", 2.0),
        Term("text", "12:30 train"),
        Term("image", "a.jpg"),
        Term("image", "b.jpg", -0.5),
    )


@pytest.mark.parametrize("name", ["C:\\a.jpg", "http://a", "a: b", "x:2", "16:9 banner"])
def test_what_is_no_weight_belongs_to_the_value(name: str) -> None:
    assert parse_query([name]).terms == (Term("text", name),)


def test_tags_may_have_a_cut() -> None:
    query = parse_query(tags=["boat", "boat:0.8", "ratio 1:1", "a:b"], without=["sky:.25"])
    assert query.tags == (
        TagFilter("boat"),
        TagFilter("boat", cut=0.8),
        TagFilter("ratio 1", cut=1.0),
        TagFilter("a:b"),
        TagFilter("sky", wanted=False, cut=0.25),
    )


def test_a_box_is_cut_to_the_image() -> None:
    (term,) = parse_query(like=["a.jpg"], box="-0.5,0.25,0.5,2").terms
    assert term.box == (0.0, 0.25, 0.5, 1.0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({}, "nothing is searched for"),
        ({"texts": [" "]}, "empty text"),
        ({"tags": [""]}, "name of a category"),
        ({"like": ["a", "b"], "box": "0,0,1,1"}, "not 2"),
        ({"texts": ["a"], "box": "0,0,1,1"}, "not 0"),
        ({"like": ["a"], "box": "0,0,1"}, "left,top,right,bottom"),
        ({"like": ["a"], "box": "a,b,c,d"}, "left,top,right,bottom"),
        ({"like": ["a"], "box": "0.5,0,0.5,1"}, "no area"),
        ({"like": ["a"], "box": "1.5,0,2,1"}, "no area"),
        ({"like": ["a"], "box": "nan,0,1,1"}, "no area"),
    ],
)
def test_wrong_words_are_refused_in_a_sentence(words: dict[str, object], said: str) -> None:
    with pytest.raises(DataError, match=said):
        parse_query(**words)  # type: ignore[arg-type]


def test_an_unknown_category_names_the_nearest() -> None:
    with pytest.raises(DataError, match=r"'baot'; did you mean boat\?;|did you mean boat"):
        where(Query(tags=(TagFilter("baot"),)), card("boat", "sky"))
    with pytest.raises(DataError, match="--also"):
        where(Query(tags=(TagFilter("zebra"),)), card("boat", "sky"))


def test_names_are_quoted_in_sql() -> None:
    name = "it's'; DROP --"
    assert quoted(name) == "'it''s''; DROP --'"
    assert quoted(name) in where(Query(tags=(TagFilter(name),)), card(name))
