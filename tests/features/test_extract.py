import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock
from PIL import Image

from tests.toy import ToyEncoder, write_images
from trmml.encoders import load_encoder
from trmml.encoders.frozen import frozen_encoder
from trmml.encoders.speed import precision
from trmml.errors import DataError, EncoderError
from trmml.features import extract, keys, ranks, store
from trmml.features.admin import list_stores
from trmml.features.base import LiveFeatures, read_features
from trmml.features.contents import Content, read_contents
from trmml.features.extract import Encoding, encode_images, refuse_without_room
from trmml.features.shards import StoreFeatures, damaged_shards
from trmml.images import read_image
from trmml.storage import hashes as contents

TESTS = 2  # images that are sent to know the encoder: by `identify`, and by the version of its code


class Counted(ToyEncoder):
    """Counts the images that it encodes; stops after `limit` of them."""

    seen = 0
    limit = 1_000_000

    def encode_image(self, pixels):
        if self.seen + len(pixels) > self.limit:
            raise KeyboardInterrupt
        self.seen += len(pixels)
        return super().encode_image(pixels)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    write_images(tmp_path / "p", 5)
    return sorted((tmp_path / "p").iterdir())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def encode(paths, root, encoder=None, *, form="fp16", live=False, **more):
    encoding = Encoding(store=root, form=form, live=live)
    return encode_images(paths, encoder or Counted(), encoding=encoding, **more)


def new_work(paths, root, **more) -> int:
    """How many images a second encoder of the same weights had to encode."""
    encoder = Counted()
    encode(paths, root, encoder, **more)
    return encoder.seen - TESTS


@pytest.mark.parametrize("live", [False, True])
def test_features_equal_encoding_by_hand(paths, root, live):
    encoder = ToyEncoder()
    source = encode(paths, root, encoder, form="fp32", live=live).source
    assert isinstance(source, LiveFeatures if live else StoreFeatures) and len(source) == 5
    for number, path in enumerate(paths):
        hidden, image = encoder.encode_image(encoder.preprocess(read_image(path))[None])
        batch = source.batch(torch.tensor([number]))
        assert torch.allclose(batch.hidden_patches, hidden, atol=1e-6)
        assert torch.allclose(batch.image_feature, image, atol=1e-6)


@pytest.mark.parametrize("views", [1, 3])
def test_live_and_store_agree_for_every_view(paths, root, views):
    kept = encode(paths, root, form="fp32", views=views, seed=7).source
    live = encode(paths, root, live=True, views=views, seed=7).source
    indices = torch.tensor([4, 0, 2])
    chosen = torch.tensor([0, views - 1, views - 1])
    for a, b in ((kept, live), (kept.subset([4, 1]), live.subset([4, 1]))):
        picked = indices if len(a) == 5 else torch.tensor([1, 0, 1])
        one, two = a.batch(picked, chosen), b.batch(picked, chosen)
        assert torch.allclose(one.hidden_patches, two.hidden_patches, atol=1e-6)
        assert torch.allclose(one.image_feature, two.image_feature, atol=1e-6)


def test_views_are_seeded_by_content(paths, root, tmp_path):
    def view(source):
        return source.batch(torch.arange(5), torch.ones(5, dtype=torch.long)).hidden_patches

    one = encode(paths, root, views=2, seed=1).source
    other = encode(paths, root, views=2, seed=2).source
    assert (view(one) != one.batch(torch.arange(5)).hidden_patches).any()
    assert (view(one) != view(other)).any()
    for path in paths:
        path.rename(path.with_name(f"renamed-{path.name}"))
    renamed = [path.with_name(f"renamed-{path.name}") for path in paths]
    again = encode(renamed[::-1], tmp_path / "elsewhere", views=2, seed=1).source
    assert torch.equal(view(again).flip(0), view(one))


