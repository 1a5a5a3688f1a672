"""What is built and installed: folders, symlinks, wheel, sdist, lazy import."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_folder_with_an_init_is_a_declared_package(project):
    found = {
        ".".join(["xmodal", *path.parent.relative_to(ROOT / top).parts])
        if top == "xmodal"
        else ".".join(["xmodal", *path.parent.relative_to(ROOT).parts])
        for top in ("xmodal", "adapters", "data")
        for path in (ROOT / top).rglob("__init__.py")
        if not any(parent.is_symlink() for parent in path.parents)
    }
    assert found == set(project["tool"]["setuptools"]["packages"])


@pytest.mark.parametrize("name", ["adapters", "data"])
def test_the_top_folders_are_linked_into_the_package(name):
    link = ROOT / "xmodal" / name
    assert link.is_symlink()
    assert link.resolve() == ROOT / name


def test_importing_xmodal_does_not_import_torch():
    code = "import sys, xmodal; assert not {'torch', 'timm', 'transformers', 'numpy'} & set(sys.modules); xmodal.Recipe"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_public_name_resolves():
    import xmodal

    for name in xmodal.__all__:
        assert getattr(xmodal, name) is not None


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A wheel made from the sdist, as pip would: what the sdist forgets is missing from both."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT], check=True, capture_output=True
    )
    return out


def test_the_wheel_holds_code_recipes_samples_and_no_stray_package(built):
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"xmodal"}
    for wanted in (
        "xmodal/py.typed",
        "xmodal/adapters/encoder.py",
        "xmodal/data/samples/emoji/manifest.json",
        "xmodal/recipes/emoji-text-to-image.yaml",
        "xmodal/recipes/results.json",
        "xmodal/zoo/index.json",
    ):
        assert wanted in names
    assert any(name.startswith("xmodal/data/samples/emoji/train-") and name.endswith(".tar") for name in names)
    licences = {Path(name).name for name in names if ".dist-info/licenses/" in name}
    assert licences == {"LICENSE", "NOTICE"}


def test_the_sdist_holds_examples_and_tests(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"examples/build_emoji_shards.py", "tests/test_packaging.py", "constraints.txt", "NOTICE"} <= names


def test_the_wheel_works_outside_the_clone(built, tmp_path):
    """Installed into an empty folder that stands alone on the path, the named recipe checks and its shards open."""
    (wheel,) = built.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel], check=True
    )
    assert sorted(p.name for p in site.iterdir() if not p.name.endswith(".dist-info")) == ["bin", "xmodal"]
    code = (
        "import xmodal, sys; from xmodal.recipes import check, load_recipe; from xmodal.data import open_shards; "
        f"assert xmodal.__file__.startswith({str(site)!r}), xmodal.__file__; "
        "recipe = load_recipe('emoji-text-to-image'); assert check(recipe) == []; "
        "assert open_shards(recipe.data.train).num_samples > 3000"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=tmp_path, env={"PYTHONPATH": str(site), "PATH": "/usr/bin"}
    )
