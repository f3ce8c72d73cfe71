"""An index made of what a job wrote."""

import shutil
from pathlib import Path

import polars as pl
import pytest

from tests.conftest import ToyImages
from tests.toy import ToyEncoder
from trmml.errors import CheckpointError, ConfigError
from trmml.scale.described import described_by
from trmml.scale.manifest import write_manifest
from trmml.scale.run import tag_manifest
from trmml.search import rows as rows_module
from trmml.search.build import build_index
from trmml.search.table import open_images

pytest.importorskip("lancedb", reason="the extra `search` is not installed")


@pytest.fixture(params=["parquet", "lance"])
def tagged(
    finished_run: Path, toy_images: ToyImages, tmp_path: Path, request: pytest.FixtureRequest
) -> Path:
    if request.param == "lance":
        pytest.importorskip("lance", reason="the extra `lance` is not installed")
    manifest, out = tmp_path / "m [1].parquet", tmp_path / "tagged [1]"
    write_manifest([str(toy_images.test)], manifest)
    tag_manifest(
        finished_run, manifest, out, what=["tags", "probabilities", "features"], part=5,
        device="cpu", trust=True, files=request.param,
    )  # fmt: skip
    return out


def rows(folder: Path) -> list[dict[str, object]]:
    table, _ = open_images(folder)
    found = table.search().limit(None).to_arrow().to_pylist()
    return sorted(found, key=lambda row: str(row["image"]))


def test_images_of_a_job_are_not_encoded_anew(
    finished_run: Path,
    toy_images: ToyImages,
    tagged: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(toy_images.test, photos)
    shutil.copy(toy_images.train / "000.png", photos / "further.png")
    (photos / "bad.png").write_bytes(b"no image")
    build_index(finished_run, photos, tmp_path / "plain", encoder=ToyEncoder())
    encoded: list[str] = []
    encode = rows_module.encode_images
    monkeypatch.setattr(
        rows_module,
        "encode_images",
        lambda paths, *a, **how: (encoded.extend(p.name for p in paths), encode(paths, *a, **how))[
            1
        ],
    )
    known = described_by(tagged, finished_run)
    built = build_index(finished_run, photos, tmp_path / "from", encoder=ToyEncoder(), known=known)
    assert sorted(encoded) == ["bad.png", "further.png"]
    assert (built.images, built.new, built.unreadable) == (18, 18, 1)
    for row, plain in zip(rows(tmp_path / "from"), rows(tmp_path / "plain"), strict=True):
        for name in ("image_feature", "probability"):
            assert row.pop(name) == pytest.approx(plain.pop(name), abs=2e-3)
        assert row == plain


def test_a_damaged_part_is_left_out(finished_run: Path, tagged: Path) -> None:
    if (tagged / "images.lance").exists():
        pytest.skip("parts of a table hold no rows")
    damaged, whole, *_ = sorted(tagged.glob("part-*.parquet"))
    sums = [pl.read_parquet(path, glob=False)["sha256"][0] for path in (damaged, whole)]
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert list(described_by(tagged, finished_run)(sums)) == sums[1:]


def test_what_a_job_says_knows_no_further_categories(
    finished_run: Path, toy_images: ToyImages, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="leave --from or --also out"):
        build_index(
            finished_run, toy_images.test, tmp_path / "out", encoder=ToyEncoder(),
            also=["boat"], known=lambda sums: {}, replace_other=True,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_job_that_does_not_serve_is_refused(
    finished_run: Path, tagged: Path, tmp_path: Path, toy_images: ToyImages
) -> None:
    with pytest.raises(ConfigError, match="holds no job"):
        described_by(tmp_path, finished_run)
    other = tmp_path / "run"
    shutil.copytree(finished_run, other)
    (other / "model.json").write_text((other / "model.json").read_text() + " ")
    with pytest.raises(CheckpointError, match="another run"):
        described_by(tagged, other)
    plain = tmp_path / "plain"
    tag_manifest(
        finished_run, tmp_path / "m [1].parquet", plain, what=["tags"], device="cpu", trust=True
    )
    with pytest.raises(ConfigError, match="an index needs a job of --what"):
        described_by(plain, finished_run)
