import json
import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.datasets.test_coco import write_coco
from tests.sets import read
from trmml.datasets.base import Dataset
from trmml.datasets.tables.peer_masks import read_mask
from trmml.errors import CheckpointError, DataError
from trmml.labels.matrix import LabelMatrix

NAMES = ("cat", "dog", "owl")
LABELS = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 0]]).bool()
KNOWN = torch.tensor([[1, 0, 1], [1, 1, 0], [0, 0, 0], [0, 1, 1]]).bool()


def dataset(
    images: tuple[str, ...] = ("p/a.jpg", "p/b.jpg", "p/c.jpg", "p/d.jpg"),
    labels: Tensor = LABELS,
    known: Tensor | None = None,
) -> Dataset:
    known = torch.ones_like(labels) if known is None else known
    matrix = LabelMatrix(labels, known)
    return Dataset(Path("photos"), images, NAMES, matrix, tuple(range(len(images))))


def same(found: LabelMatrix, known: Tensor, labels: Tensor = LABELS) -> None:
    assert found.checksum() == LabelMatrix(labels, known).checksum()


# DualCoOp -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("copies", [None, 1, 3])
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32, torch.uint8])
@pytest.mark.parametrize("new_form", [True, False])
def test_a_tensor_of_zeros_and_ones_tells_what_is_known(
    copies: int | None, dtype: torch.dtype, new_form: bool, tmp_path: Path
) -> None:
    path = tmp_path / "partial_label_0.50.pt"
    mask = KNOWN.to(dtype)
    if copies is not None:
        mask = torch.stack([mask] * copies, dim=1)  # as it is for COCO (3 sizes) and VOC (1)
    torch.save(mask, path, _use_new_zipfile_serialization=new_form)
    same(read_mask(path, dataset()), KNOWN)


def test_pairs_that_the_data_does_not_know_stay_unknown(tmp_path: Path) -> None:
    torch.save(KNOWN.long(), tmp_path / "m.pt")
    half = torch.tensor([[1, 1, 0], [1, 0, 1], [1, 1, 1], [0, 0, 1]]).bool()
    same(read_mask(tmp_path / "m.pt", dataset(known=half)), KNOWN & half)


def test_a_tensor_with_minus_one_holds_labels(tmp_path: Path) -> None:
    torch.save(torch.where(KNOWN, LABELS.long(), -1), tmp_path / "m.pt")
    nothing = dataset(known=torch.zeros_like(KNOWN))
    for data in (dataset(), nothing):
        same(read_mask(tmp_path / "m.pt", data), KNOWN)


def test_rows_follow_cocos_first_annotations(tmp_path: Path) -> None:
    folder = tmp_path / "annotations"
    folder.mkdir()
    images = [{"id": i, "file_name": f"COCO_{i}.jpg"} for i in (3, 1, 2, 9)]  # 9: no annotation
    annotations = [{"image_id": i, "category_id": 1} for i in (2, 3, 2, 1, 3)]
    tree = {"images": images, "annotations": annotations}
    (folder / "instances_train2014.json").write_text(json.dumps(tree), "utf-8")
    torch.save(torch.stack([KNOWN[:3].long()] * 3, dim=1), folder / "partial_label_0.50.pt")
    data = dataset(tuple(f"train2014/COCO_{i}.jpg" for i in (1, 2, 3)), LABELS[:3])
    found = read_mask(folder / "partial_label_0.50.pt", data)
    same(found, KNOWN[[2, 0, 1]], LABELS[:3])  # rows were 2, 3, 1