@pytest.mark.parametrize(("form", "bound"), [("fp16", 0.9999), ("int8", 0.999)])
def test_compact_forms_stay_close(paths, root, form, bound):
    exact = encode(paths, root, form="fp32").source.batch(torch.arange(5)).hidden_patches
    close = encode(paths, root, form=form).source.batch(torch.arange(5)).hidden_patches
    assert torch.cosine_similarity(exact, close, dim=-1).min() >= bound
    assert not torch.equal(exact, close)


def test_nothing_is_computed_twice(paths, root):
    assert new_work(paths, root) == 5
    assert new_work(paths, root) == 0
    paths[0].rename(paths[0].with_name("z.png"))
    copy = paths[0].with_name("copy.png")
    copy.write_bytes(paths[1].read_bytes())
    renamed = [paths[0].with_name("z.png"), *paths[1:], copy]
    assert new_work(renamed, root) == 0
    Image.new("RGB", (30, 30), "red").save(paths[2])  # other content, other features
    assert new_work(renamed, root) == 1
    assert new_work(renamed, root, views=2) == 5  # five distinct images, one more view


def test_the_way_of_decoding_is_settled_once_for_all_images(paths, root, tmp_path):
    encode(paths, root)  # none is large: undecided
    assert not list(root.glob("*/shortcut.json"))
    large = [tmp_path / f"{n}.jpg" for n in range(3)]
    for n, path in enumerate(large):
        Image.effect_noise((200, 160), 90).convert("RGB").rotate(n).save(path)
    encode(large[:1], root)  # one is enough, however few are asked for
    (settled,) = root.glob("*/shortcut.json")
    assert json.loads(settled.read_text()) == {"holds": True}
    settled.write_text('{"holds": false}')  # as for an encoder that sees finer things
    encoder, later = Counted(), large[1:]
    pixels = torch.stack([encoder.preprocess(read_image(path)) for path in later])
    whole, _ = encoder.encode_image(pixels)
    for live in (False, True):  # in whatever form, and live
        source = encode(later, root, encoder, form="fp32", live=live).source
        assert torch.equal(source.batch(torch.tensor([0, 1])).hidden_patches, whole)


def test_a_large_image_that_comes_late_finds_the_matter_settled(paths, root, monkeypatch):
    monkeypatch.setattr("trmml.features.extract.SEARCHED", 3)
    encode(paths, root)
    (settled,) = root.glob("*/shortcut.json")
    assert "false" in settled.read_text()


def test_a_shard_is_checked_once_and_again_when_it_changed(paths, root, monkeypatch):
    encode(paths, root)
    checked = []
    monkeypatch.setattr("trmml.features.shards.crc", lambda *_: checked.append(1) or 0)
    encode(paths, root)
    assert not checked
    (shard,) = shards(root)
    later = shard.stat().st_mtime + 5
    os.utime(shard, (later, later))
    assert new_work(paths, root) == 5 and checked  # the sum is another now: it counts as damaged


def test_a_shard_that_may_not_be_read_is_kept(paths, root, monkeypatch):
    encode(paths, root)

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("trmml.features.shards.Shard", refuse)
        with pytest.raises(DataError, match=r"cannot be read .Permission denied.*--store"):
            encode(paths, root)
        with pytest.raises(DataError, match="cannot be read"):
            damaged_shards(shards(root)[0].parent)
    assert new_work(paths, root) == 0


def test_others_may_read_a_shard_as_the_umask_says(paths, root):
    before = os.umask(0o022)
    try:
        encode(paths, root)
    finally:
        os.umask(before)
    assert [shard.stat().st_mode & 0o777 for shard in shards(root)] == [0o644]


def test_what_features_depend_on_leads_to_another_store(paths, root):
    darker, curved = Counted(), Counted()
    darker.preprocess = lambda image: 0.5 * ToyEncoder.preprocess(darker, image)
    curved.activation = torch.nn.GELU()  # the same weights, another structure
    for encoder in (Counted(), Counted(seed=1), darker, curved):
        encode(paths, root, encoder)
        assert encoder.seen - TESTS == 5
    assert new_work(paths, root, form="int8") == 5
    assert len(list_stores(root)) == 5


