"""pyproject.toml, the lock, the conda environment, the book's configuration and the package itself say the same."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
ASKED_FOR = PROJECT["dependencies"] + EXTRAS["book"] + EXTRAS["test"]
PINS = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
LOCK = {canonicalize_name(name): Version(version) for name, version in (pin.split("==") for pin in PINS)}
CUDA = re.compile("nvidia|cuda|triton")
MACHINE_PATH = re.compile(rb"(?<![\w.<])/" + rb"(?:root|work|home/\w+|Users/\w+)" + rb"(?![\w.-])")


def files():
    """Every file of the project that is text: tracked, or new and not ignored."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    for path in (ROOT / name for name in names if name):
        content = path.read_bytes() if path.is_file() else b""
        if b"\0" not in content:
            yield path.relative_to(ROOT), content


@pytest.mark.parametrize("text", ASKED_FOR)
def test_what_pyproject_asks_for_is_locked_within_its_range(text):
    requirement = Requirement(text)
    assert requirement.specifier.contains(LOCK[canonicalize_name(requirement.name)])


def test_lock_is_closed():
    """Whatever a locked package needs here is locked too, so that an installation resolves nothing."""
    for name in LOCK.keys() & {canonicalize_name(d.name) for d in metadata.distributions()}:
        for requirement in map(Requirement, metadata.requires(name) or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                needed = canonicalize_name(requirement.name)
                assert needed in LOCK or CUDA.search(needed), f"{name} needs {needed}"


def test_lock_is_exact_and_sorted_and_free_of_cuda():
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in PINS)
    assert PINS == sorted(PINS, key=str.upper)
    assert not [pin for pin in PINS if CUDA.search(pin)]


def test_every_pin_but_that_of_torch_has_the_checksums_of_its_files():
    """torch comes in several builds, each with checksums of its own."""
    entries = re.split(r"\n(?=\w)", (ROOT / "requirements.hashes").read_text().split("\n", 1)[1].strip())
    pins = dict(entry.split()[0].split("==") for entry in entries)
    assert {canonicalize_name(name): Version(version) for name, version in pins.items()} | {"torch": LOCK["torch"]} == LOCK
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)


def test_conda_environment_takes_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, pinned = environment["dependencies"]
    assert pip == "pip" and pinned == {"pip": ["-r requirements.txt", "-e ."]}
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python="))


def test_versions_agree():
    import asym

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["version"] == citation["version"] == asym.__version__


def test_wheel_carries_the_data(tmp_path):
    """What an installed package lacks, an editable one does not miss: look into a real wheel."""
    shutil.copytree(ROOT / "asym", tmp_path / "asym", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    build = "import setuptools.build_meta as b; b.build_wheel('.')"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    shipped = set(zipfile.ZipFile(wheel).namelist())
    wanted = {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "asym").rglob("*") if path.is_file()}
    assert wanted <= shipped
    assert {"asym/presets/quick.yaml", "asym/embedded/fashion-mnist/train-images-idx3-ubyte.gz"} <= shipped


def test_book_configuration_has_no_unknown_key_and_never_executes():
    from jupyter_book import config

    ours = yaml.safe_load((ROOT / "_config.yml").read_text())
    config.validate_yaml(ours, raise_on_errors=True)
    known = yaml.safe_load(Path(config.__file__).with_name("default_config.yml").read_text())
    assert ours.keys() <= known.keys() | {"bibtex_bibfiles"}
    for section in ours.keys() & known.keys():
        if isinstance(known[section], dict):
            assert ours[section].keys() <= known[section].keys(), section
    final, _ = config.get_final_config(
        user_yaml=ROOT / "_config.yml", cli_config={"latex_individualpages": False}, validate=False
    )
    assert final["nb_execution_mode"] == "off"


def test_every_page_of_the_contents_exists():
    contents = yaml.safe_load((ROOT / "book/_toc.yml").read_text())
    pages = [contents["root"], *(chapter["file"] for chapter in contents["chapters"])]
    stored = {path.stem for path in (ROOT / "book").iterdir() if path.suffix in (".md", ".ipynb")}
    assert stored == set(pages)


def test_ci_script_is_executable():
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.parametrize("address", [("192.0.2.1", 80), ("2001:db8::1", 80, 0, 0)])
def test_no_test_reaches_beyond_this_machine(address):
    """Addresses that are kept for documents, so that nothing is asked even if the guard fails."""
    family = socket.AF_INET if len(address) == 2 else socket.AF_INET6
    with socket.socket(family) as sock, pytest.raises(PermissionError, match=f"may not connect to {address[0]}"):
        sock.settimeout(1)
        sock.connect(address)


def test_no_file_names_a_path_of_one_machine():
    assert not [str(path) for path, content in files() if MACHINE_PATH.search(content)]