def test_rows_follow_vocs_trainval(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for folder in ("Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Main/trainval.txt").write_text("000007\r\n000005\r\n", "utf-8")
    torch.save(KNOWN[:2, None].long(), tmp_path / "Annotations/partial_label_0.10.pt")
    data = dataset(("JPEGImages/000005.jpg", "JPEGImages/000007.jpg"), LABELS[:2])
    found = read_mask(tmp_path / "Annotations/partial_label_0.10.pt", data)
    same(found, KNOWN[[1, 0]], LABELS[:2])
    assert not caplog.records


def test_rows_in_the_order_of_the_data_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(KNOWN, tmp_path / "m.pt")
    with caplog.at_level(logging.WARNING, "trmml"):
        read_mask(tmp_path / "m.pt", dataset())
    assert [record.message for record in caplog.records] == [
        "m.pt names no images: its rows are taken in the order of the data"
    ]


@pytest.mark.parametrize("crowd", ["keep", "drop"])
def test_a_mask_of_the_annotated_images_says_which_choice_fits(crowd: str, tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    images = {
        name: read("coco2014", root, crowd=crowd, images=name) for name in ("all", "annotated")
    }
    path = root / "annotations/partial_label_0.50.pt"
    torch.save(torch.ones(3, 3), path)
    hint = "images without a present label, .* `--data-option images=annotated`"
    with pytest.raises(DataError, match=rf"lacks 1 of the data's 4 images.*{hint}"):
        read_mask(path, images["all"])
    assert read_mask(path, images["annotated"]).known_share == 1


def test_a_mask_that_names_no_images_says_which_choice_may_fit(tmp_path: Path) -> None:
    torch.save(KNOWN[:3], tmp_path / "m.pt")
    with pytest.raises(DataError, match=r"has 3 rows.*--data-option images=annotated"):
        read_mask(tmp_path / "m.pt", dataset())  # the last of the four has no present label
    with pytest.raises(DataError, match=r"has 3 rows.* all of them and in their order\.$"):
        read_mask(tmp_path / "m.pt", dataset(labels=torch.ones_like(LABELS)))


class Trap:
    """What pickle would run while it reads: it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    traps = {name: tmp_path / name for name in ("zip", "legacy", "pickle", "inside", "numpy")}
    torch.save(Trap(traps["zip"]), tmp_path / "zip.pt")
    torch.save(Trap(traps["legacy"]), tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(Trap(traps["pickle"])))
    torch.save({"mask": KNOWN, "more": Trap(traps["inside"])}, tmp_path / "inside.pt")
    objects = np.array([Trap(traps["numpy"])], dtype=object)
    np.save(tmp_path / "formatted_train_labels_obs.npy", objects, allow_pickle=True)
    for name in ("zip", "legacy", "pickle", "inside"):
        with pytest.raises(DataError, match=rf"{name}\.pt is no plain tensor.*could run code"):
            read_mask(tmp_path / f"{name}.pt", dataset())
    with pytest.raises(DataError, match=r"no plain numpy array.*Python objects"):
        read_mask(tmp_path / "formatted_train_labels_obs.npy", dataset())
    assert not any(trap.exists() for trap in traps.values())
    pickle.loads((tmp_path / "pickle.pt").read_bytes())  # the trap does work
    assert traps["pickle"].exists()


@pytest.mark.filterwarnings("ignore:Validating sparse")
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"mask": KNOWN}, "holds a dict, not one plain tensor"),
        ([KNOWN], "holds a list"),
        (KNOWN.long().to_sparse(), "holds a Tensor, not one plain tensor"),
        (torch.zeros(1, 1).expand(10**6, 10**6), "holds a Tensor, not one plain tensor"),
        (KNOWN[0], r"torch.bool of shape \(3,\), not images x categories"),
        (torch.full((4, 3), 2), r"holds 2.0, not only 1, 0 and -1"),
        (torch.full((4, 3), torch.nan), r"holds nan, not only"),
        (torch.stack([KNOWN, ~KNOWN], dim=1), "2 matrices along axis 1 must be equal"),
        (KNOWN[:, :2].clone(), "has 2 columns, but the data has 3 categories"),
        (KNOWN[:3].clone(), "has 3 rows, but the data has 4 images"),
    ],
)
def test_a_tensor_of_something_else_is_refused(value: object, message: str, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "m.pt")
    with pytest.raises(DataError, match=rf"m\.pt.*{message}"):
        read_mask(tmp_path / "m.pt", dataset())


def test_a_damaged_tensor_or_order_is_refused(tmp_path: Path) -> None:
    torch.save(KNOWN, tmp_path / "m.pt")
    whole = (tmp_path / "m.pt").read_bytes()
    for length in (9, len(whole) // 2, len(whole) - 30):
        (tmp_path / "m.pt").write_bytes(whole[:length])
        with pytest.raises(DataError, match="damaged"):
            read_mask(tmp_path / "m.pt", dataset())
    (tmp_path / "m.pt").write_bytes(whole)
    (tmp_path / "instances_train2014.json").write_text('{"images": []}', "utf-8")
    with pytest.raises(DataError, match=r"no file of COCO annotations.*m\.pt comes from it"):
        read_mask(tmp_path / "m.pt", dataset())


# Text ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tai_dpts_rows(end: str, tmp_path: Path) -> None:
    lines = ["1,0,1", "-1,1,0", "0,0,0", "0,-1,-1", ""]
    (tmp_path / "train_proportion_0.5.txt").write_bytes(end.join(lines).encode("utf-8-sig"))
    for data in (dataset(), dataset(known=torch.zeros_like(KNOWN))):
        same(read_mask(tmp_path / "train_proportion_0.5.txt", data), KNOWN)


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_text_and_tensor_say_the_same(count: int, seed: int) -> None:
    import tempfile

    generator = torch.Generator().manual_seed(seed)
    states = torch.randint(-1, 2, (count, 3), generator=generator)
    labels, known = states == 1, states != 0
    data = dataset(tuple(f"{i}.jpg" for i in range(count)), labels)
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "m.txt"
        text.write_text("\n".join(",".join(map(str, row)) for row in states.tolist()), "utf-8")
        torch.save(known.long(), Path(folder) / "m.pt")
        same(read_mask(text, data), known, labels)
        same(read_mask(Path(folder) / "m.pt", data), known, labels)


def test_lists_of_present_categories(tmp_path: Path) -> None:
    """Spaces after the comma, folders, no order, an image without any, one that the data lacks."""
    text = "d.jpg,\nq/c.jpg, 1\nb.jpg,1\np/a.jpg, 0 2\n\nelsewhere.jpg,0\n"
    (tmp_path / "coco_train_singlelabel.txt").write_text(text, "utf-8")
    found = read_mask(tmp_path / "coco_train_singlelabel.txt", dataset())
    present = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 1, 0], [0, 0, 0]]).bool()
    same(found, present, present)


def test_images_that_the_data_lacks_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "l.txt").write_text("x.jpg,0\na.jpg,0\ny.jpg,1\n", "utf-8")
    with caplog.at_level(logging.WARNING, "trmml"):
        found = read_mask(tmp_path / "l.txt", dataset(("a.jpg",), LABELS[:1]))
    assert found.labels.tolist() == [[True, False, False]]
    assert [record.message for record in caplog.records] == ["l.txt: 2 images are not in the data"]


def test_equal_names_in_several_folders_are_told_apart_by_folder(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("y/a.jpg,1\nx/a.jpg,0\n", "utf-8")
    data = dataset(("x/a.jpg", "y/a.jpg"), LABELS[:2])
    assert read_mask(tmp_path / "l.txt", data).labels.int().tolist() == [[1, 0, 0], [0, 1, 0]]
    (tmp_path / "l.txt").write_text("a.jpg,1\n", "utf-8")
    with pytest.raises(DataError, match=r"lacks 2 of the data's 2 images, first 'x/a\.jpg'"):
        read_mask(tmp_path / "l.txt", data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty. It needs the labels of an image per line."),
        ("1,0\n", "line 1 has 2 numbers, but the data has 3 categories"),
        ("1,0,1\n0,1\n", "line 2 has 2 numbers"),
        ("1,0,1\n0,1,2\n", "line 2: '2' is no whole number from -1 to 1"),
        ("1,0,1\n0,1,\n", "line 2: '' is no whole number"),
        ("1,0,1\n" * 3, "has 3 rows, but the data has 4 images"),
        ("a.jpg 1\n", "line 1 is 'a.jpg 1'. Expected `image.jpg,3 17`"),
        ("a.jpg,3\n", "line 1: '3' is no whole number from 0 to 2"),
        ("a.jpg,cat\n", "line 1: 'cat' is no whole number"),
        ("a.jpg,0\nb.jpg,1\nc.jpg,0\n", "lacks 1 of the data's 4 images, first 'p/d.jpg'"),
        ("a.jpg,0\nb.jpg,1\na.jpg,2\nc.jpg,0\nd.jpg,\n", "names the image 'a' twice"),
        ("a.jpg,1\nb.jpg,1\nc.jpg,1\nd.jpg,1\n",
         "contradicts 2 of 4 labels known in both: it calls 'dog' present in 'p/a.jpg'"),
        ("-1,0,0\n" * 4, "contradicts 2 of 4 labels known in both: it calls 'cat' absent in 'p/a"),
        ("0,-1,0\n0,1,1\n0,0,0\n1,0,0\n", "contradicts 2 of 4 labels"),
    ],
)  # fmt: skip
def test_text_of_something_else_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_text(text, "utf-8")
    with pytest.raises(DataError) as caught:
        read_mask(tmp_path / "m.txt", dataset())
    assert message in str(caught.value) and str(tmp_path / "m.txt") in str(caught.value)


# Cole et al. --------------------------------------------------------------------------------------


def write_cole(folder: Path, name: str, codes: np.ndarray, images: list[str]) -> Path:
    np.save(folder / name, codes)
    np.save(folder / "formatted_train_images.npy", np.array(images))
    return folder / name


@pytest.mark.parametrize("bias", ["", "uniform_"])
def test_coles_observed_labels(bias: str, tmp_path: Path) -> None:
    codes = torch.where(LABELS, 1.0, -1.0).where(KNOWN, 0.0).numpy()
    name = f"formatted_train_{bias}labels_obs.npy"
    order = [2, 0, 3, 1]
    images = [f"train2014/{'abcd'[i]}.jpg" for i in order]
    same(read_mask(write_cole(tmp_path, name, codes[order], images), dataset()), KNOWN)


def test_zero_is_unknown_in_coles_observed_and_absent_in_their_complete_labels(
    tmp_path: Path,
) -> None:
    codes, images = LABELS.numpy().astype(np.float64), list("abcd")
    observed = write_cole(tmp_path, "formatted_train_labels_obs.npy", codes, images)
    same(read_mask(observed, dataset()), LABELS)
    complete = write_cole(tmp_path, "formatted_train_labels.npy", codes, images)
    same(read_mask(complete, dataset()), torch.ones_like(LABELS))


def test_cole_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    codes, images = np.zeros((4, 3)), list("abcd")
    other = write_cole(tmp_path, "labels.npy", codes, images)
    with pytest.raises(DataError, match=r"labels\.npy is not called .*what 0 means"):
        read_mask(other, dataset())
    full = write_cole(tmp_path, "formatted_train_labels.npy", codes - 1, images)
    with pytest.raises(DataError, match="holds -1; complete labels are 1 and 0"):
        read_mask(full, dataset())
    path = write_cole(tmp_path, "formatted_train_labels_obs.npy", codes + 2, images)
    with pytest.raises(DataError, match=r"holds 2\.0, not only 1, 0 and -1"):
        read_mask(path, dataset())
    write_cole(tmp_path, path.name, codes[0], images)
    with pytest.raises(DataError, match=r"float64 of shape \(3,\), not images x categories"):
        read_mask(path, dataset())
    write_cole(tmp_path, path.name, codes, images[:3])
    with pytest.raises(DataError, match="has 4 rows, but 3 images belong to it"):
        read_mask(path, dataset())
    np.save(tmp_path / "formatted_train_images.npy", np.arange(4))
    with pytest.raises(DataError, match=r"int64 .*not a list of names"):
        read_mask(path, dataset())
    (tmp_path / "formatted_train_images.npy").unlink()
    with pytest.raises(DataError, match=r"images\.npy is missing"):
        read_mask(path, dataset())
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match="no plain numpy array, or damaged"):
        read_mask(path, dataset())


# Our own, and anything else -----------------------------------------------------------------------


def test_the_mask_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "known.safetensors"
    LabelMatrix(LABELS, KNOWN).save(path)
    same(read_mask(path, dataset()), KNOWN)
    hidden = dataset().matrix.hide(0.4, seed=2)
    hidden.save(path)
    assert read_mask(path, dataset()).checksum() == hidden.checksum()
    LabelMatrix(~LABELS, KNOWN).save(path)
    with pytest.raises(DataError, match="contradicts 6 of 6 labels"):
        read_mask(path, dataset())
    LabelMatrix(LABELS[:3], KNOWN[:3]).save(path)
    with pytest.raises(DataError, match="has 3 rows, but the data has 4 images"):
        read_mask(path, dataset())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="Restore the file"):
        read_mask(path, dataset())


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.pt: No such file"):
        read_mask(tmp_path / "nothing.pt", dataset())
    with pytest.raises(DataError, match="Is a directory"):
        read_mask(tmp_path, dataset())
