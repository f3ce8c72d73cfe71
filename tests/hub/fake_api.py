"""A Hub in memory that answers as `huggingface_hub.HfApi` does, as far as trmml asks."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any


@dataclass
class FakeApi:
    """Repositories by name: whether private, and their commits, each with all its files."""

    private: dict[str, bool] = field(default_factory=dict)
    commits: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)
    branches: set[str] = field(default_factory=lambda: {"main"})

    def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> None:
        assert exist_ok
        self.private.setdefault(name, private)
        self.commits.setdefault(name, {})

    def create_branch(self, name: str, *, branch: str, exist_ok: bool) -> None:
        assert exist_ok and name in self.commits
        self.branches.add(branch)

    def upload_folder(
        self,
        *,
        repo_id: str,
        folder_path: Path,
        revision: str | None,
        delete_patterns: list[str],
        **_: Any,
    ) -> Any:
        if (revision or "main") not in self.branches:
            raise OSError(f"404: no revision {revision}")
        before = list(self.commits[repo_id].values())[-1:]
        kept = {n: c for files in before for n, c in files.items() if n not in delete_patterns}
        files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        return SimpleNamespace(oid=self.put(repo_id, kept | files))

    def put(self, name: str, files: dict[str, bytes]) -> str:
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits.setdefault(name, {})[commit] = files
        self.private.setdefault(name, True)
        return commit

    def model_info(self, name: str, *, revision: str | None = None, files_metadata: bool = False):
        if name not in self.commits:
            raise OSError(f"404: {name}")
        commit = revision or list(self.commits[name] or [""])[-1]
        files = self.commits[name].get(commit, {})
        siblings = [SimpleNamespace(rfilename=n, size=len(c)) for n, c in files.items()]
        return SimpleNamespace(sha=commit, siblings=siblings, private=self.private[name])

    def hf_hub_download(self, name: str, file: str, *, revision: str, local_dir: Path) -> str:
        self.fetched.append(file)
        path = Path(local_dir) / file
        path.write_bytes(self.commits[name][revision][file])
        (Path(local_dir) / ".cache").mkdir(exist_ok=True)
        return str(path)
