"""Fetch MovieLens-100K from the wheel ``recbole==1.2.1``, which carries it with timestamps.

The wheel is only unpacked: RecBole is neither installed nor imported. Run it as
``python -m genrec_model.data.fetch_movielens --to data/ml-100k``.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from genrec_model.errors import DataError, UserError

logger = logging.getLogger(__name__)

REQUIREMENT = "recbole==1.2.1"
FOLDER_IN_WHEEL = "recbole/dataset_example/ml-100k"
SHA256 = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
}


def fetch_movielens_100k(wheel: Path | None, destination: Path) -> None:
    """Put the two files of MovieLens-100K into ``destination``; nothing to do if they are there.

    Args:
        wheel: the downloaded wheel; pip downloads it to a temporary folder if not given.
        destination: folder, made if needed.

    Raises:
        DataError: the download fails, or the wheel is not the one whose hashes are known.
    """
    if all(_is_good(destination / name, digest) for name, digest in SHA256.items()):
        logger.info("MovieLens-100K is already in %s", destination)
        return
    if wheel is not None:
        _unpack(wheel, destination)
        return
    with tempfile.TemporaryDirectory(prefix="genrec-") as folder:
        _unpack(_download(Path(folder)), destination)


def _is_good(path: Path, digest: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise DataError(
            f"{REQUIREMENT}: pip could not download it ({reason}): "
            "check the network or pass --wheel"
        )
    return wheels[0]


def _unpack(wheel: Path, destination: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            contents = {name: archive.read(f"{FOLDER_IN_WHEEL}/{name}") for name in SHA256}
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{wheel}: not the wheel of {REQUIREMENT} ({error}): fetch it again"
        ) from error
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != SHA256[name]:
            raise DataError(f"{wheel}: {name} has an unknown SHA-256: fetch {REQUIREMENT} again")
    destination.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        unfinished = destination / f".{name}.{os.getpid()}.tmp"
        unfinished.write_bytes(content)
        unfinished.replace(destination / name)
    logger.info("MovieLens-100K is now in %s", destination)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code, 2 when the user can mend what is wrong."""
    parser = argparse.ArgumentParser(prog="fetch_movielens", description=__doc__)
    parser.add_argument("--to", type=Path, required=True, help="folder for the two files")
    parser.add_argument("--wheel", type=Path, help=f"wheel of {REQUIREMENT}, if you have it")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        fetch_movielens_100k(options.wheel, options.to)
    except UserError as error:
        logger.error("%s", error)  # noqa: TRY400 - the user needs the line, not the traceback
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
