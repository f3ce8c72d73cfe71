from pathlib import Path

import pytest
import torch
from PIL import Image

from trmml.errors import DataError
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


def test_maps_never_replace_an_image_nor_lie_among_those_to_tag(tmp_path: Path) -> None:
    image, attention = Image.new("RGB", (8, 8)), torch.full((1, 4), 0.25)
    maps = MapFolder(tmp_path / "maps", [tmp_path / "a.jpg"], (2, 2))
    (path,) = maps.write(0, image, attention, ["dog"])
    assert maps.write(0, image, attention, ["dog"]) == (path,)  # its own may be replaced
    MapFolder(tmp_path / "maps", [tmp_path / "a.jpg", path], (2, 2))  # and may be found again
    image.save(path)
    before = path.read_bytes()
    with pytest.raises(DataError, match="does not say that it is a region map of trmml"):
        maps.write(0, image, attention, ["dog"])
    assert path.read_bytes() == before
    with pytest.raises(DataError, match="holds images to tag"):
        MapFolder(tmp_path / "maps" / "..", [tmp_path / "a.jpg"], (2, 2))
