import pytest
import torch
import torch.nn.functional as F

from trmml.method.matching import match
from trmml.method.regions import FullReader, RegionAttention, gather_regions
from trmml.settings.sections import RegionSettings

B, P, W, C, D = 3, 6, 10, 4, 8


def inputs(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(B, P, W, generator=generator)
    patches = torch.randn(B, P, D, generator=generator)
    anchors = F.normalize(torch.randn(C, D, generator=generator), dim=-1)
    return hidden, patches, anchors


def module(**changes) -> RegionAttention:
    settings = RegionSettings(**{"mlp_size": 16, "dropout": 0.0, **changes})
    torch.manual_seed(0)
    return RegionAttention(categories=C, feature_size=D, hidden_size=W, settings=settings)


def moved(part: RegionAttention) -> RegionAttention:
    """The module after learning has moved every parameter."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return part


def test_gather_by_hand():
    key = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    query = torch.tensor([[1.0, 0.0]])
    value = torch.tensor([[[2.0, 0.0], [0.0, 4.0]]])
    regions = gather_regions(query, key, value, torch.tensor(3.0).log())
    assert torch.allclose(regions.attention, torch.tensor([[[0.75, 0.25]]]))
    gathered = torch.tensor([[[1.5, 1.0]]])
    assert torch.allclose(regions.gathered_length, gathered.norm(dim=-1))
    assert torch.allclose(regions.features(), F.normalize(gathered, dim=-1))
    assert torch.allclose(match(regions, torch.tensor([[2.0, 0.0]])), 3 / gathered.norm(dim=-1))


def plain_regions(part: RegionAttention, hidden, patches, anchors):
    """The formula of the docstring with every (B, C, D) tensor written out."""
    query = F.normalize(anchors + part.category_queries, dim=-1)
    length = patches.norm(dim=-1).mean(dim=1)[:, None, None]
    key, value = patches, patches
    normal = F.layer_norm(hidden, hidden.shape[-1:])
    if isinstance(part.hidden, FullReader):
        key = value = value + length * part.hidden.value(normal)
    elif part.hidden is not None:
        short = part.hidden.down(normal)
        key = key + length * part.hidden.key(short)
        value = value + length * part.hidden.value(short)
    scores = part.log_scale.exp() * query @ F.normalize(key, dim=-1).transpose(1, 2)
    region = F.normalize(scores.softmax(dim=-1) @ value, dim=-1)
    if part.mlp is None:
        return region
    reach = part.mlp.from_region(region) + part.mlp.from_query(query)
    return F.normalize(region + part.mlp.out(F.gelu(reach)), dim=-1)


@pytest.mark.parametrize("changes", [{}, {"hidden_rank": 5}, {"hidden_rank": 0}, {"mlp_size": 0}])
def test_regions_and_matches_equal_the_plain_formula_and_its_gradient(changes):
    torch.manual_seed(0)
    settings = RegionSettings(**{"mlp_size": 16, "dropout": 0.0, **changes})
    made = RegionAttention(categories=C, feature_size=D, hidden_size=W, settings=settings)
    part = moved(made).double()
    hidden, patches, anchors = (x.double() for x in inputs())
    text = torch.randn(C, D, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    grads = []
    for plain in (True, False):
        part.zero_grad()
        if plain:
            region = plain_regions(part, hidden, patches, anchors)
            products, some = (region * text).sum(-1), region[:, [2, 0]]
        else:
            regions = part(hidden, patches, anchors)
            products, some = match(regions, text), regions.features(torch.tensor([2, 0]))
        ((products**2).sum() + (some * text[:2]).sum()).backward()
        grads.append([products, some, *(p.grad.clone() for p in part.parameters())])
    for one, two in zip(*grads, strict=True):
        assert torch.allclose(one, two, atol=1e-9)


@pytest.mark.parametrize(("categories", "patches"), [(2, 3), (40, 3), (2, 50), (40, 50)])
def test_every_shape_equals_the_plain_formula(categories, patches):
    generator = torch.Generator().manual_seed(2)
    settings = RegionSettings(mlp_size=16, dropout=0.0)
    made = RegionAttention(categories=categories, feature_size=8, hidden_size=12, settings=settings)
    part = moved(made).double()
    hidden, features = (
        torch.randn(3, patches, size, generator=generator).double() for size in (12, 8)
    )
    anchors = F.normalize(torch.randn(categories, 8, generator=generator).double(), dim=-1)
    expected = plain_regions(part, hidden, features, anchors)
    torch.testing.assert_close(part(hidden, features, anchors).features(), expected)


def test_no_tensor_of_images_categories_and_features_is_made():
    """What training holds grows with patches, not with the feature size, for each category."""
    wide = 64
    settings = RegionSettings(mlp_size=4, hidden_rank=4)
    part = RegionAttention(categories=C, feature_size=wide, hidden_size=W, settings=settings)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda saved: sizes.append(saved.numel()) or saved, lambda saved: saved
    ):
        hidden, patches = torch.randn(20, 2, W), torch.randn(20, 2, wide)
        match(part(hidden, patches, torch.randn(C, wide)), torch.randn(C, wide))
    assert max(sizes) < 20 * C * wide


@pytest.mark.parametrize("rank", ["full", 5])
def test_dropout_takes_the_same_channels_of_all_patches(rank):
    """Equal patches stay equal: else the noise would average away in what is gathered."""
    part = moved(module(hidden_rank=rank, dropout=0.5)).train()
    hidden, patches, _ = (x[:, :1].expand(-1, 6, -1) if x.ndim == 3 else x for x in inputs())
    key, value = part.hidden(hidden, patches, torch.ones(B, 1, 1))
    part.eval()
    _, whole = part.hidden(hidden, patches, torch.ones(B, 1, 1))
    for read in (key, value):
        torch.testing.assert_close(read, read[:, :1].expand_as(read))
    assert not torch.allclose(value, whole)


def test_start_is_training_free_dense_clip():
    hidden, patches, anchors = inputs()
    regions = module()(hidden, patches, anchors)
    region, attention = regions.features(), regions.attention
    for b in range(B):
        for c in range(C):
            cosines = [float(F.normalize(p, dim=0) @ anchors[c]) for p in patches[b]]
            weights = torch.tensor([20 * value for value in cosines]).softmax(0)
            gathered = F.normalize(weights @ patches[b], dim=0)
            assert torch.allclose(region[b, c], gathered, atol=1e-5)
            assert torch.allclose(attention[b, c], weights, atol=1e-5)


def test_regions_have_unit_length_and_attention_sums_to_one():
    regions = moved(module())(*inputs())
    region, attention = regions.features(), regions.attention
    assert torch.allclose(region.norm(dim=-1), torch.ones(B, C), atol=1e-5)
    assert torch.allclose(attention.sum(dim=-1), torch.ones(B, C), atol=1e-5)


def test_permuting_categories_permutes_regions():
    hidden, patches, anchors = inputs()
    part, order = moved(module()), torch.tensor([2, 0, 3, 1])
    regions = part(hidden, patches, anchors)
    part.category_queries.data = part.category_queries.data[order]
    shuffled = part(hidden, patches, anchors[order])
    assert torch.allclose(shuffled.features(), regions.features(order), atol=1e-6)
    assert torch.allclose(shuffled.attention, regions.attention[:, order], atol=1e-6)


def test_a_new_name_has_a_query_and_disturbs_no_other():
    hidden, patches, anchors = inputs()
    part = moved(module())
    region = part(hidden, patches, anchors).features()
    new = F.normalize(torch.ones(1, D), dim=-1)
    longer = part(hidden, patches, torch.cat([anchors, new]), extra=1)
    assert torch.allclose(longer.features()[:, :C], region, atol=1e-6)
    assert longer.attention.shape == (B, C + 1, P)


def test_gradient_reaches_every_part():
    part = moved(module())
    region = part(*inputs()).features()
    (
        region * torch.randn(region.shape, generator=torch.Generator().manual_seed(3))
    ).sum().backward()
    assert all(p.grad is not None and (p.grad != 0).any() for p in part.parameters())


def test_switched_off_parts_are_not_there():
    assert not any(p.requires_grad for p in module(learn=False).parameters())
    plain = module(hidden_rank=0)
    assert plain.hidden is None
    settings = RegionSettings(mlp_size=0)
    bare = RegionAttention(categories=C, feature_size=D, hidden_size=W, settings=settings)
    assert bare.mlp is None
    assert bare.eval()(*inputs()).features().shape == (B, C, D)


def test_one_patch_one_image_one_category():
    settings = RegionSettings(mlp_size=16)
    part = RegionAttention(categories=1, feature_size=D, hidden_size=W, settings=settings)
    hidden, patches, anchors = inputs()
    regions = part(hidden[:1, :1], patches[:1, :1], anchors[:1])
    assert regions.features().isfinite().all() and float(regions.attention.detach()) == 1
