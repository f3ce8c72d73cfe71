"""The words that an option may take, for the library and the command line alike.

Nothing is imported here but typing: `trmml --help` reads this file, and torch takes seconds.
"""

from typing import Literal

# Settings are searched apart for the two, and `trmml benchmark --tune` writes a part for each: what
# helps where negatives are known may hurt without.
Protocol = Literal["partial", "single_positive"]
PROTOCOLS: tuple[Protocol, ...] = ("partial", "single_positive")
# Arithmetic of training, as Lightning Fabric names it.
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
# What a sum over pairs is divided by: their number, or the number of images.
Reduction = Literal["pairs", "images"]
# Which epoch is reported.
EpochRule = Literal["held-out", "last"]

# Arithmetic of the encoder. "auto" is the fastest that changes nothing.
EncoderPrecision = Literal[
    "auto", "fp32", "channels-last", "bf16", "fp16", "compile", "onnx", "int8"
]
# How a feature store keeps numbers.
StoreForm = Literal["fp16", "int8", "fp32"]
# What to do about an image that cannot be read.
OnBadImage = Literal["error", "skip"]
EvidenceChoice = Literal["auto", "off", "pairs", "stack"]
CompletedFormat = Literal["wide", "long", "jsonl"]

# What a blank, or a name that is not listed, means in a table of labels.
Blank = Literal["unknown", "absent"]
# How a converted data set takes its images along.
ImageTransfer = Literal["link", "copy"]
# What `trmml data export` writes, and how Label Studio then asks.
ExchangeForm = Literal[
    "label-studio", "fiftyone", "cvat", "coco", "yolo", "wide", "long", "parquet"
]
AskForm = Literal["yes-no", "choices"]
# The hand that scenes are drawn in.
StyleName = Literal["demo", "caption"]

# What an ONNX file holds: the whole tagger, or what follows the encoder.
ExportPart = Literal["all", "head"]

# What a job over a manifest writes of each image, what drives it, and in which files.
BatchOutput = Literal["tags", "probabilities", "features", "maps"]
BATCH_OUTPUTS: tuple[BatchOutput, ...] = ("tags", "probabilities", "features", "maps")
Engine = Literal["local", "ray"]
BatchFormat = Literal["parquet", "lance"]
# Of the encoder in such a job: "auto" could come out another way when it goes on.
BatchPrecision = Literal["fp32", "channels-last", "bf16", "fp16", "compile", "onnx", "int8"]

# What a review asks about: open pairs, known labels that look wrong, or both.
ReviewKind = Literal["learn", "suspects", "both"]
# Which open pairs a review asks about first; `curation/policies.py` has what each means.
Policy = Literal["random", "uncertain", "likely", "balanced", "balanced-likely", "trmml"]
# How a review asks: a category at a time, or an image at a time.
Asking = Literal["blocks", "images"]
# What a simulated session starts from, and in what its budget is counted.
StartRule = Literal["share", "popular-first", "single-positive"]
Unit = Literal["answers", "seconds"]
