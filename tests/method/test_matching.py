import torch

from trmml.method.matching import Matching, match
from trmml.method.regions import gather_regions
from trmml.settings.sections import MatchingSettings


def test_match_equals_a_loop():
    query, patches, text = torch.randn(4, 5), torch.randn(3, 6, 5), torch.randn(4, 5)
    regions = gather_regions(query, patches, patches, torch.tensor(2.0))
    products, made = match(regions, text), regions.features()
    for b in range(3):
        for c in range(4):
            assert torch.allclose(products[b, c], made[b, c] @ text[c], atol=1e-5)


def test_logits_by_hand():
    matching = Matching(categories=2, settings=MatchingSettings(scale=10))
    with torch.no_grad():
        matching.bias.copy_(torch.tensor([1.0, -1.0]))
    logits = matching(torch.tensor([[0.5, 0.2]]))
    assert torch.allclose(logits, torch.tensor([[6.0, 1.0]]))


def test_start_bias_answers_to_the_share_of_positives():
    matching = Matching(categories=3, settings=MatchingSettings())
    mean, share = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.1, 0.9])
    matching.start_bias(mean, share)
    assert torch.allclose(matching(mean[None]).sigmoid()[0], share, atol=1e-5)


def test_bias_can_be_switched_off():
    off = Matching(categories=2, settings=MatchingSettings(bias=False))
    assert not off.bias.requires_grad and off.log_scale.requires_grad
