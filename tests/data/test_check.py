from __future__ import annotations

import io
import os
import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from xmodal.data import index_shards, open_shards
from xmodal.data.check import check
from xmodal.data.decode import decode_image
from xmodal.data.decoders import DEFAULT_DECODER, decode_picture
from xmodal.data.members import MemberError
from xmodal.data.pack import pack
from xmodal.data.show import show
from xmodal.errors import DataError


@pytest.fixture
def packed(pair_folder, tmp_path):
    pack(pair_folder, tmp_path / "out", shard_size=4, seed=None)
    return tmp_path / "out"


def found(shards):
    return [(finding.shard, finding.key, finding.problem) for finding in check(shards)]


def rewrite(path, change):
    """Pass every member of a tar through ``change(name, data) -> [(name, data), …]``."""
    with tarfile.open(path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in [new for member in members for new in change(*member)]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_sound_shards_have_no_findings_and_checking_writes_nothing(packed):
    before = {path: path.stat().st_mtime_ns for path in packed.iterdir()}
    assert check(packed) == []
    for path in packed.glob("*.json"):
        path.unlink()
    assert check(packed) == []
    assert {path for path in before if path.suffix == ".tar"} == set(packed.iterdir())


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (("item1.png", b"no picture at all"), ".png: picture is not one of"),
        (("item1.png", b""), ".png: empty (0 bytes)"),
        (("item1.txt", b""), ".txt: empty (0 bytes)"),
        (("item1.txt", b"\xff\xfe"), ".txt: text is not UTF-8"),
        (("item1.cls", b"x"), ".cls: label is b'x'"),
        (("item1.json", b"{"), ".json: not JSON"),
        (("item1.wav", b""), ".wav: empty"),
        (("item1.wav", b"RIFF"), ".wav: sound is not one of WAV"),
    ],
)
def test_every_bad_member_is_found_and_named(packed, broken, problem):
    name = broken[0]

    def change(member, data):
        if member == name:
            return [broken]
        new = name.endswith(("cls", "json", "wav")) and member == "item1.txt"
        return [(member, data), broken] if new else [(member, data)]

    rewrite(packed / "shard-000000.tar", change)
    index_shards(packed)
    findings = found(packed)
    assert [(shard, key) for shard, key, _ in findings] == [("shard-000000.tar", "item1")]
    assert findings[0][2].startswith(problem)


