"""Downloads into the cache of the user: with checksums, with retries, and going on where a cut download stopped."""

import shutil
from pathlib import Path

from asym._formats import DataError
from asym._published import Download

RETRIES = 3
CHUNK = 2**16  # bytes
LARGEST = 2**28  # bytes of a download; the largest published file has 170 million


def fetch(downloads: tuple[Download, ...]) -> Path:
    """The cache folder, once each file lies in it with its checksum met; raises DataError naming the URL that failed."""
    import pooch  # here, because most runs download nothing
    from filelock import FileLock

    cache = Path(pooch.os_cache("asym"))
    store = pooch.create(
        cache,
        base_url="",
        registry={file.place: file.checksum for file in downloads},
        urls={file.place: file.url for file in downloads},
        retry_if_failed=RETRIES,
    )
    for file in downloads:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with FileLock(cache / f"{Path(file.place).name}.lock"):  # the workers of a grid may start together
                store.fetch(file.place, downloader=resume)
        except (OSError, ValueError) as error:  # requests raises OSErrors, pooch ValueErrors for a checksum
            raise DataError(
                f"{file.url}: cannot be downloaded ({error}). Try again (a partial download goes on where it "
                "stopped), or set ASYM_DATA to a folder that holds the data set"
            ) from error
    return cache


def resume(url: str, output_file: str, pooch, check_only: bool = False) -> None:
    """A pooch downloader: appends to NAME.part in the cache, asking only for the bytes that are not there yet.

    The part then becomes `output_file`, whose checksum pooch checks; a part that does not fit thus vanishes.
    """
    import requests

    part = Path(pooch.abspath) / f"{url.rsplit('/', 1)[-1]}.part"
    done = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={done}-"} if done else {})}
    with requests.get(url, headers=headers, stream=True, timeout=(10, 60)) as response:
        if response.status_code != 416:  # 416: the part is whole already
            response.raise_for_status()
            goes_on = response.headers.get("Content-Range", "").startswith(f"bytes {done}-")
            _write(response, part, done if goes_on and response.status_code == 206 else 0)
    shutil.move(part, output_file)


def _write(response, part: Path, done: int) -> None:
    """Write the response after the first `done` bytes of the part, with a bar on a terminal; ValueError, and no part, for more
    than any file has."""
    from tqdm import tqdm

    total = done + int(response.headers.get("Content-Length", 0)) or None
    options = {"desc": part.stem, "initial": done, "total": total, "unit": "B", "unit_scale": True, "disable": None}
    with open(part, "ab" if done else "wb") as file, tqdm(**options) as bar:
        for chunk in response.iter_content(CHUNK):
            if file.tell() + len(chunk) > LARGEST:
                break
            file.write(chunk)
            bar.update(len(chunk))
        else:
            return
    part.unlink()  # once it is closed: Windows removes no open file
    raise ValueError(f"more than the {LARGEST} bytes that a published file can have")