class Scaled(Counted):
    """Multiplies what it makes: a plain attribute, of which no checksum knows."""

    scale = 1.0

    def encode_image(self, pixels):
        hidden, feature = super().encode_image(pixels)
        return self.scale * hidden, feature


class Cubed(Counted):
    """Of the same weights and structure, with another projection."""

    def project(self, hidden_patches):
        return super().project(hidden_patches**3)


def new_code(scale: float) -> Scaled:
    encoder = Scaled()
    encoder.scale = scale
    return encoder


def test_features_of_changed_code_are_not_met_again(paths, root):
    def work(encoder: Counted, **more) -> int:
        encode(paths, root, encoder, **more)
        return encoder.seen - TESTS

    Cubed.__name__ = Cubed.__qualname__ = Scaled.__name__ = "Counted"  # what `repr` shows
    assert [work(new_code(scale)) for scale in (1.0, 2.0)] == [5, 5]
    assert work(Cubed()) == 5
    # Each version is met again, also where the last digits differ, as on another processor.
    assert [work(new_code(scale)) for scale in (1.0, 2.0, 2.002)] == [0, 0, 0]
    assert work(Cubed()) == 0
    (known,) = root.glob("*-24.json")
    known.write_text("[[")  # damaged: on one machine the numbers are the same again
    assert work(new_code(1.0)) == 0


def test_live_features_keep_no_version(paths, root):
    encode(paths, root, live=True)
    assert not root.exists()


def test_stores_of_the_encoders_of_trmml_keep_their_names():
    """The name that 0.1 gave."""
    key = store.StoreKey("x", "a", 24, "", "fp32", "pillow", "fp16", 9, 12, 8)
    assert key.name == "52ffe8c768128d4f"
    encoder = load_encoder("bundled", text=False)
    frozen = frozen_encoder(encoder)
    assert keys._with_version(Path("nowhere"), key, frozen, keep=True) is key


def test_compile_is_bf16_on_a_card_and_fp32_on_a_processor():
    frozen = replace(frozen_encoder(ToyEncoder()), precision="compile")
    names = [keys._key(replace(frozen, device=each), "fp16") for each in ("cpu", "cuda:0")]
    assert [key.precision for key in names] == ["compile-fp32", "compile-bf16"]


def test_an_interrupted_run_loses_one_shard_at_most(paths, root, monkeypatch):
    monkeypatch.setattr(precision, "CPU_BATCH", 1)
    monkeypatch.setattr(store, "SHARD_BYTES", 1)  # one row a shard
    stopped = Counted()
    stopped.limit = TESTS + 3
    with pytest.raises(KeyboardInterrupt):
        encode(paths, root, stopped)
    (folder,) = (path for path in root.iterdir() if path.is_dir())
    (folder / "left.part").write_bytes(b"half a shard")
    assert len(list(folder.glob("*.safetensors"))) == 3
    assert new_work(paths, root) == 2
    assert not list(folder.glob("*.part"))


def shards(root: Path) -> list[Path]:
    return sorted(root.glob("*/*.safetensors"))


@pytest.mark.parametrize("place", ["content", "header", "end"])
def test_a_damaged_shard_is_named_and_rebuilt(paths, root, monkeypatch, caplog, place):
    monkeypatch.setattr(precision, "CPU_BATCH", 1)
    monkeypatch.setattr(store, "SHARD_BYTES", 1)
    whole = encode(paths, root).source.batch(torch.arange(5)).hidden_patches
    damaged = shards(root)[2]
    content = bytearray(damaged.read_bytes())
    if place == "end":
        content = content[:-40]
    else:
        content[-40 if place == "content" else 12] ^= 255
    damaged.write_bytes(content)
    assert damaged_shards(damaged.parent) == [damaged]
    assert new_work(paths, root) == 1
    assert damaged.name in caplog.text and damaged not in shards(root)
    again = encode(paths, root).source.batch(torch.arange(5)).hidden_patches
    assert torch.equal(whole, again)
    assert damaged_shards(damaged.parent) == []


