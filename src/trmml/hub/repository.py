"""Push a run to the Hub, pull one as data, and the local folder that `hf:NAME` stands for."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trmml.errors import CheckpointError, ConfigError, MissingExtraError, TrmmlError
from trmml.hub.card import config_of, write_card
from trmml.hub.checks import NEEDED, PULLED, check_listing, check_pulled, encoder_fault, identifying
from trmml.storage.atomic import write_json, write_text
from trmml.storage.cache import cache_folder
from trmml.storage.drafts import draft_folder
from trmml.storage.hashes import hash_file
from trmml.storage.json_text import parse_object
from trmml.storage.tensors import load_tensors
from trmml.training.run_folder import load_card, summed

PREFIX = "hf:"
# All that `push` may send.
PUSHED = {*PULLED, "report.html", "known.safetensors", "model.onnx", "model.onnx.data"}
# Asked for before huggingface_hub is imported anywhere: it reads this once.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


@dataclass(frozen=True)
class Pushed:
    """What `push` sent, or would send.

    Attributes:
        name: of the repository.
        files: sizes in bytes, by name.
        commit: that holds them; None after a dry run.
    """

    name: str
    files: dict[str, int]
    commit: str | None


def push(
    run: Path | str,
    name: str,
    *,
    license_id: str,
    public: bool = False,
    encoder: str | None = None,
    report: bool = False,
    labels: bool = False,
    onnx: Path | None = None,
    dataset: str = "",
    revision: str | None = None,
    dry_run: bool = False,
    api: Any = None,
) -> Pushed:
    """Push a finished run: its model, settings, config.json and a card.

    Args:
        run: the folder; it is only read.
        name: of the repository, as owner/name; made where there is none.
        license_id: see `write_card`.
        public: whether all may see it; a public repository is never written without.
        encoder: how others load the encoder, where the run names a place of this machine.
        report: also report.html, which shows training images.
        labels: also known.safetensors, the labels that were known. Without it a run is refused
            that has them in its model, in a neighbour head.
        onnx: also this file, as model.onnx, and what `export` wrote beside it.
        dataset: see `write_card`.
        revision: branch to push to.
        dry_run: send nothing.
        api: a `huggingface_hub.HfApi`.

    Raises:
        CheckpointError: no finished run there.
        ConfigError: the name has no owner, or the run names people, machines or an encoder that
            others cannot load.
        TrmmlError: the Hub refused.
    """
    run = Path(run)
    readme = write_card(run, name, license_id=license_id, encoder=encoder, dataset=dataset)
    with draft_folder(cache_folder() / "hub" / "push") as folder:
        _gather(run, folder, encoder=encoder, report=report, labels=labels, onnx=onnx)
        write_text(folder / "README.md", readme)
        _refuse_identifying(run, folder)
        files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        commit = None if dry_run else _send(api or _api(), folder, name, public, revision)
    return Pushed(name, files, commit)


def _gather(
    run: Path,
    folder: Path,
    *,
    encoder: str | None,
    report: bool,
    labels: bool,
    onnx: Path | None,
) -> None:
    """Copy what is pushed into a folder, the encoder by the name that others load it by."""
    card = load_card(run)
    if card.settings.neighbour_head.use and not labels:
        raise ConfigError(
            f"{run} is not pushed: its neighbour head remembers its training images and their"
            " labels, in model.safetensors; say --with-labels where others may have them, or train"
            " with --set neighbour_head.use=false"
        )
    names = ["model.safetensors", "settings.json"]
    names += ["report.html"] * report + ["known.safetensors"] * labels
    for name in names:
        if not (run / name).is_file():
            raise ConfigError(
                f"{run} has no {name} to push; leave it out, or make it: trmml report"
            )
        shutil.copyfile(run / name, folder / name)
    if onnx is not None:
        shutil.copyfile(onnx, folder / "model.onnx")
        if (data := Path(f"{onnx}.data")).is_file():  # weights beyond 2 GiB
            shutil.copyfile(data, folder / "model.onnx.data")
    tree = parse_object((run / "model.json").read_bytes())
    spec = encoder or card.encoder_spec
    if fault := encoder_fault(spec):
        raise ConfigError(
            f"{run} is not pushed: {fault}; push the encoder, and name it with --encoder, as"
            " hf-hub:owner/model"
        )
    if tree["encoder"]["name"] == card.encoder_spec:  # a name of the same place
        tree["encoder"]["name"] = spec
    write_json(folder / "model.json", summed({**tree, "encoder_spec": spec}))
    config = {**config_of(card, tree["format"]), "encoder_spec": spec}
    write_json(folder / "config.json", config)


def _refuse_identifying(run: Path, folder: Path) -> None:
    """Raise where a text that would be pushed tells of people or machines."""
    texts = [path for path in sorted(folder.iterdir()) if path.suffix in (".json", ".html", ".md")]
    found = [line for path in texts for line in identifying(path.name, path.read_text("utf-8"))]
    if found:
        raise ConfigError(
            f"{run} is not pushed, for it tells of people or machines: {'; '.join(found)}. Leave"
            " that file out, or train with other names"
        )


def _send(api: Any, folder: Path, name: str, public: bool, revision: str | None) -> str:
    try:
        api.create_repo(name, private=not public, exist_ok=True)
        private = bool(api.model_info(name).private)  # one that is there stays what it is
        if private and public:
            raise ConfigError(
                f"{name} is there already and private, and a push does not change that; leave"
                " --public out, make it public in its settings on the Hub, or push to another name"
            )
        if not private and not public:
            raise ConfigError(f"{name} is public; say --public, or push to another name")
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)
        done = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            revision=revision,
            # What an earlier push sent and this one leaves out would stand beside another model.
            delete_patterns=sorted(PUSHED - {path.name for path in folder.iterdir()}),
            commit_message="Push a run of trmml",
        )
    except TrmmlError:
        raise
    except Exception as error:  # of the network and the Hub
        raise _unreachable(name, error) from error
    return str(done.oid)


def pull(name: str, out: Path | str | None = None, *, api: Any = None) -> Path:
    """A run of the Hub in a new folder; nothing of it is run, and its commit is written down.

    Args:
        name: owner/name, with @ and a branch, tag or commit behind it where it is not the newest.
        out: the new folder; one in the cache by default, where a commit is fetched once.
        api: a `huggingface_hub.HfApi`.

    Raises:
        CheckpointError: the repository is no run, is damaged, or holds what a run never does.
        TrmmlError: the Hub refused.
    """
    name, _, revision = name.removeprefix(PREFIX).partition("@")
    kept = cache_folder() / "hub" / name.replace("/", "--")
    if out is None and len(revision) == 40 and (kept / revision).is_dir():
        return kept / revision
    if out is not None and Path(out).exists():
        raise ConfigError(f"{out} is there already; name a new folder")
    api = api or _api()
    try:
        about = api.model_info(name, revision=revision or None, files_metadata=True)
    except Exception as error:  # of the network and the Hub
        raise _unreachable(name, error) from error
    folder = kept / str(about.sha) if out is None else Path(out)
    if folder.is_dir():
        return folder
    check_listing(name, {file.rfilename: file.size for file in about.siblings})
    with draft_folder(folder) as draft:
        _fetch(api, name, str(about.sha), {file.rfilename for file in about.siblings}, draft)
        check_pulled(name, draft)
        load_card(draft)
        _note(draft, name, str(about.sha))
        try:
            os.replace(draft, folder)
        except OSError:
            if out is not None or not (folder / "model.json").is_file():
                raise  # else another process has pulled the same commit meanwhile
    return folder


def _fetch(api: Any, name: str, commit: str, there: set[str], draft: Path) -> None:
    """Download what a run has and nothing else; what the downloader leaves beside it goes."""
    try:
        for file in sorted(there & set(PULLED)):
            api.hf_hub_download(name, file, revision=commit, local_dir=draft)
    except Exception as error:  # of the network and the Hub
        raise _unreachable(name, error) from error
    shutil.rmtree(draft / ".cache", ignore_errors=True)
    if missing := [file for file in NEEDED if not (draft / file).is_file()]:
        raise CheckpointError(f"{name} lacks {', '.join(missing)}; pull it again")


def _note(draft: Path, name: str, commit: str) -> None:
    """Write into the card where the run comes from, once its other files are as it says."""
    tree = parse_object((draft / "model.json").read_bytes())
    wanted = tree.get("files", {}).get("settings.json")
    if wanted is not None and (
        not (draft / "settings.json").is_file() or hash_file(draft / "settings.json") != wanted
    ):
        raise CheckpointError(f"{name} is damaged: settings.json has another checksum")
    load_tensors(draft / "model.safetensors")
    tree["pulled_from"] = {"repository": name, "commit": commit}
    write_json(draft / "model.json", summed(tree))


def _api() -> Any:
    """The Hub, with the token of its own command line; its usage data are not sent."""
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise MissingExtraError("the Hub", "hub") from None
    return HfApi()


def _unreachable(name: str, error: Exception) -> TrmmlError:
    """What is said where the Hub did not do what was asked."""
    return TrmmlError(
        f"the Hub did not serve {name}: {error}. Check the name and the connection, and log in:"
        " hf auth login"
    )
