"""Every broken and hostile input, given to the check, to a training stream and to an evaluation stream.

Each ends in a replacement that is the same everywhere, or in an error that says what is wrong: counted, named, and
never a hang, a crash or a sample less than there should be.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xmodal.cli import main
from xmodal.data import index_shards
from xmodal.data.check import check
from xmodal.data.keys import keys
from xmodal.data.stream import EvalStream, TrainStream
from xmodal.errors import DataError

pytestmark = [
    pytest.mark.timeout(120),  # a hang is a failure too
    pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning"),
]

Make = Callable[[Any, Any], object]


@dataclass(frozen=True)
class Case:
    """One hostile input: how to make it of sound shards, and what comes of it."""

    make: Make
    """Spoils the shards; gets them, and the tools."""
    stops: str = ""
    """The error in which training and evaluating end."""
    bad: dict[str, str] = field(default_factory=dict)
    """Or else: the samples that are replaced, and why."""
    found: list[tuple[str | None, str]] | None = None
    """What the check finds in part-0.tar: key and problem; by default the same as the streams."""
    warnings: int = 0
    """How many of these are warnings."""
    indexed: bool = False
    """Whether the shards have indexes and a manifest before they are spoiled."""
    options: dict[str, Any] = field(default_factory=dict)
    only_training: bool = False
    """Whether evaluation does not read what is bad."""


def spoil(name: str, data: bytes | Callable[[bytes], bytes]) -> Make:
    """Another content for a member."""
    return lambda shards, _: shards.change(name, (name, data(shards.data(name)) if callable(data) else data))


def instead(name: str, new: str, data: Callable[[Any, Any], bytes]) -> Make:
    """Another member for one, made of the shards by the tools."""
    return lambda shards, tools: shards.change(name, (new, data(shards, tools)))


def add(name: str, data: bytes = b"x") -> Make:
    """One more member, behind all others of part-0.tar."""
    return lambda shards, _: shards.change("a15.npz", ("a15.npz", shards.data("a15.npz")), (name, data))


def special(kind: bytes) -> Make:
    """A picture that is no file."""
    info = tarfile.TarInfo("a03.webp")
    info.type, info.linkname = kind, "/etc/passwd"
    return lambda shards, _: shards.change("a03.webp", info)


def cut(end: int | Callable[[bytes], int]) -> Make:
    return lambda shards, _: shards.edit(lambda all: all[: end(all) if callable(end) else end])


def damage(byte: int) -> Make:
    return lambda shards, _: shards.edit(lambda all: all[:byte] + bytes([all[byte] ^ 1]) + all[byte + 1 :])


def replaced(put: Callable[[Any], object]) -> Make:
    """Something else under the name of part-0.tar."""

    def make(shards: Any, _: Any) -> None:
        shards.path().unlink()
        put(shards.path())

    return make


def only(count: int) -> Make:
    """One shard of so few samples, and no other."""

    def make(shards: Any, _: Any) -> None:
        shards.path(1).unlink()
        shards.edit(lambda all: all[: all.index(b"a%02d." % count)] + bytes(1024))

    return make


def two_samples_swapped(shards: Any, _: Any) -> None:
    """The same bytes in another order, so that the tar keeps its size."""
    whole = shards.path().read_bytes()
    first, second, end = (whole.index(b"a%02d." % number) for number in (1, 2, 3))
    shards.path().write_bytes(whole[:first] + whole[second:end] + whole[first:second] + whole[end:])


def another_text(shards: Any, _: Any) -> None:
    text = shards.data("a00.txt")
    shards.edit(lambda all: all.replace(text, text.upper(), 1))


def pickles(shards: Any, _: Any) -> None:
    bombs = [(f"a03.{extension}", pickle.dumps(shards.bomb)) for extension in PICKLES]
    shards.change("a03.npz", ("a03.npz", shards.data("a03.npz")), *bombs)


def jpeg(data: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").resize((200, 200)).save(buffer, "JPEG")
    return buffer.getvalue()


def zip_of_text(tools: Any) -> bytes:
    return tools.png(8, 8, 8, tools.chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**28), 1)))


PICKLES = ("pyd", "pkl", "pth", "pickle", "pt")
AT = r"broken at byte \d+: "
CAPTION = {"text": "json.caption"}
HUGE = "10000 × 10000 pixels; more than 67108864 are refused"

CASES = {
    # the tar
    "cut within a member": Case(cut(lambda all: all.index(b"a07.webp") + 600), AT + "member .* needs bytes up to"),
    "cut within a header": Case(
        cut(lambda all: all.index(b"a07.txt") + 100), AT + "the file ends at .* it is cut short"
    ),
    "cut between members": Case(cut(lambda all: all.index(b"a07.txt")), AT + "the file ends at .* it is cut short"),
    "cut after it was packed": Case(
        cut(3000),
        "has 3000 bytes; manifest.json says",
        found=[(None, AT), (None, "3000 bytes; manifest.json says"), (None, "changed after it was indexed")],
        indexed=True,
    ),
    "wrong checksum": Case(damage(100), AT + "not a tar header"),
    "wrong checksum in the middle": Case(
        lambda shards, tools: damage(shards.path().read_bytes().index(b"a07.txt") + 100)(shards, tools),
        AT + "not a tar header",
    ),
    "wrong checksum under an index": Case(
        damage(100),
        "changed after it was indexed: sample 'a00'.* no tar header stands before it",
        found=[(None, AT), (None, "SHA-256")],
        indexed=True,
    ),
    "empty file": Case(replaced(lambda path: path.touch()), r"is an empty file \(0 bytes\)"),
    "empty tar": Case(replaced(lambda path: path.write_bytes(bytes(10240))), "holds no sample"),
    "folder": Case(replaced(lambda path: path.mkdir()), "is not a file"),
    "pipe": Case(replaced(os.mkfifo), "is not a file"),
    # names and kinds of members
    "name above its folder": Case(
        add("../../x.txt"), AT + r"member '\.\./\.\./x.txt' has a name that leaves its folder"
    ),
    "name above it later": Case(add("x/../../x.txt"), AT + "member .* leaves its folder"),
    "absolute name": Case(add("/etc/x.txt"), AT + "member '/etc/x.txt' has a name that leaves its folder"),
    "control characters": Case(add("a\x1b[2Jb.txt"), AT + "member .* control characters"),
    "symbolic link": Case(
        special(tarfile.SYMTYPE),
        AT + "member 'a03.webp' is a link",
        found=[(None, "is a link"), ("a03", "has no picture")],
    ),
    "hard link": Case(
        special(tarfile.LNKTYPE),
        AT + "member 'a03.webp' is a link",
        found=[(None, "is a link"), ("a03", "has no picture")],
    ),
    "device": Case(
        special(tarfile.CHRTYPE),
        AT + "member 'a03.webp' is neither a file nor a folder",
        found=[(None, "neither"), ("a03", "has no picture")],
    ),
    "key twice": Case(add("a00.txt"), AT + "key 'a00' occurs twice"),
    "extension twice": Case(add("a15.TXT"), AT + "sample 'a15' has two members .txt"),
    "several at once": Case(
        lambda shards, _: [add(name)(shards, _) for name in ("a00.txt", "/etc/x.txt", "../x.txt")],
        "leaves its folder|occurs twice",
        found=[(None, "leaves"), (None, "leaves"), (None, "occurs twice")],
    ),
    "dots in names": Case(
        lambda shards, _: shards.change("a03.webp", *((f"a03.v{n}.webp", shards.data("a03.webp")) for n in (1, 2))),
        bad={"a03": r"has 2 pictures, v1.webp, v2.webp; .*a key ends at the first dot"},
    ),
    "code": Case(
        pickles, found=[(None, rf"1 members .{e}: .* when they are unpickled") for e in PICKLES], warnings=len(PICKLES)
    ),
    # pictures
    "picture without a byte": Case(spoil("a03.webp", b""), bad={"a03": r"empty \(0 bytes\)"}),
    "no picture": Case(lambda shards, _: shards.change("a03.webp"), bad={"a03": "has no picture"}),
    "other bytes": Case(spoil("a03.webp", bytes(5000)), bad={"a03": "picture is not one of PNG"}),
    "picture cut short": Case(
        spoil("a03.webp", lambda data: data[: len(data) // 2]), bad={"a03": "picture cannot be decoded"}
    ),
    "jpeg cut short": Case(
        instead("a03.webp", "a03.jpg", lambda shards, _: jpeg(shards.data("a03.webp"))[:-300]),
        bad={"a03": "picture cannot be decoded"},
    ),
    "decompression bomb": Case(
        instead("a03.webp", "a03.png", lambda _, tools: tools.png(200_000, 200_000, 1)),
        bad={"a03": "more than 67108864 are refused"},
    ),
    "100 megapixels": Case(
        instead("a03.webp", "a03.png", lambda _, tools: tools.png(10_000, 10_000, 10_000)), bad={"a03": HUGE}
    ),
    "100 megapixels of jpeg": Case(
        instead("a03.webp", "a03.jpg", lambda _, tools: tools.encoded((10_000, 10_000), "JPEG")), bad={"a03": HUGE}
    ),
    "a quarter of a gigabyte of comment": Case(
        instead("a03.webp", "a03.png", lambda _, tools: zip_of_text(tools)), bad={"a03": "picture cannot be decoded"}
    ),
    # texts and labels
    "text without a byte": Case(spoil("a03.txt", b""), bad={"a03": "empty"}),
    "no text": Case(lambda shards, _: shards.change("a03.txt"), bad={"a03": r"has no (text 'txt'|\.txt)"}),
    "text not in UTF-8": Case(spoil("a03.txt", b"\xff\xfe\x00"), bad={"a03": "text is not UTF-8"}),
    "endless nesting": Case(spoil("a03.json", b"[" * 100_000), bad={"a03": "not JSON"}, options=CAPTION),
    "half a surrogate pair": Case(
        spoil("a03.json", b'{"caption": "x \\ud800"}'), bad={"a03": "half a surrogate pair"}, options=CAPTION
    ),
    "half a surrogate pair in a name": Case(
        spoil("a03.json", b'{"\\ud800": "x"}'), bad={"a03": "there is no 'caption'|half a surrogate"}, options=CAPTION
    ),
    "no number": Case(spoil("a03.cls", b"9" * 5000), bad={"a03": "not an integer"}),
    # sounds
    "sound without a byte": Case(spoil("a03.wav", b""), bad={"a03": r"empty \(0 bytes\)"}),
    "sound of NaN": Case(
        instead("a03.wav", "a03.wav", lambda _, tools: tools.wav([0.5, np.nan, 0.5])),
        bad={"a03": "sound .* not finite"},
    ),
    "sound of infinity": Case(
        instead("a03.wav", "a03.wav", lambda _, tools: tools.wav([0.5, np.inf, 0.5])),
        bad={"a03": "sound .* not finite"},
    ),
    "sound cut short": Case(spoil("a03.wav", lambda data: data[:-50]), bad={"a03": "sound is cut short"}),
    # features
    "features that are code": Case(
        instead("a03.npy", "a03.npy", lambda shards, tools: tools.npy(np.array([shards.bomb], dtype=object))),
        bad={"a03": "pickled objects are never loaded"},
        only_training=True,
    ),
    "features of NaN": Case(
        instead("a03.npy", "a03.npy", lambda _, tools: tools.npy(np.float32([np.nan]))),
        bad={"a03": "features .* not finite"},
        only_training=True,
    ),
    "zip bomb": Case(
        instead("a03.npz", "a03.npz", lambda _, tools: tools.zip_bomb(3 << 30)),
        bad={"a03": "3221225472 bytes; more than 536870912 are refused"},
        only_training=True,
    ),
    # shards
    "another size": Case(
        add("a15.more", bytes(20_000)),
        "manifest.json says",
        found=[(None, "manifest.json says"), (None, "changed after it was indexed")],
        indexed=True,
    ),
    "other samples in the same size": Case(
        two_samples_swapped,
        "changed after it was indexed: sample 'a0[12]'",
        found=[(None, "SHA-256"), (None, "index.json does not describe it")],
        indexed=True,
    ),
    # of which a stream cannot know: sizes, names and headers are as they were
    "another text of the same length": Case(another_text, found=[(None, "SHA-256")], indexed=True),
    "fewer shards than workers": Case(only(12), found=[]),
    "fewer samples than slots": Case(only(3), found=[]),
}


@pytest.fixture(params=CASES)
def case(request, shards, tools):
    found: Case = CASES[request.param]
    if found.indexed:
        index_shards(shards.folder)
    found.make(shards, tools)
    return found


def expected_of(case: Case) -> list[tuple[str | None, str]]:
    if case.found is not None:
        return case.found
    return [(None, case.stops)] if case.stops else list(case.bad.items())


def test_the_check_finds_it_and_nothing_else_but_what_is_wrong_in_the_next_shard(case, shards):
    expected = expected_of(case)
    if shards.path(1).exists() and not case.indexed:
        shards.change("b05.txt", ("b05.txt", b""), shard=1)
        expected = [*expected, ("b05", r"\.txt: empty")]
    findings = check(shards.folder)
    told = [(finding.key, finding.problem) for finding in findings]
    assert sorted(str(key) for key, _ in told) == sorted(str(key) for key, _ in expected), told
    for key, pattern in expected:
        assert any(key == found and re.search(pattern, problem) for found, problem in told), (pattern, told)
    assert sum(finding.level == "warning" for finding in findings) == case.warnings
    assert not shards.marker.exists()


def test_one_pass_finds_all_of_them(tmp_path, samples, sound_shards, tools, capsys):
    """Every hostile shard in one folder, by the command line: a table, or JSON, and an exit code of 1."""
    together = tmp_path / "together"
    together.mkdir()
    expected = {}
    for number, case in enumerate(CASES.values()):
        if not case.indexed and expected_of(case):
            shards = sound_shards(tmp_path / str(number))
            case.make(shards, tools)
            shards.path().rename(together / f"{number:02d}.tar")
            expected[f"{number:02d}.tar"] = expected_of(case)
    assert main(["data", "check", str(together), "--format", "json"]) == 1
    findings = json.loads(capsys.readouterr().out)
    for shard, problems in expected.items():
        told = [(finding["key"], finding["problem"]) for finding in findings if finding["shard"] == shard]
        for key, pattern in problems:
            assert any(key == found and re.search(pattern, problem) for found, problem in told), (shard, pattern, told)
    assert len(expected) > 40
    assert main(["data", "check", str(together)]) == 1
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["shard", "key", "problem"]
    errors = sum(finding["level"] == "error" for finding in findings)
    assert table[-1] == f"{errors} errors, {len(findings) - errors} warnings"
    assert len(table) == len(findings) + 2
    assert not list(tmp_path.glob("*/it-was-unpickled"))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_replaces_it_or_says_what_is_wrong(case, shards, models, num_workers, tmp_path):
    path = tmp_path / "bad_samples.jsonl"

    def train() -> tuple[TrainStream, list[str]]:
        options = {"features": {"vector": "npy", "more": "npz"}, **case.options}
        stream = TrainStream(
            shards.folder,
            preprocess=models,
            batch_size=8,
            image_size=8,
            seed=3,
            num_workers=num_workers,
            max_bad_fraction=0.5,
            bad_samples=path,
            **options,
        )
        with closing(iter(stream)) as batches:
            return stream, [key for batch in islice(batches, 8) for key in batch["key"]]

    if case.stops:
        with pytest.raises(DataError, match=case.stops) as caught:
            train()
        assert "part-0.tar" in str(caught.value)
        assert "Traceback" not in str(caught.value)
        return
    stream, delivered = train()
    order = keys(shards.folder, seed=3, epoch=None, batch_size=8, batches=16)
    planned = [key for batch in order for key in batch]
    for position, key in enumerate(delivered):
        while planned[position] in case.bad:
            position += stream.plans[0].slots
        assert key == planned[position]
    met = [key for key in planned[:64] if key in case.bad]
    assert stream.num_bad == len(met) == 2 * len(case.bad)  # two epochs
    lines = [json.loads(line) for line in path.read_text().splitlines()] if case.bad else []
    assert {line["key"]: line["shard"] for line in lines} == dict.fromkeys(case.bad, "part-0.tar")
    assert len(lines) == len(case.bad)
    assert all(re.search(case.bad[line["key"]], line["reason"]) for line in lines), lines
    assert not shards.marker.exists()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_leaves_it_out_or_says_what_is_wrong(case, shards, models, num_workers):
    def evaluate() -> tuple[EvalStream, list[str]]:
        stream = EvalStream(shards.folder, preprocess=models, batch_size=8, num_workers=num_workers, **case.options)
        return stream, [key for batch in stream for key in batch["key"]]

    if case.stops:
        with pytest.raises(DataError, match=case.stops):
            evaluate()
        return
    stream, delivered = evaluate()
    bad = {} if case.only_training else case.bad
    held = [key for batch in keys(shards.folder, batch_size=8) for key in batch]
    assert delivered == sorted(key for key in held if key not in bad)
    assert [(sample.key, sample.shard) for sample in stream.bad_samples] == [(key, "part-0.tar") for key in bad]
    assert all(re.search(bad[sample.key], sample.reason) for sample in stream.bad_samples), stream.bad_samples
    assert stream.num_bad == len(bad)
    assert not shards.marker.exists()


def test_two_shards_may_have_the_same_keys(shards, models):
    """A sample is a shard and a key: nothing is lost or mistaken for another; the check has a warning."""
    shards.rename("b", "a", shard=1)
    stream = TrainStream(shards.folder, preprocess=models, batch_size=8)
    with closing(iter(stream)) as batches:
        delivered = [key for batch in islice(batches, 4) for key in batch["key"]]
    assert sorted(delivered) == sorted(2 * [f"a{number:02d}" for number in range(16)])
    (finding,) = check(shards.folder)
    assert (finding.shard, finding.key, finding.level) == ("part-1.tar", "a00", "warning")
    assert finding.problem == "part-0.tar has a sample of this key too, as of 15 more"


MEMORY = """
import resource, sys
from xmodal.data.decoders import decode_picture
from xmodal.data.members import MemberError

data = open(sys.argv[1], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for decoder in sys.argv[2:]:
    try:
        decode_picture(data, decoder)
    except MemberError as error:
        print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory in the units of Linux")
def test_a_picture_that_is_refused_is_never_decompressed(tmp_path, tools):
    path = tmp_path / "huge.jpg"
    path.write_bytes(tools.encoded((10_000, 10_000), "JPEG"))
    command = [sys.executable, "-W", "ignore", "-c", MEMORY, path, "simplejpeg", "pil-draft", "pil"]
    *refusals, megabytes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(refusals) == 3
    assert int(megabytes) < 50  # its pixels are 300


def test_the_pickles_of_these_tests_do_something_when_they_are_unpickled(shards, tools):
    array = tools.npy(np.array([shards.bomb], dtype=object))
    for unpickle in (
        lambda: pickle.loads(pickle.dumps(shards.bomb)),
        lambda: np.load(io.BytesIO(array), allow_pickle=True),
    ):
        unpickle()
        assert shards.marker.is_dir()
        shards.marker.rmdir()