def test_a_full_disk_is_refused_before_any_work(paths, root, monkeypatch):
    encode(paths[:1], root)
    monkeypatch.setattr(
        store.shutil, "disk_usage", lambda path: SimpleNamespace(free=store.SPARE_BYTES + 10)
    )
    encoder = Counted()
    with pytest.raises(DataError, match="--store-form int8"):
        encode(paths, root, encoder)
    assert encoder.seen == TESTS and len(shards(root)) == 1
    assert new_work(paths[:1], root) == 0  # what is there can still be read
    paths[1].write_bytes(b"damaged: it takes no room")
    assert encode(paths[:2], root, on_bad_image="skip").kept == [0]


def test_images_that_come_in_parts_are_refused_as_a_whole(paths, root, monkeypatch):
    encode(paths[:2], root)
    row = store.FeatureStore(root, store_key(root)).key.row_bytes

    def room(rows: int) -> None:
        space = SimpleNamespace(free=store.SPARE_BYTES + rows * row)
        monkeypatch.setattr(store.shutil, "disk_usage", lambda path: space)

    encoder, encoding = Counted(), Encoding(root)
    room(2)
    with pytest.raises(DataError, match="features of 3 images need"):
        refuse_without_room(paths, encoder, encoding)
    assert encoder.seen == TESTS
    with pytest.raises(DataError, match="features of 8 images need"):
        refuse_without_room(paths, encoder, encoding, views=2)
    refuse_without_room(paths, encoder, replace(encoding, live=True))
    refuse_without_room(paths[:4], encoder, encoding)
    room(3)
    refuse_without_room(paths, encoder, encoding)
    room(0)
    for path in paths[2:]:
        path.write_bytes(b"damaged: it takes no room")
    refuse_without_room(paths, encoder, encoding)


def store_key(root: Path) -> store.StoreKey:
    (card,) = root.glob("*/store.json")
    tree = json.loads(card.read_text("utf-8"))
    return store.StoreKey(**{name: tree[name] for name in tree if name != "format"})


def test_what_will_be_written_is_foretold(paths, root, monkeypatch, caplog):
    monkeypatch.setattr(store, "NOTICE_BYTES", 1)
    encode(paths, root, views=2)
    assert "features of 10 views of images will take" in caplog.text


def test_a_store_that_may_only_be_read_is_as_good(paths, root, monkeypatch):
    encode(paths[:4], root)

    def refuse(*arguments, **more):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(store.os, "utime", refuse)
    monkeypatch.setattr(store.FileLock, "acquire", refuse)
    assert new_work(paths[:4], root) == 0
    with pytest.raises(DataError, match=r"Permission denied.*--live"):
        encode(paths, root)
    paths[4].write_bytes(b"damaged: no store ever has it")
    assert encode(paths, root, on_bad_image="skip").kept == [0, 1, 2, 3]
    with pytest.raises(DataError, match=paths[4].name):
        encode(paths, root)


def test_a_store_that_cannot_be_written_is_an_error(paths, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DataError, match="--live"):
        encode(paths, tmp_path / "file")


def test_a_second_process_waits_and_finds_everything(paths, root, caplog):
    encode(paths[:1], root)
    (folder,) = (path for path in root.iterdir() if path.is_dir())
    encoder, done = Counted(), []
    with FileLock(folder / ".lock"):
        waits = threading.Thread(target=lambda: done.append(encode(paths, root, encoder)))
        waits.start()
        latest = time.monotonic() + 120
        while "another process" not in caplog.text and time.monotonic() < latest:
            time.sleep(0.02)
        assert not done and encoder.seen == TESTS
    waits.join(120)
    assert done and encoder.seen == TESTS + 4
    assert "another process" in caplog.text


