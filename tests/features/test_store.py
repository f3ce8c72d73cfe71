import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from PIL import Image

from tests.toy import write_images
from trmml.errors import DataError
from trmml.features.admin import find_store, list_stores, remove_store
from trmml.features.base import Features
from trmml.features.shards import damaged_shards
from trmml.features.store import FeatureStore, StoreKey

ROOT = Path(__file__).parents[2]


def key(form="fp16", image_checksum="a") -> StoreKey:
    return StoreKey("toy", image_checksum, 24, "", "fp32", "pillow", form, 9, 12, 8)


def features(count: int, seed: int = 0) -> Features:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, 9, 12, generator=generator)
    return Features(hidden, torch.randn(count, 8, generator=generator))


@pytest.mark.parametrize(("form", "expected"), [("fp16", 216), ("int8", 108 + 36), ("fp32", 432)])
def test_bytes_of_a_row_are_foretold(tmp_path, form, expected):
    filled = FeatureStore(tmp_path, key(form))
    assert key(form).row_bytes == expected + 4 * 8
    filled.add([str(n) for n in range(100)], features(100))
    (shard,) = filled.folder.glob("*.safetensors")
    assert 0 <= shard.stat().st_size - 100 * key(form).row_bytes < 2_000  # the header


def test_rows_come_in_the_order_asked_for_from_several_shards(tmp_path):
    filled, all_of_them = FeatureStore(tmp_path, key("fp32")), features(6)
    for start in (0, 2, 4):
        part = slice(start, start + 2)
        one = Features(all_of_them.hidden_patches[part], all_of_them.image_feature[part])
        filled.add([str(n) for n in range(6)[part]], one)
    source = filled.features([["4", "0", "5"], ["1", "2", "3"]])
    assert len(source) == 3 and source.views == 2
    batch = source.batch(torch.tensor([2, 0, 0]), torch.tensor([0, 0, 1]))
    assert torch.equal(batch.hidden_patches, all_of_them.hidden_patches[[5, 4, 1]])
    assert torch.equal(batch.image_feature, all_of_them.image_feature[[5, 4, 1]])
    assert source.subset([1]).batch(torch.tensor([], dtype=torch.long)).hidden_patches.shape[0] == 0


def test_int8_is_a_whole_number_times_the_scale_of_its_patch(tmp_path):
    filled, kept = FeatureStore(tmp_path, key("int8")), features(1)
    kept.hidden_patches[0, 0] = 0  # an empty patch stays empty
    kept.hidden_patches[0, 1] = torch.linspace(-254, 254, 12).round()
    filled.add(["a"], kept)
    read = filled.features([["a"]]).batch(torch.tensor([0])).hidden_patches[0]
    assert read[0].eq(0).all()
    assert torch.equal(read[1], torch.round(kept.hidden_patches[0, 1] / 2) * 2)
    step = kept.hidden_patches[0].abs().amax(dim=-1) / 127
    assert ((read - kept.hidden_patches[0]).abs().amax(dim=-1) <= 0.501 * step).all()


def test_fp16_holds_an_outlier(tmp_path):
    filled, kept = FeatureStore(tmp_path, key()), features(1)
    kept.hidden_patches[0, 0, 0] = 1e6
    filled.add(["a"], kept)
    assert filled.features([["a"]]).batch(torch.tensor([0])).hidden_patches.isfinite().all()


def test_int8_keeps_the_bundled_encoders_directions(tmp_path):
    from trmml.encoders import load_encoder
    from trmml.features.extract import Encoding, encode_images

    write_images(tmp_path / "p", 6)
    encoder, paths = load_encoder("bundled", text=False), sorted((tmp_path / "p").iterdir())
    exact, close = (
        encode_images(paths, encoder, encoding=Encoding(tmp_path / "s", form=form)).source
        for form in ("fp32", "int8")
    )
    one, two = (part.batch(torch.arange(6)) for part in (exact, close))
    cosines = torch.cosine_similarity(one.hidden_patches, two.hidden_patches, dim=-1)
    assert cosines.min() >= 0.999
    projected = [encoder.project(part.hidden_patches) for part in (one, two)]
    assert torch.cosine_similarity(*projected, dim=-1).min() >= 0.999
    assert torch.equal(one.image_feature, two.image_feature)


