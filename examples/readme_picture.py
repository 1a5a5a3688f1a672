"""Make the picture of the README: what a run's student finds for sentences, in pictures that it never saw.

    python examples/readme_picture.py runs/quickstart [--out docs/images/search.png]

Shows how to embed shards once and ask many questions of them.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

import xmodal
from xmodal.data import open_shards
from xmodal.evaluate import embed

QUERIES = ["a sad cat", "something to eat for breakfast", "stormy weather", "travelling to space", "she is very angry"]
COLUMNS, TILE, TEXT_WIDTH, MARGIN = 8, 64, 300, 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--data", default="package://emoji/style-*.tar")
    parser.add_argument("--out", type=Path, default=Path("docs/images/search.png"))
    parser.add_argument("--queries", nargs="+", default=QUERIES)
    options = parser.parse_args()

    student = xmodal.load_student(options.run)
    spec = dict(student.metadata["space"]["teacher"])
    teacher = xmodal.create_teacher(spec.pop("name"), **spec)
    pictures = embed(student, options.data, modality="image")
    asked = torch.nn.functional.normalize(teacher.encode(text=options.queries)["text.embedding"], dim=-1)
    best = (asked @ pictures.embeddings.T).topk(COLUMNS).indices

    shards = open_shards(options.data)
    rows = {shards.key(number): number for number in range(shards.num_samples)}
    width = MARGIN * 2 + TEXT_WIDTH + COLUMNS * (TILE + MARGIN)
    sheet = Image.new("RGB", (width, MARGIN + len(asked) * (TILE + MARGIN)), "white")
    draw = ImageDraw.Draw(sheet)
    for line, (query, found) in enumerate(zip(options.queries, best.tolist(), strict=True)):
        top = MARGIN + line * (TILE + MARGIN)
        draw.text((MARGIN, top + TILE // 2), query, fill="black", font=ImageFont.load_default(20), anchor="lm")
        for column, index in enumerate(found):
            members = shards.read(rows[pictures.keys[index]]).members
            tile = Image.open(io.BytesIO(members["webp"])).convert("RGB").resize((TILE, TILE))
            sheet.paste(tile, (MARGIN + TEXT_WIDTH + column * (TILE + MARGIN), top))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(options.out)
    print(options.out)


if __name__ == "__main__":
    main()
