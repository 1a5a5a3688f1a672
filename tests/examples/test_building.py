"""examples/building.py: packages are taken as given, and what is missing is said with its mend."""

from __future__ import annotations

import shutil

import pytest

from xmodal.data.hashing import file_sha256

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg is not here")


@pytest.fixture
def building(load):
    return load("building")


@pytest.fixture
def files(tmp_path):
    root = tmp_path / "root"
    (root / "usr" / "share" / "thing").mkdir(parents=True)
    (root / "usr" / "share" / "thing" / "a.txt").write_text("inside")
    return root


@needs_dpkg
def test_a_deb_is_unpacked_and_its_version_said(building, files, debian_folder, tmp_path, capsys):
    packages = debian_folder(files, "thing", "1:3.0-37")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    folder, version = building.debian_package("thing", "usr/share/thing", packages, temporary)
    assert (folder / "a.txt").read_text() == "inside"
    assert version == "1:3.0-37"
    assert "thing 1:3.0-37" in capsys.readouterr().out


@needs_dpkg
def test_of_two_versions_none_is_chosen(building, files, debian_folder, tmp_path):
    debian_folder(files, "thing", "1:3.0-37")
    packages = debian_folder(files, "thing", "1:3.0-38")
    with pytest.raises(SystemExit, match="2 versions of thing"):
        building.debian_package("thing", "usr/share/thing", packages, tmp_path)


def test_an_unpacked_package_is_taken_as_it_is(building, files, tmp_path):
    folder, _ = building.debian_package("thing", "usr/share/thing", files, tmp_path)
    assert folder == files / "usr" / "share" / "thing"


def test_a_folder_without_the_package_says_how_to_fetch_it(building, tmp_path):
    with pytest.raises(SystemExit, match="apt-get download thing"):
        building.debian_package("thing", "usr/share/thing", tmp_path, tmp_path)


def test_a_machine_without_apt_is_told_where_else_the_package_is(building, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match=r"apt-get is not on this machine.*packages.debian.org.*--packages"):
        building.debian_package("thing", "usr/share/thing", None, tmp_path)


def test_a_file_that_is_no_package_is_refused_with_what_dpkg_says(building, tmp_path):
    if shutil.which("dpkg") is None:
        pytest.skip("dpkg is not here")
    (tmp_path / "thing_1_all.deb").write_text("not a package")
    with pytest.raises(SystemExit, match="dpkg-deb: error"):
        building.debian_package("thing", "usr/share/thing", tmp_path, tmp_path)


def test_an_npm_package_is_the_published_one_or_refused(building, npm_tgz, tmp_path):
    path = tmp_path / "scope-thing-1.0.0.tgz"
    npm_tgz(path, {"a.json": b"{}"})
    assert building.npm_package("@scope/thing@1.0.0", file_sha256(path), tmp_path, tmp_path) == path
    with pytest.raises(SystemExit, match="is not the published @scope/thing"):
        building.npm_package("@scope/thing@1.0.0", "0" * 64, tmp_path, tmp_path)
    with pytest.raises(SystemExit, match="npm pack other@2"):
        building.npm_package("other@2.0.0", "0" * 64, tmp_path, tmp_path)


def test_shards_of_an_earlier_run_do_not_stay(building, tmp_path):
    def write(**splits):
        named = {name: (2, [(f"k{n}", {"txt": b"x"}) for n in range(count)]) for name, count in splits.items()}
        building.write_splits(tmp_path / "out", named, description="d", licence="l")
        return {path.name for path in (tmp_path / "out").glob("*.tar")}

    assert write(train=3, test=1) == {"train-000000.tar", "train-000001.tar", "test-000000.tar"}
    assert write(train=1) == {"train-000000.tar"}
