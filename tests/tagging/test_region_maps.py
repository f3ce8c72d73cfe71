from pathlib import Path

import pytest
import torch
from PIL import Image

from trmml.tagging.region_maps import MapFolder


@pytest.mark.parametrize("stem", ["a" * 250, "ä" * 125, "猫" * 83])
def test_maps_of_images_and_tags_with_long_names(tmp_path: Path, stem: str) -> None:
    paths = [Path("x", f"{stem}.jpg"), Path("y", f"{stem}.jpg"), Path(f"{stem[:-1]}b.jpg")]
    folder = MapFolder(tmp_path / "maps", paths, (2, 2))
    image, tags = Image.new("RGB", (8, 8)), ["t" * 300, "t" * 299 + "u"]
    written = [
        path
        for number in range(len(paths))
        for path in folder.write(number, image, torch.full((2, 4), 0.25), tags)
    ]
    assert len(set(written)) == 6 and all(path.is_file() for path in written)
    assert all(path.name.startswith(stem[:30]) for path in written)
