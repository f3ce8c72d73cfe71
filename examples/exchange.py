"""Labels to Label Studio and COCO and back: what each form keeps of present, absent and unknown.

python examples/exchange.py FOLDER
"""

import sys
from pathlib import Path

import trmml
from trmml.exchange.export import export
from trmml.exchange.source import Source

folder = Path(sys.argv[1])
photos = folder / "photos"
trmml.scenes(photos, images=40, seed=0, known_share=0.5)
labels = trmml.read_folder(photos / "images", photos / "labels_partial.csv")


def tell(name: str, data: trmml.Dataset) -> None:
    """Say how many pairs are present, absent and unknown."""
    known, present = int(data.matrix.known.sum()), int(data.matrix.positives.sum())
    print(f"{name}: {present} present, {known - present} absent, "
          f"{data.matrix.known.numel() - known} unknown")  # fmt: skip


tell("the table", labels)

# Label Studio asks yes or no about each category, so that "unknown" comes back as it was.
export("label-studio", Source.of_people(labels), folder / "tasks", ask="yes-no")
place = {"train": folder / "tasks" / "tasks.json", "config": folder / "tasks" / "config.xml"}
options = {**{key: str(path.absolute()) for key, path in place.items()}, "image_folder": "."}
tell("Label Studio", trmml.read_named("label-studio", photos / "images", "train", options))

# COCO is made for boxes and has nothing for "unknown"; trmml.csv beside it keeps the three states.
done = export("coco", Source.of_people(labels), folder / "coco", image_level=True)
print("coco:", *done.lost)
instances = folder / "coco" / "instances.json"
tell("COCO", trmml.read_folder(photos / "images", instances, blank="unknown"))
tell("trmml.csv", trmml.read_folder(photos / "images", folder / "coco" / "trmml.csv"))
