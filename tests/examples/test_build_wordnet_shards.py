"""examples/build_wordnet_shards.py, on lines of WordNet 3.0 and on more of their form."""

from __future__ import annotations

import json

import pytest

from xmodal.data import open_shards, read_manifest
from xmodal.data.check import check

LICENCE = "  1 This software and database is being provided to you, the LICENSEE, by  \n"
# after lines of the real files, with fewer pointers; each ends in two spaces there
LINES = {
    "noun": """\
00002684 03 n 02 object 0 physical_object 0 002 @ 00001930 n 0000 + 00532607 v 0101 | a tangible and visible entity; \
an entity that can cast a shadow; "it was full of rackets, balls and other objects"
04251144 06 n 01 snorkel 1 001 @ 02895606 n 0000 | breathing device consisting of a bent tube fitting into a \
swimmer's mouth and extending above the surface; allows swimmer to breathe while face down in the water
""",
    "verb": """\
00001740 29 v 04 breathe 0 take_a_breath 0 respire 0 suspire 3 001 * 00005041 v 0000 02 + 02 00 + 08 00 | draw air \
into, and expel out of, the lungs; "I can breathe better when the air is clean"; "The patient is respiring"
00235368 30 v 03 limit 0 circumscribe 0 confine 1 001 @ 00441445 v 0000 02 + 08 00 + 11 00 | restrict or confine, \
"I limit you to two visits to the pub a day"
""",
    "adj": """\
00001740 00 a 01 able 0 001 ! 00002098 a 0101 | (usually followed by `to') having the necessary means; "able to swim"
00003553 00 s 02 asleep(p) 0 Gallic(a) 0 000 | in a state "of" sleep; "were all asleep when the phone rang"
""",
    "adv": """\
00001740 02 r 01 a_cappella 0 000 | without musical accompaniment; "they performed a cappella"
""",
}


@pytest.fixture
def script(load, monkeypatch):
    module = load("build_wordnet_shards")
    monkeypatch.setattr(module, "TEST", 12)
    return module


@pytest.fixture
def root(tmp_path):
    """A package's files: the lines above, 60 synsets of one meaning, and 40 that share 20 words."""
    folder = tmp_path / "root" / "usr" / "share" / "wordnet"
    folder.mkdir(parents=True)
    more = [f"{n:08} 03 n 02 word_{n} 0 other_{n} 0 000 | what {n} means  " for n in range(100, 160)]
    more += [f'{n:08} 03 n 01 Shared_{n // 2} 0 000 | meaning {n}; "it is {n}"  ' for n in range(200, 240)]
    more += [f"{n:08} 03 n 01 same_{n} 0 000 | a genus of bacteria  " for n in range(300, 310)]
    for name, lines in LINES.items():
        text = LICENCE + lines.replace("\n", "  \n") + ("\n".join(more) + "\n" if name == "noun" else "")
        (folder / f"data.{name}").write_text(text, encoding="latin-1")
    return tmp_path / "root"


def read(shards):
    opened = open_shards(shards)
    return {raw.key: raw.members for raw in map(opened.read, range(opened.num_samples))}


def abouts(shards):
    return {key: json.loads(members["json"]) for key, members in read(shards).items()}


def test_lines_of_wordnet_are_read_as_their_manual_says(script, root):
    folder = root / "usr" / "share" / "wordnet"
    synsets = {synset.key: synset for name in script.FILES for synset in script.read_synsets(folder, name)}
    found = {key: (each.pos, each.names, each.gloss) for key, each in synsets.items()}
    assert found["n00002684"] == (
        "noun",
        ("object", "physical object"),
        "a tangible and visible entity; an entity that can cast a shadow",
    )
    assert found["n04251144"][2].endswith("surface; allows swimmer to breathe while face down in the water")
    assert found["v00001740"] == (
        "verb",
        ("breathe", "take a breath", "respire", "suspire"),
        "draw air into, and expel out of, the lungs",
    )
    assert found["v00235368"] == ("verb", ("limit", "circumscribe", "confine"), "restrict or confine")
    assert found["a00001740"] == ("adjective", ("able",), "(usually followed by `to') having the necessary means")
    assert found["a00003553"] == ("adjective", ("asleep", "Gallic"), "in a state of sleep")
    assert found["r00001740"] == ("adverb", ("a cappella",), "without musical accompaniment")
    assert len(found) == 7 + 110


def test_no_word_and_no_definition_of_the_test_is_trained_on(script, run_main, root, debian_folder, tmp_path, capsys):
    packages = debian_folder(root, "wordnet-base")
    run_main(script, "--packages", packages, "--out", tmp_path / "out")
    train, test = abouts(f"{tmp_path}/out/train-*.tar"), abouts(f"{tmp_path}/out/test-*.tar")
    assert len(test) == len({about["name"].casefold() for about in test.values()}) == 12
    trained = {name.casefold() for about in train.values() for name in about["names"]}
    assert not trained & {about["name"].casefold() for about in test.values()}
    assert not {about["gloss"] for about in test.values()} & {about["gloss"] for about in train.values()}
    shared = sum(about["name"].startswith("Shared") for about in test.values())
    assert shared  # else the next line tests nothing
    assert len(train) == 117 - 12 - shared  # a word's other meaning is dropped
    assert f"{shared} dropped" in capsys.readouterr().out
    for key, members in read(f"{tmp_path}/out/train-*.tar").items():
        about = train[key]
        assert members["txt"].decode() == about["gloss"]
        assert about["texts"] == [", ".join(about["names"]), about["gloss"]]
        assert about["name"] == about["names"][0]
    assert check(f"{tmp_path}/out/train-*.tar") == check(f"{tmp_path}/out/test-*.tar") == []
    assert "Princeton" in read_manifest(tmp_path / "out").licence


def test_a_limit_takes_of_the_training_synsets_only_and_always_the_same(script, run_main, root, tmp_path):
    run_main(script, "--packages", root, "--out", tmp_path / "all")
    for out in ("a", "b"):
        run_main(script, "--packages", root, "--out", tmp_path / out, "--limit", 20)
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / out).iterdir()} for out in ("a", "b"))
    assert first == second
    assert first["test-000000.tar"] == (tmp_path / "all" / "test-000000.tar").read_bytes()
    some, every = abouts(f"{tmp_path}/a/train-*.tar"), abouts(f"{tmp_path}/all/train-*.tar")
    assert len(some) == 20
    assert some.items() <= every.items()
    assert list(some) == list(every)[:20]


def test_a_limit_of_nothing_is_refused(script, run_main, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run_main(script, "--out", tmp_path, "--limit", 0)
    assert "--limit 0: give at least 1" in capsys.readouterr().err
