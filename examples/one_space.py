"""Three small students, taught by one teacher, answer each other: a Greek word and an English sentence find a picture.

    python examples/one_space.py --english runs/text-to-text --languages runs/text-across-languages

The pictures are embedded by a student of pictures (by default the zoo's), the sentences by the student of
text-to-text.yaml, the words by that of text-across-languages.yaml. All three learned where all-MiniLM-L6-v2 puts
things; the teacher itself is not loaded. Prints what is found for some questions, writes a page of it, and measures for
every language how often the name of an emoji that none of the three was trained on finds its picture.
"""

from __future__ import annotations

import argparse
import base64
import json
from glob import glob
from html import escape
from pathlib import Path

import torch

import xmodal
from xmodal.data import open_shards
from xmodal.evaluate import embed

QUESTIONS = [  # asked of the English student, and of the one of languages
    ("an animal that lives on the ice", "πιγκουίνος"),
    ("a flower", "Blume"),
    ("a musical instrument", "гитара"),
    ("a building where people pray", "mosquée"),
    ("something to drink", "飲み物"),
]
COLUMNS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", default=None, help="student of pictures; default: the zoo's emoji-text-to-image")
    parser.add_argument("--english", required=True, help="run or student that reads English")
    parser.add_argument("--languages", required=True, help="run or student that reads many languages")
    parser.add_argument("--data", default="package://emoji/names-*.tar", help="shards of pictures")
    parser.add_argument("--names", default="runs/data/names/test-*.tar", help="shards of names, one a language")
    parser.add_argument("--out", type=Path, default=Path("one-space.html"), help="the page that is written")
    options = parser.parse_args()

    if options.pictures is None:
        from xmodal.zoo import download

        options.pictures = download("emoji-text-to-image")
    seeing = xmodal.load_student(options.pictures)
    english, languages = xmodal.load_student(options.english), xmodal.load_student(options.languages)
    check_one_space(seeing, english, languages)
    pictures, shards = embed(seeing, options.data, modality="image"), open_shards(options.data)
    rows = {shards.key(number): number for number in range(shards.num_samples)}
    members = [shards.read(rows[key]).members for key in pictures.keys]

    lines = [(sentence, english) for sentence, _ in QUESTIONS] + [(word, languages) for _, word in QUESTIONS]
    lines = [line for pair in zip(lines[: len(QUESTIONS)], lines[len(QUESTIONS) :], strict=True) for line in pair]
    found = []
    for question, reader in lines:
        best = nearest(reader, [question], pictures.embeddings)[0].tolist()
        found.append((question, [members[index] for index in best]))
        print(f"{question:34} {', '.join(pictures.texts[index] or '' for index in best[:4])}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(page(found), encoding="utf-8")
    print(options.out)
    print(json.dumps(recalls(languages, options.names, pictures.embeddings, members)))


def check_one_space(*students: xmodal.Encoder) -> None:
    """All students must have learned from one teacher: else their embeddings have nothing to do with each other."""
    teachers = {
        json.dumps((student.metadata.get("space") or {}).get("teacher"), sort_keys=True) for student in students
    }
    if len(teachers) > 1 or "null" in teachers:
        told = "; ".join(f"{student.name}: {student.metadata.get('space')}" for student in students)
        raise SystemExit(f"These students do not lie in one teacher's space. {told}")


def nearest(reader: xmodal.Encoder, texts: list[str], pictures: torch.Tensor, count: int = COLUMNS) -> torch.Tensor:
    """The places of the ``count`` nearest pictures, ``[texts, count]``."""
    asked = torch.nn.functional.normalize(reader.encode(text=texts)["text.embedding"], dim=-1)
    return (asked @ pictures.T).topk(min(count, len(pictures))).indices


def recalls(
    reader: xmodal.Encoder, names: str, pictures: torch.Tensor, members: list[dict[str, bytes]]
) -> dict[str, float]:
    """Language → share of the names with a picture of their emoji among the first ten."""
    codepoints = [json.loads(each["json"])["codepoint"] for each in members]
    found = {}
    for path in sorted(glob(names)):
        shards = open_shards(path)
        about = [json.loads(shards.read(number).members["json"]) for number in range(shards.num_samples)]
        about = [each for each in about if each["codepoint"] in codepoints]
        best = nearest(reader, [each["name"] for each in about], pictures, 10).tolist()
        right = [each["codepoint"] in {codepoints[i] for i in row} for each, row in zip(about, best, strict=True)]
        found[about[0]["language"]] = round(sum(right) / len(right), 4)
    return found


def page(lines: list[tuple[str, list[dict[str, bytes]]]]) -> str:
    """A line a question, with the pictures themselves in it: a browser has letters for every language."""
    rows = []
    for question, found in lines:
        pictures = [base64.b64encode(members["webp"]).decode() for members in found]
        cells = "".join(f'<img src="data:image/webp;base64,{data}" width="64" alt="">' for data in pictures)
        rows.append(f"<tr><th>{escape(question)}</th><td>{cells}</td></tr>")
    style = "body{font:18px sans-serif;margin:16px}th{text-align:left;font-weight:normal;padding-right:24px}"
    head = f"<!doctype html><meta charset=utf-8><title>One space</title><style>{style}</style>"
    return f"{head}<table>{''.join(rows)}</table>\n"


if __name__ == "__main__":
    main()
