"""Read an export of CVAT, "CVAT for images 1.1".

    annotations.xml             tags, boxes and other shapes; see `cvat_xml` for what counts
    images/...                  the images, by the names that the task has
    test.xml                    perhaps, the same for a test set

The labels of the task are the categories. An image without annotation may show none of them, or
nobody has looked: `blank` says which.
"""

from dataclasses import replace
from pathlib import Path

from pydantic import Field

from trmml.datasets.base import Boxes, Dataset
from trmml.datasets.files import below_folder, find_file, read_xml
from trmml.datasets.formats.cvat_xml import cvat_boxes
from trmml.datasets.formats.folder import from_table
from trmml.datasets.formats.other_forms import read_other_form
from trmml.datasets.image_files import locate
from trmml.datasets.options import ReaderOptions, Split
from trmml.errors import DataError
from trmml.settings.choices import Blank


class CvatOptions(ReaderOptions):
    """Choices of `cvat`."""

    train: str = Field("annotations.xml", description="the training set's XML below the root")
    test: str = Field("test.xml", description="the test set's XML below the root")
    image_folder: str = Field("images", description="folder of the images below the root")
    blank: Blank | None = Field(
        None, description="what a category is that an image has no annotation of; required"
    )


def read_cvat(root: Path, split: Split, options: CvatOptions) -> Dataset:
    """Return the images of an export with what people annotated; see the module.

    Raises:
        DataError: the file is missing, damaged or of another form.
    """
    file = options.train if split == "train" else options.test
    path = find_file(root, [file], f"the {split} set's XML (option {split}=FILE)", split)
    table = read_other_form(path, None)
    if table is None:
        raise DataError(f"{path} is no XML. In CVAT, export as 'CVAT for images 1.1'.")
    data = from_table(root, table, blank=options.blank, categories=table.declared or None)
    folder = below_folder(options.image_folder, "image_folder", root)
    columns = {name: column for column, name in enumerate(data.category_names)}
    boxes = Boxes.collect(cvat_boxes(path, read_xml(path), columns))
    return replace(data, images=locate(root, [folder, ""], data.images), boxes=boxes)
