"""Tag images with an exported run: python tag_without_torch.py photos.onnx a.jpg b.jpg ...

Needs onnxruntime, numpy and Pillow. The file is made by `trmml export runs/photos photos.onnx`.
It reads opaque images of 8 bits a channel; docs/export.md says what to do with others.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1])
about = json.loads(session.get_modelmeta().custom_metadata_map["trmml"])
resampling = Image.Resampling[about["interpolation"].upper()]
for path in sys.argv[2:]:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    image = image.resize((about["size"], about["size"]), resampling)
    (probabilities,), (maps,) = session.run(None, {"image": np.asarray(image)[None]})
    for c in np.argsort(-probabilities):
        if probabilities[c] >= about["thresholds"][c]:
            row, column = np.unravel_index(maps[c].argmax(), maps[c].shape)
            name, percent = about["category_names"][c], 100 * probabilities[c]
            print(f"{path}: {name} {percent:.0f} %, most of it from row {row}, column {column}")
