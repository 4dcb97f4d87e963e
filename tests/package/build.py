"""Builds the wheel and the sdist from what git tracks, twice, into the folder given.

The two builds must be the same to the byte, so that anybody can build a release again. The times in
them are those of ``SOURCE_DATE_EPOCH``, or of the last commit.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def tracked() -> list[str]:
    return sorted(filter(None, _git("ls-files", "-z").split("\0")))


def main(folder: Path) -> None:
    os.umask(0o022)
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct"))
    first, second = (_build(epoch) for _ in range(2))
    assert first.keys() == second.keys()
    differing = [name for name in first if first[name] != second[name]]
    assert not differing, f"built twice, and not the same: {differing}"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("django_ilert_oauth-*"):
        old.unlink()
    for name, content in first.items():
        (folder / name).write_bytes(content)


def _build(epoch: int) -> Mapping[str, bytes]:
    """Each file's content, by name."""
    with tempfile.TemporaryDirectory() as name:
        source, built = Path(name, "source"), Path(name, "built")
        for path in tracked():
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, source / path)
        command = [sys.executable, "-m", "build", "--outdir", str(built), str(source)]
        subprocess.run(command, env=os.environ | {"SOURCE_DATE_EPOCH": str(epoch)}, check=True)
        [sdist] = built.glob("*.tar.gz")
        _pack_again(sdist, epoch)
        return {path.name: path.read_bytes() for path in sorted(built.iterdir())}


def _pack_again(sdist: Path, epoch: int) -> None:
    """setuptools leaves the times of the build in it, and who built."""
    packed = sdist.with_suffix(".new")
    with (
        tarfile.open(sdist) as old,
        packed.open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=epoch) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            content = old.extractfile(member) if member.isfile() else None
            new.addfile(_plain(member, epoch), content)
    packed.replace(sdist)


def _plain(member: tarfile.TarInfo, epoch: int) -> tarfile.TarInfo:
    plain = tarfile.TarInfo(member.name)
    plain.type, plain.size, plain.mtime = member.type, member.size, epoch
    plain.mode = 0o755 if member.isdir() else 0o644
    return plain


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
