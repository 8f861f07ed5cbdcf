"""Packs the built book and the data of its quick runs for reading and checking offline: python -m asym.parcel PAGES ZIP."""

import hashlib
import sys
import zipfile
from pathlib import Path

from asym.data import EMBEDDED

SUMS = "SHA256SUMS"
TIME = (1980, 1, 1, 0, 0, 0)  # the first that a zip file knows: the same files give the same bytes


def pack(pages: Path, target: Path) -> None:
    """Writes a zip file with the pages in html/ (they hold the published runs), the data in data/, and SHA256SUMS of both.

    FileNotFoundError where the pages are not built.
    """
    if not (pages / "index.html").exists():
        raise FileNotFoundError(f"pages must be the folder of a built book; got {str(pages)!r}, which has no index.html")
    sums, top = "", target.stem
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as parcel:
        for name, path in (_under(pages, "html") | _under(EMBEDDED, "data")).items():
            content = path.read_bytes()
            sums += f"{hashlib.sha256(content).hexdigest()}  {name}\n"
            _write(parcel, f"{top}/{name}", content)
        _write(parcel, f"{top}/{SUMS}", sums.encode())


def _under(folder: Path, name: str) -> dict[str, Path]:
    """Every file below a folder by its name in the parcel, sorted."""
    return {f"{name}/{path.relative_to(folder).as_posix()}": path for path in sorted(folder.rglob("*")) if path.is_file()}


def _write(parcel: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, TIME)
    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    parcel.writestr(entry, content)


if __name__ == "__main__":
    pack(Path(sys.argv[1]), Path(sys.argv[2]))
