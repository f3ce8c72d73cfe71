"""Which sidecars get the words of each image."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trmml.errors import DataError
from trmml.exchange.lightroom import write_table
from trmml.exchange.naming import Naming, RawFiles, common_folder, is_raw, sidecar_of
from trmml.exchange.readers import Program
from trmml.exchange.sidecars import Job
from trmml.exchange.sources import Worded
from trmml.exchange.words import Word, why_unwritable


@dataclass
class Plan:
    """Which sidecars get the words of each image.

    Attributes:
        images: with the folder that each was found under.
        naming: of new sidecars.
        to: folder of a parallel tree; None writes beside the images.
        pairs: write the sidecars of raw files of the same name, too.
        programs: that are to read the words.
        csv: table for Lightroom, which reads sidecars of raw files alone.
        rows: what that table gets.
        refused: names that no sidecar can hold, with the reason.
    """

    images: Mapping[Path, Path]
    naming: Naming
    to: Path | None
    pairs: bool
    programs: tuple[Program, ...]
    csv: Path | None
    rows: list[tuple[Path, tuple[Word, ...]]] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    _taken: dict[Path, Path] = field(default_factory=dict)
    _raw_files: RawFiles = field(default_factory=RawFiles)

    def jobs(self, words: Worded) -> Iterator[Job]:
        """A job for each sidecar; names that no sidecar can hold are refused."""
        for image, given in words:
            reasons = {word.name: why_unwritable(word.name) for word in given}
            self.refused |= {name: reason for name, reason in reasons.items() if reason}
            sound = tuple(word for word in given if not reasons[word.name])
            if "lightroom" in self.programs and not is_raw(image):
                self.rows.append((image, sound))
            only_raw = self.programs == ("lightroom",)
            files = [] if only_raw and not is_raw(image) else [image]
            for file in [*files, *(self._raw_files.beside(image) if self.pairs else ())]:
                yield self._job(file, self.images[image], sound)

    def sidecar_of(self, image: Path) -> Path:
        """The sidecar beside an image."""
        return sidecar_of(image, self.naming, self._raw_files)

    def _job(self, image: Path, root: Path, words: tuple[Word, ...]) -> Job:
        beside = self.sidecar_of(image)
        if self.to is None:
            return Job(image, beside, root, words)
        target = self.to / os.path.relpath(beside, root)
        if self._taken.setdefault(target, root) != root:
            raise DataError(
                f"{target} would be the sidecar of images in {self._taken[target]} and in {root};"
                " write one folder at a time, each --to a folder of its own"
            )
        return Job(image, target, self.to, words, base=beside)

    @property
    def root(self) -> Path:
        """The one folder that all images lie in; names in the table for Lightroom begin there."""
        return common_folder(self.images.values())

    def write_csv(self, under: tuple[str, ...]) -> str:
        """Write the table for Lightroom where it is needed; the command that a person may run.

        It is to be run in a copy of the root.
        """
        if not self.rows or self.csv is None:
            return ""
        return write_table(self.rows, self.root, self.csv, under)
