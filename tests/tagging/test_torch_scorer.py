"""Images in memory have the scores that `trmml tag` gives their files."""

import numpy as np
import pytest
from PIL import Image

from tests.conftest import TOY_SPEC
from trmml.tagging.tagger import Tagger
from trmml.tagging.torch_scorer import TorchScorer


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("reduced", [False, True])
def test_a_large_jpeg_is_decoded_as_tag_does(
    finished_run, tmp_path, monkeypatch, reduced, views
) -> None:
    monkeypatch.setattr(Tagger, "reduced", reduced)
    path = tmp_path / "large.jpg"
    noise = np.random.default_rng(3).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, quality=95)
    tagger = Tagger.load(finished_run, encoder=TOY_SPEC)
    tagger.views = views
    (expected,) = tagger.tag([path], threshold=0.0)
    scorer = TorchScorer(tagger)
    for source in (path, path.read_bytes()):
        (found,) = scorer.score([scorer.prepare(source)]).probabilities
        told = {tag.category: tag.probability for tag in expected.tags}
        assert dict(zip(scorer.category_names, found, strict=True)) == pytest.approx(told, abs=1e-9)
