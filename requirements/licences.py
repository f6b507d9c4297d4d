"""The licences of what is deployed, from the installed packages' own metadata: the table of docs/licences.md."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "licences.md"
HEAD = """# Licences

Every package that a function may carry (`requirements/runtime.txt`), with the licence that its metadata declares.
Written by `make licences`, compared with the installed packages by a test.

| package | version | licence |
|---|---|---|
"""
# What a package declares only in a file.
STATED = {"crcmod": "MIT"}


def table() -> str:
    """The document. Raises LookupError for a package without a declared licence."""
    lock = (ROOT / "requirements" / "runtime.txt").read_text(encoding="utf-8")
    entries = [Requirement(line.rstrip(" \\")) for line in lock.splitlines() if re.match(r"[A-Za-z0-9]", line)]
    wanted = [entry for entry in entries if entry.marker is None or entry.marker.evaluate()]
    rows = [f"| {entry.name} | {str(entry.specifier).removeprefix('==')} | {licence(entry.name)} |" for entry in wanted]
    return HEAD + "\n".join(rows) + "\n"


def licence(name: str) -> str:
    """The licence as an expression, a classifier's name, or the metadata's own short text."""
    try:
        found = metadata(name)
    except PackageNotFoundError:
        raise LookupError(f"{name} is locked but not installed") from None
    classifiers = [text for text in found.get_all("Classifier") or [] if text.startswith("License ::")]
    texts = [found.get("License-Expression"), *(text.rpartition(" :: ")[2] for text in classifiers)]
    texts += [found.get("License"), STATED.get(name)]
    for text in texts:
        if text and len(text) < 60 and text not in ("UNKNOWN", "OSI Approved"):
            return " ".join(text.split())
    raise LookupError(f"{name} declares no licence")


if __name__ == "__main__":
    DOCUMENT.write_text(table(), encoding="utf-8")