def test_a_picture_cut_off_in_its_middle_is_found(packed):
    rewrite(
        packed / "shard-000001.tar",
        lambda name, data: [(name, data[: len(data) * 2 // 3] if name == "item5.png" else data)],
    )
    index_shards(packed)
    assert [(key, problem.split(":")[0]) for _, key, problem in found(packed)] == [("item5", ".png")]


def test_a_missing_partner_is_found(packed):
    rewrite(
        packed / "shard-000000.tar", lambda name, data: [] if name in ("item1.txt", "item2.png") else [(name, data)]
    )
    index_shards(packed)
    assert sorted(found(packed)) == [
        ("shard-000000.tar", "item1", "has no .txt, which 6 of 7 samples have"),
        ("shard-000000.tar", "item2", "has no picture, which 6 of 7 samples have"),
    ]


def test_pictures_of_several_formats_are_all_pictures(packed):
    rewrite(packed / "shard-000000.tar", lambda name, data: [(name.replace("item1.png", "item1.jpg"), data)])
    index_shards(packed)
    assert check(packed) == []


def test_a_key_in_two_shards_is_a_warning(packed):
    rewrite(packed / "shard-000001.tar", lambda name, data: [(name.replace("item6", "item0"), data)])
    index_shards(packed)
    assert found(packed) == [("shard-000001.tar", "item0", "shard-000000.tar has a sample of this key too")]
    assert [finding.level for finding in check(packed)] == ["warning"]


def test_shards_of_one_name_in_two_folders_are_told_apart(packed, tmp_path):
    other = shutil.copytree(packed, tmp_path / "other")
    rewrite(other / "shard-000001.tar", lambda name, data: [(name, b"" if name == "item5.txt" else data)])
    index_shards(other)
    findings = check([str(packed), str(other)])
    assert [str(finding) for finding in findings if finding.level == "error"] == [
        "other/shard-000001.tar: item5: .txt: empty (0 bytes)"
    ]
    told = [(finding.shard, finding.problem) for finding in findings if finding.level == "warning"]
    assert told == [
        ("other/shard-000000.tar", "out/shard-000000.tar has a sample of this key too, as of 3 more"),
        ("other/shard-000001.tar", "out/shard-000001.tar has a sample of this key too, as of 2 more"),
    ]


def test_one_changed_byte_inside_a_member_is_found_by_its_checksum(packed):
    path = packed / "shard-000000.tar"
    offset = path.read_bytes().index(b"text 2")
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"TEXT")
    assert open_shards(packed).num_samples == 7  # sizes and headers are as they were
    assert [(shard, key) for shard, key, problem in found(packed) if "SHA-256" in problem] == [(path.name, None)]


def test_a_broken_shard_does_not_hide_the_others(packed):
    os.truncate(packed / "shard-000000.tar", 2000)
    rewrite(packed / "shard-000001.tar", lambda name, data: [(name, b"" if name == "item6.txt" else data)])
    findings = found(packed)
    assert "broken at byte" in findings[0][2]
    assert any(key == "item6" and "empty" in problem for _, key, problem in findings)


def test_stale_indexes_wrong_manifests_and_missing_shards_are_found(packed):
    first, second = packed / "shard-000000.tar", packed / "shard-000001.tar"
    rewrite(first, lambda name, data: [(name.replace("item0", "item9"), data)])
    second.unlink()
    problems = [problem for _, _, problem in found(packed)]
    assert any("SHA-256" in problem for problem in problems)
    assert any("index.json does not describe it" in problem for problem in problems)
    assert any("not in the folder" in problem for problem in problems)


def test_stray_files_in_a_shard_are_found(packed):
    rewrite(
        packed / "shard-000000.tar", lambda name, data: [(name, data), *([("NOTES", b"x")] if "0.txt" in name else [])]
    )
    index_shards(packed)
    assert found(packed) == [
        ("shard-000000.tar", None, "1 files belong to no sample (no key or no extension): 'NOTES'")
    ]


def test_a_shard_with_many_flaws_is_told_of_in_a_few_lines(packed):
    path = packed / "shard-000000.tar"
    with tarfile.open(path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]
    members = [(f"{n}-{name}", data) for n in range(10) for name, data in members]
    with tarfile.open(path, "w") as tar:  # all pictures first, then all texts
        for name, data in sorted(members, key=lambda member: member[0].endswith("txt")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    problems = [
        problem for shard, _, problem in found(packed / "*0.tar") if "occurs twice" in problem or "more" in problem
    ]
    assert len(problems) == 21
    assert problems[-1] == "20 more flaws like these"


def picture(format, **options):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format, **options)
    return buffer.getvalue()


def test_a_jpeg_that_evaluation_reads_and_training_does_not_is_found(packed):
    whole = picture("JPEG")
    spoiled = whole[:11] + b"\xff" + whole[12:]  # a revision of JFIF that does not exist
    assert decode_image(spoiled).size == (40, 40)
    with pytest.raises(MemberError):
        decode_picture(spoiled, DEFAULT_DECODER)

    def change(name, data):
        return {"item1.png": [("item1.jpg", spoiled)], "item2.png": [("item2.jpg", whole)]}.get(name, [(name, data)])

    rewrite(packed / "shard-000000.tar", change)
    index_shards(packed)
    ((_, key, problem),) = found(packed)
    assert key == "item1"
    assert problem.startswith(f".jpg: data.decoder={DEFAULT_DECODER}: picture cannot be decoded")


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("photo.png", b"none", "picture is not one of"),
        ("speech.wav", b"RIFF", "sound is not one of"),
        ("long.txt", b"\xff", "text is not UTF-8"),
        ("a.npy", b"\x93NUMPY", "cannot be read"),
        ("b.npz", b"PK", "cannot be read"),
        ("c.safetensors", bytes(9), "cannot be read"),
    ],
)
def test_members_with_dots_and_features_are_decoded_too(packed, name, data, problem):
    def change(member, before):
        own = [] if member == "item1.png" and "png" in name else [(member, before)]
        return [*own, (f"item1.{name}", data)] if member == "item1.png" else own

    rewrite(packed / "shard-000000.tar", change)
    index_shards(packed)
    findings = found(packed)
    assert [key for _, key, _ in findings] == ["item1"]
    assert findings[0][2].startswith(f".{name}: ")
    assert problem in findings[0][2]


def test_sound_features_and_a_mask_beside_the_picture_are_no_findings(packed):
    arrays, tensors = io.BytesIO(), {"a": torch.zeros(2), "b": torch.ones(3)}
    np.savez(arrays, one=np.ones(2), two=np.zeros((2, 2)))
    more = [("npz", arrays.getvalue()), ("safetensors", save(tensors, {"note": "x"})), ("seg.png", b"mask")]
    rewrite(
        packed / "shard-000000.tar",
        lambda name, data: [(name, data), *((f"item1.{e}", d) for e, d in more if name == "item1.png")],
    )
    index_shards(packed)
    assert found(packed) == []


def test_progress_is_told_after_every_shard(packed):
    told = []
    check(packed, lambda *state: told.append(state))
    assert told == [(1, 2), (2, 2)]


def test_no_shard_at_all_is_an_error(tmp_path):
    with pytest.raises(DataError, match="No shard matches"):
        check(f"{tmp_path}/*.tar")


def test_show_has_a_row_for_every_shard_with_or_without_a_manifest(packed):
    rows = show(packed)
    assert [(row["shard"], row["samples"], row["members"], row["first_key"]) for row in rows] == [
        ("shard-000000.tar", 4, "png, txt", "item0"),
        ("shard-000001.tar", 3, "png, txt", "item4"),
    ]
    assert rows[0]["bytes"] == (packed / "shard-000000.tar").stat().st_size
    for path in packed.glob("*.json"):
        path.unlink()
    assert show(packed) == rows
