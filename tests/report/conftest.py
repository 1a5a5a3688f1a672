"""A run folder such as a finished run leaves, made without training anything."""

from __future__ import annotations

import io
import json
import math
import random
import shutil
import tarfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from PIL import Image, ImageDraw

from xmodal.report import write_report

SPLITS = ("seen", "unseen names", "unseen style")
NAMES = (
    "crying cat",
    "red apple",
    "snow-capped mountain",
    "sailboat",
    "fire engine",
    "broken heart",
    "owl",
    "umbrella",
)
BASELINE = "emoji-text-to-image-without-teacher"


def picture(name: str, style: int, side: int = 64) -> bytes:
    draw = random.Random(f"{name} {style}")
    image = Image.new("RGB", (side, side), "white")
    colour = tuple(draw.randrange(30, 220) for _ in range(3))
    box = [side // 8, side // 8, side * 7 // 8, side * 7 // 8]
    getattr(ImageDraw.Draw(image), draw.choice(["ellipse", "rectangle"]))(box, fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP")
    return buffer.getvalue()


def write_shard(path: Path, style: int, names: tuple[str, ...] = NAMES) -> list[tuple[str, str]]:
    """A shard of one picture a name; returns (key, name) of each."""
    samples = []
    with tarfile.open(path, "w") as tar:
        for number, name in enumerate(names):
            key = f"style{style}-{number:03d}"
            samples.append((key, name))
            for extension, content in (("webp", picture(name, style)), ("txt", name.encode())):
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return samples


def metrics_lines(steps: int, every: int, evaluate_every: int) -> list[dict[str, Any]]:
    noise = random.Random(0)
    lines: list[dict[str, Any]] = []
    for step in range(every, steps + 1, every):
        share = step / steps
        cosine = 0.25 + 0.75 * math.exp(-4 * share) + noise.gauss(0, 0.02)
        contrastive = 0.6 + 4.2 * math.exp(-5 * share) + noise.gauss(0, 0.12)
        lines.append(
            {
                "stage": 0,
                "step": step,
                "time": 0.65 * step,
                "loss": cosine + contrastive,
                "terms": {"feature_cosine": cosine, "soft_contrastive": contrastive},
                "learning_rate": 2e-3 * math.sin(math.pi * share) ** 2,
                "grad_norm": 0.4 + 6 * math.exp(-9 * share) * (1 + noise.random()),
                "samples_per_second": 131 + noise.gauss(0, 6),
                "data_wait": max(0.0, 0.02 + noise.gauss(0, 0.01)),
            }
        )
        if step % evaluate_every == 0:
            lines.append({"stage": 0, "step": step, "evaluation": {s: split_metrics(s, share) for s in SPLITS}})
    return lines


def split_metrics(split: str, share: float = 1.0) -> dict[str, float]:
    top = {"seen": 0.95, "unseen names": 0.66}.get(split, 0.58) * (1 - math.exp(-4 * share))
    pool = {"seen": 3422, "unseen names": 711}.get(split, 1566)
    return {
        "num_samples": pool,
        "num_bad": 0,
        **{f"text_to_image_recall@{k}": top * f for k, f in ((1, 0.6), (5, 0.9), (10, 1.0))},
        **{f"image_to_text_recall@{k}": top * f for k, f in ((1, 0.55), (5, 0.85), (10, 0.97))},
        "chance_recall@10": 10 / pool,
        "num_images": pool,
        "num_texts": pool // 2,
        "teacher_agreement": 0.7 * top,
        "neighbor_agreement@10": 0.5 * top,
        "chance_neighbor_agreement@10": 10 / pool,
        "teacher_index_recall@10": 0.98 * top,
        "student_index_recall@10": 0.96 * top,
    }


def recipe(val: Any) -> dict[str, Any]:
    return {
        "description": "A text teacher makes an image student: MiniLM's sentence space, seen by a small network.",
        "teacher": {"name": "sentence", "model": "sentence-transformers/all-MiniLM-L6-v2"},
        "student": {"name": "image", "model": "tf_efficientnet_lite0", "weights": "imagenet"},
        "data": {"train": "package://emoji/train-*.tar", "val": val, "image_size": 96},
        "objective": [
            {"loss": "feature_cosine", "student": "image.embedding", "teacher": "text.embedding", "weight": 1.0},
            {
                "loss": "soft_contrastive",
                "student": ["image.embedding", "teacher:text.embedding"],
                "teacher": ["text.embedding", "text.embedding"],
                "weight": 1.0,
                "student_scale": 20,
                "teacher_scale": 20,
            },
        ],
        "train": {"max_steps": 216, "batch_size": 128, "learning_rate": 2e-3, "schedule": "one_cycle", "seed": 0},
        "baseline": BASELINE,
    }


def summary() -> dict[str, Any]:
    def figure(value: float) -> dict[str, Any]:
        return {"mean": value, "std": 0.012, "runs": 3}

    return {
        "recipe": "emoji-text-to-image",
        "description": "A text teacher makes an image student: MiniLM's sentence space, seen by a small network.",
        "teachers": {
            "teacher": {
                "name": "sentence (all-MiniLM-L6-v2)",
                "modalities": ["text"],
                "parameters": 22_713_216,
                "bytes": 90_852_864,
                "latency_ms": 9.31,
            }
        },
        "student": {
            "name": "image (tf_efficientnet_lite0)",
            "modalities": ["image"],
            "parameters": 3_862_788,
            "bytes": 15_619_824,
            "latency_ms": 11.87,
            "load": 'timm.create_model("local-dir:runs/quickstart/student", pretrained=True)',
        },
        "training": {
            "steps": 216,
            "samples": 27648,
            "seconds": 231.4,
            "samples_per_second": 119.5,
            "data_wait": 0.021,
            "skipped_steps": 0,
            "bad_samples": 2,
        },
        "metrics": {split: split_metrics(split) for split in SPLITS},
        "baseline": {
            "recipe": BASELINE,
            "metrics": {
                split: {
                    name: figure(0.6 * value)
                    for name, value in split_metrics(split).items()
                    if "recall" in name and not name.startswith("chance") and "index" not in name
                }
                for split in SPLITS
            },
        },
    }


def environment() -> dict[str, Any]:
    return {
        "versions": {"xmodal": "0.1.0", "python": "3.11.7", "torch": "2.14.1", "timm": "1.0.20"},
        "device": "cpu",
        "world_size": 1,
        "cpu_count": 2,
        "torch_threads": 2,
        "platform": "Linux x86_64",
        "command": ["xmodal", "distill", "emoji-text-to-image", "--out", "runs/quickstart"],
    }


def gallery(samples: dict[str, list[tuple[str, str]]], queries: int = 4) -> list[dict[str, Any]]:
    rows = []
    for split, listed in samples.items():
        for number in range(queries):
            _, query = listed[number % len(listed)]
            found = random.Random(f"{split} {number}").sample(listed, 6)
            hits = [
                {"key": key, "text": name, "score": 0.71 - 0.04 * rank, "correct": name == query}
                for rank, (key, name) in enumerate(found)
            ]
            rows.append({"split": split, "query": query, "hits": hits})
    return rows


@pytest.fixture
def contents() -> SimpleNamespace:
    """The makers of a run folder's files, for tests that change a part of one."""
    return SimpleNamespace(
        recipe=recipe,
        summary=summary,
        metrics=metrics_lines,
        split_metrics=split_metrics,
        gallery=gallery,
        splits=SPLITS,
    )


@pytest.fixture
def run_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a run folder; arguments replace the contents of a file (None leaves it out)."""

    samples: dict[str, list[tuple[str, str]]] = {}

    def make(**replaced: Any) -> Path:
        folder = tmp_path / "runs" / "quick start"
        shards = tmp_path / "shards"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        shards.mkdir(exist_ok=True)
        val = {split: str(shards / f"style{number}.tar") for number, split in enumerate(SPLITS)}
        if not any(shards.iterdir()):
            samples.update({split: write_shard(Path(val[split]), number) for number, split in enumerate(SPLITS)})
        files: dict[str, Any] = {
            "recipe": recipe(val),
            "env": environment(),
            "summary": summary(),
            "evaluation": {split: split_metrics(split) for split in SPLITS},
            "gallery": gallery(samples),
            "metrics": metrics_lines(216, 2, 54),
            "bad_samples": [
                {
                    "key": "style0-999",
                    "shard": "train-000001.tar",
                    "reason": "picture cannot be decoded",
                    "position": 77,
                }
            ],
        }
        files |= replaced
        names = {"recipe": "recipe.resolved.yaml", "metrics": "metrics.jsonl", "bad_samples": "bad_samples.jsonl"}
        for name, content in files.items():
            if content is not None:
                (folder / names.get(name, f"{name}.json")).write_text(_written(name, content), encoding="utf-8")
        return folder

    return make


def _written(name: str, content: Any) -> str:
    if isinstance(content, str):
        return content
    if name == "recipe":
        return yaml.safe_dump(content, sort_keys=False)
    if name in ("metrics", "bad_samples"):
        return "".join(json.dumps(line) + "\n" for line in content)
    return json.dumps(content)


VOID = {"meta", "link", "img", "br", "wbr", "hr", "input"}


class Element:
    """A node of a parsed page: tag, attributes, children, and all text inside."""

    def __init__(self, tag: str, attributes: dict[str, str | None], parent: Element | None) -> None:
        self.tag, self.attributes, self.parent = tag, attributes, parent
        self.children: list[Element] = []
        self.strings: list[str] = []

    @property
    def text(self) -> str:
        return " ".join("".join(self.strings).split())

    @property
    def classes(self) -> list[str]:
        return (self.attributes.get("class") or "").split()

    def all(self, tag: str | None = None, cls: str | None = None) -> list[Element]:
        found = []
        for child in self.children:
            if (tag is None or child.tag == tag) and (cls is None or cls in child.classes):
                found.append(child)
            found += child.all(tag, cls)
        return found

    def one(self, tag: str | None = None, cls: str | None = None, id: str | None = None) -> Element:
        found = [e for e in self.all(tag, cls) if id is None or e.attributes.get("id") == id]
        assert len(found) == 1, f"{len(found)} of {tag} {cls} {id}"
        return found[0]

    def ancestors(self) -> list[Element]:
        return [] if self.parent is None else [self.parent, *self.parent.ancestors()]


class _Parser(HTMLParser):
    """Strict: every element is closed, in order; no attribute twice."""

    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("document", {}, None)]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]], closed: bool = False) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute twice in {tag} {attrs}"
        element = Element(tag, dict(attrs), self.open[-1])
        self.open[-1].children.append(element)
        if tag not in VOID and not closed:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs, closed=True)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}> at {self.getpos()}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open[-1].tag not in ("script", "style"):
            for element in self.open:
                element.strings.append(data)
        else:
            self.open[-1].strings.append(data)


@pytest.fixture
def parse() -> Callable[[Path], Element]:
    """Reads a page into a tree; a page that is not well formed fails."""

    def read(path: Path) -> Element:
        parser = _Parser()
        parser.feed(path.read_text(encoding="utf-8"))
        parser.close()
        assert [element.tag for element in parser.open] == ["document"], "not everything is closed"
        return parser.open[0]

    return read


@pytest.fixture
def report(run_folder: Callable[..., Path], parse: Callable[[Path], Element]) -> Callable[..., Element]:
    """Makes a run folder, writes its report and parses it."""
    return lambda **replaced: parse(write_report(run_folder(**replaced)))
