"""Without a network: what is here is used, and what is not is said, with the place looked at."""

from __future__ import annotations

import subprocess
import sys

import pytest

from xmodal.errors import ZooError
from xmodal.zoo import Patience, download, list_entries, show

QUICK = Patience(attempts=2, timeout=0.4, pause=0.001)


@pytest.fixture(params=["argument", "environment"])
def offline(request, monkeypatch):
    """Options that mean offline, either way of saying it."""
    if request.param == "argument":
        return lambda: {"offline": True}

    def switch():
        monkeypatch.setenv("XMODAL_OFFLINE", "1")
        return {}

    return switch


def test_a_student_that_was_downloaded_is_there_without_a_request(server, offline):
    folder = download("emoji", index=server.address)
    server.requests.clear()
    options = offline()
    assert download("emoji", index=server.address, **options) == folder
    assert show("emoji", index=server.address, **options).name == "emoji"
    assert server.requests == []


def test_a_student_that_is_not_complete_is_named_with_the_folder_looked_in(server, offline, cache):
    folder = download("emoji", index=server.address)
    (folder / "model.safetensors").unlink()
    (folder / "config.json").write_text("{}")
    server.requests.clear()
    with pytest.raises(ZooError) as caught:
        download("emoji", index=server.address, **offline())
    assert f"looked in {folder}, which lacks model.safetensors, config.json" in str(caught.value)
    assert "xmodal zoo download emoji" in str(caught.value)
    assert server.requests == []


def test_an_index_that_was_never_read_is_named_with_the_copy_looked_for(server, offline, cache):
    with pytest.raises(
        ZooError, match=rf"Offline, and no copy of {server.address}/index\.json was kept: looked for {cache}"
    ):
        list_entries(server.address, **offline())
    assert server.requests == []


def test_a_zoo_on_this_machine_needs_no_network(zoo, offline):
    options = offline()
    assert (download("emoji", index=zoo.folder, **options) / "config.json").read_bytes() == zoo.files["config.json"]
    list_entries(**options)


def test_offline_can_be_switched_off_by_the_caller(server, monkeypatch):
    monkeypatch.setenv("XMODAL_OFFLINE", "1")
    assert download("emoji", index=server.address, offline=False).is_dir()


@pytest.mark.parametrize(("value", "refused"), [("1", True), ("True", True), ("on", True), ("0", False), ("", False)])
def test_the_variable_is_read_as_yes_or_no(server, monkeypatch, value, refused):
    monkeypatch.setenv("XMODAL_OFFLINE", value)
    if refused:
        with pytest.raises(ZooError, match="Offline"):
            list_entries(server.address)
    else:
        assert len(list_entries(server.address)) == 1


def test_a_cache_that_cannot_be_written_does_not_hide_the_list(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XMODAL_CACHE", str(tmp_path / "file"))
    assert [entry.name for entry in list_entries(server.address)] == ["emoji"]
    with pytest.raises(ZooError, match=r"cannot be written.*set XMODAL_CACHE"):
        download("emoji", index=server.address)


def test_reading_a_zoo_does_not_import_torch():
    code = "import sys, xmodal.zoo as zoo; zoo.list_entries(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