def test_unreadable_images_stop_or_are_listed(paths, root):
    paths[1].write_bytes(b"")
    paths[3].write_bytes(paths[3].read_bytes()[:60])
    missing = paths[0].with_name("missing.png")
    for live in (False, True):
        with pytest.raises(DataError, match=paths[1].name):
            encode(paths, root, live=live)
        encoded = encode([*paths, missing], root, live=live, views=2, on_bad_image="skip")
        assert encoded.kept == [0, 2, 4] and len(encoded.source) == 3
        names = [Path(bad.name).name for bad in encoded.bad]
        assert names == [paths[1].name, paths[3].name, "missing.png"]
        good = encode([paths[i] for i in encoded.kept], root).source.batch(torch.arange(3))
        batch = encoded.source.batch(torch.arange(3))
        assert torch.allclose(batch.hidden_patches, good.hidden_patches, atol=1e-3)


@pytest.mark.parametrize("live", [False, True])
def test_nan_of_an_encoder_is_refused_with_the_image_named(paths, root, live):
    class Broken(ToyEncoder):
        def encode_image(self, pixels):
            hidden, image = super().encode_image(pixels)
            hidden[1:2] = torch.nan
            return hidden, image

    with pytest.raises(EncoderError, match=rf"nan for 1 of \d+ images .*{paths[1].name}"):
        encode_images(paths, Broken(), encoding=Encoding(store=root, live=live)).source.batch(
            torch.arange(3)
        )


def test_a_file_with_the_same_bytes_and_another_state_is_encoded(paths, root, monkeypatch):
    """As on another machine, or on a network file system whose inodes change."""

    def elsewhere(*arguments, **more):
        found = read_contents(*arguments, **more)
        return {index: content._replace(state=(1, 2, 3)) for index, content in found.items()}

    monkeypatch.setattr(extract, "read_contents", elsewhere)
    assert encode(paths[:4], root).kept == [0, 1, 2, 3]


def test_an_image_that_changes_meanwhile_leaves_nothing_under_its_old_content(
    paths, root, monkeypatch
):
    before, good = paths[3].read_bytes(), encode(paths, root.with_name("good"))

    def then_edited(*arguments, **more):
        found = read_contents(*arguments, **more)
        paths[3].write_bytes(paths[0].read_bytes())
        later = time.time() + 60  # clocks tick, and files may be of one size
        os.utime(paths[3], (later, later))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(extract, "read_contents", then_edited)
        with pytest.raises(DataError, match=rf"{paths[3].name} has changed since.*run again"):
            encode(paths[:4], root)
        paths[3].write_bytes(before)
        encoded = encode(paths[:4], root, on_bad_image="skip")
        assert encoded.kept == [0, 1, 2]
        assert [Path(bad.name) for bad in encoded.bad] == [paths[3]]
    paths[3].write_bytes(before)
    assert new_work(paths[:4], root) == 1  # the features are those of its own pixels
    again = encode(paths[:4], root).source.batch(torch.tensor([3])).hidden_patches
    assert torch.equal(again, good.source.batch(torch.tensor([3])).hidden_patches)


@pytest.mark.parametrize("live", [False, True])
def test_nothing_to_encode_is_an_error(tmp_path, root, live):
    with pytest.raises(DataError, match="at least one image"):
        encode([], root, live=live)
    broken = tmp_path / "a.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(DataError, match="none of the 1 images can be read"):
        encode([broken], root, live=live, on_bad_image="skip")


@pytest.mark.parametrize("live", [False, True])
def test_progress_reaches_the_end(paths, root, live):
    seen = []
    encode(paths, root, live=live, progress=lambda *step: seen.append(step))
    assert seen[-1] == ("check" if live else "encode", 5, 5)


