"""`trmml store`: list, check and remove the features that were computed."""

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from trmml.cli import options
from trmml.cli.app import Verb, examples
from trmml.cli.output import print_json, print_table, say, show
from trmml.errors import DataError

store = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="List, check or remove the encoder features that were kept.",
)


@store.command("ls", cls=Verb, epilog=examples("trmml store ls", "trmml store ls --json"))
def list_all(folder: options.Store = None, json: options.Json = False) -> None:
    """List the stores, the one used last first."""
    from rich.table import Table

    from trmml.features.admin import list_stores

    infos = list_stores(_root(folder))
    if json:
        print_json({"root": str(_root(folder)), "stores": [asdict(info) for info in infos]})
        return
    table = Table(
        "key", "encoder", "px", "form", "precision", "images", "rows", "size", "last used"
    )
    for info in infos:
        used = datetime.fromtimestamp(info.last_used).strftime("%Y-%m-%d %H:%M")
        size = f"{info.bytes / 2**20:.1f} MiB"
        cells = (info.key, info.encoder, info.size, info.form, info.precision, info.images)
        table.add_row(*(str(cell) for cell in (*cells, info.rows, size, used)))
    print_table(table)
    say(f"{len(infos)} stores in {_root(folder)}")


@store.command(cls=Verb, epilog=examples("trmml store verify", "trmml store verify 3fa9 --repair"))
def verify(
    key: Annotated[str | None, typer.Argument(help="One store; all by default.")] = None,
    folder: options.Store = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove damaged shards; they are computed anew.")
    ] = False,
) -> None:
    """Read every shard and name the damaged ones. Exit code 1 when any is left."""
    from trmml.features.admin import all_stores, find_store
    from trmml.features.shards import damaged_shards

    root = _root(folder)
    stores = all_stores(root) if key is None else [find_store(root, key)]
    if not stores and folder is not None:
        raise DataError(f"{folder} holds no feature store; name the folder that --store made")
    left = 0
    for store_folder in stores:
        damaged = damaged_shards(store_folder)
        for shard in damaged:
            if repair:
                shard.unlink(missing_ok=True)
            show(f"{shard}: damaged{', removed' if repair else ''}")
        left += 0 if repair else len(damaged)
        say(f"{store_folder.name}: {len(damaged)} damaged shards")
    if not stores:
        say(f"0 stores in {root}")
    if left:
        raise typer.Exit(1)


@store.command("rm", cls=Verb, epilog=examples("trmml store rm 3fa9", "trmml store rm --all --yes"))
def remove(
    key: Annotated[str | None, typer.Argument(help="A store's key, or how it begins.")] = None,
    folder: options.Store = None,
    everything: Annotated[bool, typer.Option("--all", help="Every store of the folder.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a store. Its features are computed again when they are needed."""
    from trmml.features.admin import all_stores, find_store, remove_store, store_bytes

    if (key is None) != everything:
        raise typer.BadParameter("give a store's key, or --all for every one")
    root = _root(folder)
    chosen = all_stores(root) if key is None else [find_store(root, key)]
    size = sum(map(store_bytes, chosen)) / 2**20
    if not yes:
        stores = "1 store" if len(chosen) == 1 else f"{len(chosen)} stores"
        typer.confirm(f"Remove {stores}, {size:.1f} MiB?", abort=True, err=True)
    for store_folder in chosen:
        remove_store(store_folder)
        say(f"removed {store_folder.name}")


def _root(folder: Path | None) -> Path:
    from trmml.features.admin import default_root

    return folder or default_root()
