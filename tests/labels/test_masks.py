import pytest
import torch

from trmml.errors import ConfigError, DataError
from trmml.labels.masks import fixed, quota, share_known, single_positive
from trmml.labels.matrix import LabelMatrix


def all_known(n: int = 40, c: int = 6) -> LabelMatrix:
    labels = torch.rand(n, c, generator=torch.Generator().manual_seed(0)) < 0.4
    return LabelMatrix(labels, torch.ones_like(labels))


def test_each_rule_is_the_labels_method_of_its_name() -> None:
    labels = all_known()
    for rule, expected in (
        (share_known(0.3), labels.hide(0.3, 5)),
        (single_positive(), labels.keep_single_positive(5)),
        (quota(2, 3), labels.keep_quota(2, 3, 5)),
    ):
        assert rule.apply(labels, 5).checksum() == expected.checksum()


def test_a_fixed_mask_hides_what_is_unknown_in_it_whatever_the_seed() -> None:
    labels, mask = all_known(), all_known().hide(0.5, 1)
    rule = fixed("theirs", mask)
    assert torch.equal(rule.apply(labels, 0).known, mask.known)
    assert torch.equal(rule.apply(labels, 1).labels, labels.labels & mask.known)
    part = rule.subset([3, 1])
    assert part.mask is not None and torch.equal(part.mask.known, mask.known[[3, 1]])
    assert share_known(0.3).subset([1]).share == 0.3


def test_a_rule_without_negatives_counts_as_single_positive() -> None:
    rules = (quota(2, 0), quota(2, 1), fixed("m", all_known().keep_single_positive(0)))
    assert [rule.protocol for rule in rules] == ["single_positive", "partial", "single_positive"]


def test_messages() -> None:
    with pytest.raises(ConfigError, match="above 0 and at most 1, got 10; to keep 10 percent"):
        share_known(10.0)
    with pytest.raises(ConfigError, match=r"got 'mean', as tables call .* another name"):
        fixed("mean", all_known())
    rule = fixed("theirs", all_known(40, 5))
    with pytest.raises(DataError, match="'theirs' is of 40 images and 5 categories"):
        rule.apply(all_known(), 0)