def test_a_store_reads_through_a_map_and_not_into_memory(tmp_path):
    filled = FeatureStore(tmp_path, key())
    filled.add(["a", "b"], features(2))
    (path,) = filled.folder.glob("*.safetensors")
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc here")
    assert str(path) in maps.read_text()


# One process encodes and is killed; then two at once; they are forked before torch has threads.
PROCESSES = """
import os, signal, sys, time
from pathlib import Path
from tests.toy import ToyEncoder
from trmml.encoders.speed import precision
from trmml.features import store
from trmml.features.extract import Encoding, encode_images

class Slow(ToyEncoder):
    seen = 0
    def encode_image(self, pixels):
        self.seen += len(pixels)
        time.sleep(0.02)
        return super().encode_image(pixels)

def encode():
    child = os.fork()
    if not child:
        encoder = Slow()
        encode_images(sorted(folder.iterdir()), encoder, encoding=Encoding(root))
        print(encoder.seen - 2, flush=True)  # `identify` sends one, the version of its code another
        os._exit(0)
    return child

precision.CPU_BATCH, store.SHARD_BYTES = 1, 1  # one picture a shard
root, folder = Path(sys.argv[1]), Path(sys.argv[2])
first = encode()
while len(list(root.glob("*/*.safetensors"))) < 3:
    time.sleep(0.01)
os.kill(first, signal.SIGKILL)
os.waitpid(first, 0)
print(len(list(root.glob("*/*.safetensors"))), flush=True)
for child in [encode(), encode()]:
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_processes_share_a_store_and_one_may_be_killed(tmp_path):
    for number in range(40):
        folder = tmp_path / "p"
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (24, 24), (5 * number, 90, 90)).save(folder / f"{number}.png")
    root = tmp_path / "s"
    command = [sys.executable, "-c", PROCESSES, root, folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    before, *encoded = map(int, done.stdout.split())
    assert 3 <= before < 40 and sorted(encoded) == [0, 40 - before]
    (info,) = list_stores(root)
    assert info.rows == info.images == info.shards == 40
    assert damaged_shards(root / info.key) == []


def test_stores_are_listed_found_and_removed(tmp_path, caplog):
    FeatureStore(tmp_path, key()).add(["a.plain", "a.0-1", "b.plain"], features(3))
    FeatureStore(tmp_path, key("int8")).add(["a.plain"], features(1))
    infos = list_stores(tmp_path)
    assert {(i.form, i.images, i.rows) for i in infos} == {("fp16", 2, 3), ("int8", 1, 1)}
    assert all(i.bytes > 0 and i.encoder == "toy" for i in infos)
    assert find_store(tmp_path, infos[0].key[:8]).name == infos[0].key
    for wrong in ("", "zz"):
        with pytest.raises(DataError, match=f"known: .*{infos[0].key}"):
            find_store(tmp_path, wrong)
    folder = tmp_path / infos[0].key
    with FileLock(folder / ".lock"), pytest.raises(DataError, match="being filled"):
        remove_store(folder)
    remove_store(folder)
    assert [i.key for i in list_stores(tmp_path)] == [infos[1].key] and not folder.exists()
    (tmp_path / infos[1].key / "store.json").write_text("damaged")
    assert list_stores(tmp_path) == [] and infos[1].key in caplog.text
    remove_store(find_store(tmp_path, infos[1].key))  # even so
    assert not (tmp_path / infos[1].key).exists()


def test_a_root_that_is_not_there_holds_no_stores(tmp_path):
    assert list_stores(tmp_path / "none") == []


def test_a_name_in_a_shard_that_changed_is_found_as_well(tmp_path):
    filled = FeatureStore(tmp_path, key())
    filled.add(["a.0-1", "b.0-1"], features(2))
    (path,) = filled.folder.glob("*.safetensors")
    path.write_bytes(path.read_bytes().replace(b"a.0-1", b"a.0-2"))  # another view of it
    assert damaged_shards(filled.folder) == [path]
    assert FeatureStore(tmp_path, key()).lacking(["a.0-2", "b.0-1"]) == ["a.0-2", "b.0-1"]
    assert not path.exists()