def test_unchanged_files_are_read_once(paths, root, monkeypatch):
    monkeypatch.setattr(contents, "FRESH_SECONDS", -1.0)
    encode(paths, root)

    def refuse(*arguments):
        raise AssertionError("a file was read again")

    with monkeypatch.context() as patch:
        patch.setattr(contents.hashlib, "file_digest", refuse)
        encode(paths, root)
    (root / "files.json").write_text("damaged")
    assert new_work(paths, root) == 0


def test_a_name_that_is_no_unicode_is_remembered_with_the_others(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(contents, "FRESH_SECONDS", -1.0)
    try:
        odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
        odd.write_bytes(b"odd")
    except OSError:
        pytest.skip("this file system takes Unicode alone")
    (tmp_path / "a.png").write_bytes(b"a")
    hashes = contents.ContentHashes(tmp_path)
    read = [hashes.look_up(path) for path in (odd, tmp_path / "a.png")]
    hashes.save()
    monkeypatch.setattr(contents, "hash_file", None)
    again = contents.ContentHashes(tmp_path)
    assert [again.look_up(path) for path in (odd, tmp_path / "a.png")] == read
    assert "damaged" not in caplog.text


# Of several processes -----------------------------------------------------------------------


def test_the_first_process_chooses_the_precision(paths, root, monkeypatch):
    """What another one measures may come out another way, and names another store."""

    def measure(*_):
        raise AssertionError("it was measured here, too")

    monkeypatch.setattr(extract, "best_precision", measure)
    monkeypatch.setattr(ranks, "number", lambda: 1)
    monkeypatch.setattr(ranks, "of_first", lambda value: "fp32" if value == "auto" else value)
    encoding = Encoding(store=root, live=True, precision="auto")
    assert encode_images(paths, Counted(), encoding=encoding).precision == "fp32"


def test_features_that_no_process_has_added_are_an_error(paths, root, monkeypatch):
    monkeypatch.setattr(extract._Run, "fill_together", lambda *_: {})
    with pytest.raises(DataError, match=r"features of 5 images are not in the store .*--store"):
        encode(paths, root)


def test_each_process_reads_its_share(paths, root, monkeypatch):
    other = {0: Content("a", (1, 2, 3)), 2: Content("c", (1, 2, 4)), 4: DataError("e is broken")}
    unsaved = {"/elsewhere/0.png": [1, 2, "a"]}
    monkeypatch.setattr(ranks, "count", lambda: 2)
    monkeypatch.setattr(ranks, "of_all", lambda mine: [(other, unsaved), mine])
    with monkeypatch.context() as patch:
        patch.setattr(ranks, "number", lambda: 1)
        hashes = contents.ContentHashes(root)
        found = read_contents(paths, hashes, stop=False, progress=None)
    own = {
        index: Content(
            contents.ContentHashes(None).look_up(paths[index]), contents.file_state(paths[index])
        )
        for index in (1, 3)
    }
    assert list(found) == [0, 1, 2, 3, 4] and found == {**other, **own}
    assert not (root / "files.json").exists()  # the first one saves
    monkeypatch.setattr(ranks, "number", lambda: 0)
    read_contents([], contents.ContentHashes(root), stop=False, progress=None)
    assert json.loads((root / "files.json").read_text("utf-8")) == unsaved


def test_what_fp16_cannot_hold_is_cut_where_means_are_read(paths, root):
    class Loud(ToyEncoder):
        def encode_image(self, pixels):
            hidden, image = super().encode_image(pixels)
            return 1e6 * hidden, image

    source = encode(paths, root, Loud(), form="fp32").source
    hidden, _ = read_features(source, pooled=True, views=1, dtype=torch.float16)
    assert hidden.isfinite().all() and hidden.abs().max() == torch.finfo(torch.float16).max
