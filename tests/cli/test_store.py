import json
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from tests.toy import ToyEncoder, write_images
from trmml.cli.main import app
from trmml.features.admin import list_stores
from trmml.features.extract import Encoding, encode_images


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_images(tmp_path / "p", 4)
    for form in ("fp16", "int8"):
        encoding = Encoding(tmp_path / "s", form=form)
        encode_images(sorted((tmp_path / "p").iterdir()), ToyEncoder(), encoding=encoding)
    return tmp_path / "s"


def run(*arguments: object, answer: str | None = None):
    return CliRunner().invoke(app, ["store", *map(str, arguments)], input=answer)


def test_ls_tells_what_is_kept(root):
    shown = run("ls", "--store", root)
    assert shown.exit_code == 0 and f"2 stores in {root}" in shown.stderr
    tree = json.loads(run("ls", "--store", root, "--json").stdout)
    assert tree["root"] == str(root) and len(tree["stores"]) == 2
    for info in tree["stores"]:
        assert info["key"] in shown.stdout and info["form"] in shown.stdout
        assert (info["encoder"], info["size"], info["images"]) == ("ToyEncoder", 24, 4)


def test_ls_costs_no_torch(root):
    code = "from trmml.cli.main import app; import sys; app(sys.argv[1:], standalone_mode=False)"
    code += "; assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", code, "store", "ls", "--store", root]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "ToyEncoder" in done.stdout, done.stderr


def test_ls_of_nothing(tmp_path):
    assert json.loads(run("ls", "--store", tmp_path, "--json").stdout)["stores"] == []


def test_ls_shows_the_users_own_store_by_default(root, monkeypatch):
    monkeypatch.setenv("TRMML_CACHE", str(root.parent))
    root.rename(root.parent / "features")
    assert len(json.loads(run("ls", "--json").stdout)["stores"]) == 2


def test_verify_names_damaged_shards_until_they_are_repaired(root):
    assert run("verify", "--store", root).exit_code == 0
    shard = next(root.glob("*/*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    found = run("verify", "--store", root)
    assert found.exit_code == 1 and found.stdout == f"{shard}: damaged\n"
    (other,) = (i.key for i in list_stores(root) if i.key != shard.parent.name)
    assert run("verify", other[:6], "--store", root).exit_code == 0
    repaired = run("verify", "--store", root, "--repair")
    assert repaired.exit_code == 0 and repaired.stdout == f"{shard}: damaged, removed\n"
    assert not shard.exists() and run("verify", "--store", root).exit_code == 0


def test_verify_refuses_a_folder_without_a_store(tmp_path, monkeypatch):
    for folder in (tmp_path, tmp_path / "typo"):
        refused = run("verify", "--store", folder)
        assert refused.exit_code != 0 and "holds no feature store" in refused.stderr
    monkeypatch.setenv("TRMML_CACHE", str(tmp_path))  # nothing was encoded yet
    none = run("verify")
    assert none.exit_code == 0 and "0 stores in" in none.stderr


def test_rm_asks_first(root):
    key = list_stores(root)[0].key
    assert run("rm", key, "--store", root, answer="n\n").exit_code == 1
    assert len(list_stores(root)) == 2
    assert run("rm", key, "--store", root, answer="y\n").exit_code == 0
    assert key not in [info.key for info in list_stores(root)]
    done = run("rm", "--all", "--yes", "--store", root)
    assert done.exit_code == 0 and list_stores(root) == []
    assert "removed" in done.stderr and done.stdout == ""


def test_rm_removes_a_store_with_a_damaged_card(root):
    card = next(root.glob("*/store.json"))
    card.write_text("{")
    done = run("rm", card.parent.name, "--yes", "--store", root)
    assert done.exit_code == 0 and not card.parent.exists() and len(list_stores(root)) == 1
    next(root.glob("*/store.json")).write_text("{")
    asked = run("rm", "--all", "--store", root, answer="y\n")
    assert asked.exit_code == 0 and "Remove 1 store," in asked.stderr
    assert not list(root.glob("*/store.json"))


def test_rm_refuses_what_is_wrong_or_in_use(root):
    key = list_stores(root)[0].key
    for arguments in ((), (key, "--all")):
        assert run("rm", *arguments, "--store", root).exit_code == 2
    unknown = run("rm", "zz", "--store", root, "--yes")
    assert unknown.exit_code == 1 and "known:" in unknown.stderr
    with FileLock(root / key / ".lock"):
        locked = run("rm", key, "--store", root, "--yes")
    assert locked.exit_code == 1 and "being filled" in locked.stderr
    assert len(list_stores(root)) == 2
