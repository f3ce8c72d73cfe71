"""Runs of earlier formats, brought to the present form as they are read.

6: the heads beside the match have the names of settings/old_names.py, in settings and tensors;
   `new_names` of the card is `new_categories`.
5: the sum of the heads has a slope and an offset in each category. Earlier runs cannot be read.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from trmml.errors import CheckpointError
from trmml.settings.old_names import current_names, with_added

FORMAT = 6
READABLE = (5, 6)
# Where the names of tensors began otherwise.
PREFIXES = {
    "image_branch.into.": "heads.image.layers.into.",
    "image_branch.out.": "heads.image.layers.out.",
    "image_branch.": "heads.image.",
    "hidden_regions.": "heads.csra.",
    "opinions.": "heads.stacking.",
}


def current_card(tree: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The content of a model.json in the present form.

    Raises:
        CheckpointError: it is of a format that cannot be read; `where` names the file.
    """
    if tree.get("format") not in READABLE:
        readable = " and ".join(map(str, READABLE))
        raise CheckpointError(
            f"{where} has format {tree.get('format')!r}; this version of trmml reads {readable}."
            " Train again, or use the version of trmml that wrote it"
        )
    tree = {**tree, "settings": with_added(current_names(tree["settings"]))}
    if tree["format"] == FORMAT:
        return tree
    return {**tree, "new_categories": tree["new_names"], "format": FORMAT}


def current_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a model of any readable format, by their present names."""
    return {_current(name): tensor for name, tensor in tensors.items()}


def _current(name: str) -> str:
    for old, new in PREFIXES.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
