"""Looks into the wheel and the sdist of the folder given: what is in them, and what they say.

With ``RELEASE`` in the environment, the tag of a release, no placeholder may be left.
"""

from __future__ import annotations

import os
import sys
import tarfile
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from zipfile import ZipFile

from trove_classifiers import classifiers

from tests.package.build import tracked
from tests.support import docs

PACKAGE = "django_ilert_oauth"
BESIDE_THE_PACKAGE = {
    "CHANGELOG.rst",
    "LICENSE",
    "MANIFEST.in",
    "README.rst",
    "pyproject.toml",
    "setup.cfg",
}
NEEDED = {"py.typed", "templates/ilert_oauth/base.html", "static/ilert_oauth/style.css"}


def main(folder: Path) -> None:
    [wheel] = folder.glob("*.whl")
    [sdist] = folder.glob("*.tar.gz")
    package = {path for path in tracked() if path.startswith(f"{PACKAGE}/")}
    assert {f"{PACKAGE}/{name}" for name in NEEDED} <= package
    with ZipFile(wheel) as archive:
        check_wheel(set(archive.namelist()), package)
        [metadata] = [name for name in archive.namelist() if name.endswith("/METADATA")]
        check_metadata(BytesParser().parsebytes(archive.read(metadata)))
    with tarfile.open(sdist) as sources:
        names = {member.name for member in sources.getmembers() if member.isfile()}
    check_sdist({name.partition("/")[2] for name in names}, package)
    print(f"{wheel.name}, {sdist.name}: the package and nothing else")


def check_wheel(names: set[str], package: set[str]) -> None:
    about = {name for name in names if name.partition("/")[0].endswith(".dist-info")}
    assert {name.partition("/")[2] for name in about} >= {"METADATA", "licenses/LICENSE"}
    _same(names - about, package)


def check_sdist(names: set[str], package: set[str]) -> None:
    made = {name for name in names if name.startswith(f"{PACKAGE}.egg-info/")} | {"PKG-INFO"}
    pictures = {path for path in tracked() if path.startswith("docs/screenshots/")}
    _same(names - made, package | BESIDE_THE_PACKAGE | pictures)


def check_metadata(metadata: Message) -> None:
    unknown = set(metadata.get_all("Classifier", [])) - classifiers
    assert not unknown, f"PyPI does not know these classifiers: {sorted(unknown)}"
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Description-Content-Type"] == "text/x-rst"
    if tag := os.environ.get("RELEASE"):
        check_release(metadata, tag)


def check_release(metadata: Message, tag: str) -> None:
    assert metadata["Version"] == tag, f"the tag is {tag}, the version {metadata['Version']}"
    told = [*metadata.items(), ("SECURITY.md", (docs.ROOT / "SECURITY.md").read_text())]
    left = sorted({name for name, text in told if "example.com" in text})
    assert not left, f"still placeholders: {left}"
    relative = [place for place in docs.places_of_readme() if "//" not in place]
    assert not relative, f"PyPI has none of these files, so give their addresses: {relative}"


def _same(there: set[str], wanted: set[str]) -> None:
    assert not there - wanted, f"should not be packed: {sorted(there - wanted)}"
    assert not wanted - there, f"is not packed: {sorted(wanted - there)}"


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
