"""A student's model card: what it is, how to load it without xmodal, what was measured, what it may be used for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xmodal.adapters.open_clip.configs import short_name
from xmodal.export.layout import find_student, read_notes
from xmodal.files import write_text

Metrics = Mapping[str, Mapping[str, float]]
"""Split → metric → value."""

_LIBRARY = {
    "image": "timm",
    "text": "sentence-transformers",
    "clip": "timm",
    "open_clip": "open_clip",
    "module": "pytorch",
}
_TASK = {
    "image": "image-feature-extraction",
    "text": "sentence-similarity",
    "clip": "zero-shot-image-classification",
    "open_clip": "zero-shot-image-classification",
    "module": "feature-extraction",
}
_KINDS = {"static": "text"}
"""Students whose folders are of another one's kind."""
_LOAD = {
    "image": """import timm
import torch
from PIL import Image

model = timm.create_model("local-dir:{folder}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
with torch.inference_mode():
    output = model(transform(Image.open("picture.png").convert("RGB"))[None])  # [1, {dim}]
""",
    "text": """from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{folder}")
embedding = model.encode(["a sentence"])  # [1, {dim}]
""",
    "module": """from safetensors.torch import load_file

module.load_state_dict(load_file("{folder}/model.safetensors"))  # your own module; its embeddings are [B, {dim}]
""",
    "open_clip": """import open_clip
import torch
from PIL import Image

name = "local-dir:{folder}"
model, _, transform = open_clip.create_model_and_transforms(name)
tokenizer = open_clip.get_tokenizer(name)
model.eval()
with torch.inference_mode():
    image = model.encode_image(transform(Image.open("picture.png").convert("RGB"))[None])  # [1, {dim}]
    text = model.encode_text(tokenizer(["a sentence"]))  # [1, {dim}]
""",
    "clip": """import timm
from sentence_transformers import SentenceTransformer

image_tower = timm.create_model("local-dir:{folder}/image", pretrained=True).eval()  # pictures → [B, {dim}]
text_tower = SentenceTransformer("{folder}/text")  # sentences → [B, {dim}]
""",
}


def model_card(
    spec: Mapping[str, Any],
    metadata: Mapping[str, Any],
    *,
    metrics: Metrics | None = None,
    baseline: Metrics | None = None,
    folder: str = "FOLDER",
) -> str:
    """README.md of the student that ``spec`` made: Markdown with the front matter that hubs read.

    ``metrics`` is {split: {metric: value}}, ``baseline`` the same for the student trained without its teacher.
    ``folder`` is what the loading code calls the student's folder.
    """
    kind = _KINDS.get(spec.get("name", "image"), spec.get("name", "image"))
    recipe = _recipe(metadata)
    space = metadata.get("space") or {}
    dim = space.get("dim") or spec.get("embed_dim") or spec.get("num_classes") or "D"
    load = _LOAD[kind].format(folder=folder, dim=dim)
    sections = {
        f"# {recipe.get('name') or f'{kind} student'}": _what(
            kind, spec, metadata, str(recipe.get("description") or "")
        ),
        "## Load it": f"It is an ordinary {_LIBRARY[kind]} checkpoint, no xmodal needed.\n\n```python\n{load}```\n\n"
        f"With xmodal, `xmodal.load_student(FOLDER{', module=…' if kind == 'module' else ''})` gives the same model "
        "with `.preprocess` and `.metadata`.",
        "## Its space": _space(space) if space else "",
        "## Measured": _table(metrics, baseline or {}) if metrics else "",
        "## How it was made": _made(recipe, metadata),
        "## Licence": metadata.get("licence")
        or "Not stated. The licences of teacher, data and starting weights apply.",
    }
    parts = [_front_matter(kind, metadata), *(f"{heading}\n\n{text}" for heading, text in sections.items() if text)]
    return "\n\n".join(parts) + "\n"


def write_card(folder: str | Path, *, metrics: Metrics | None = None, baseline: Metrics | None = None) -> Path:
    """Write README.md of the student in ``folder``, or in a run's ``student/``, anew, with what was measured."""
    folder, _ = find_student(folder)
    notes = read_notes(folder)
    spec = notes.pop("student", {})
    path = folder / "README.md"
    write_text(path, model_card(spec, notes, metrics=metrics, baseline=baseline))
    return path


def _front_matter(kind: str, metadata: Mapping[str, Any]) -> str:
    licence = metadata.get("licence")
    return "\n".join(
        [
            "---",
            f"library_name: {_LIBRARY[kind]}",
            f"pipeline_tag: {_TASK[kind]}",
            *([f"license: {json.dumps(str(licence).lower())}"] if licence else []),
            "tags:\n- xmodal\n- knowledge-distillation",
            "---",
        ]
    )


def _recipe(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """The recipe, which metadata holds whole or by its name."""
    recipe = metadata.get("recipe") or {}
    return recipe if isinstance(recipe, Mapping) else {"name": str(recipe)}


def _what(kind: str, spec: Mapping[str, Any], metadata: Mapping[str, Any], description: str) -> str:
    image = (spec.get("image") or {}).get("model", "timm") if kind == "clip" else spec.get("model", "timm")
    model = spec.get("model", "CLIP")
    what = {
        "image": f"An image network, `{image}`",
        "text": "A text encoder",
        "clip": f"An image tower, `{image}`, and a text tower",
        "open_clip": f"An image and a text tower, `{model if isinstance(model, str) else short_name(model)}`",
        "module": f"`{spec.get('model', 'a module')}`, its maker's own",
    }[kind]
    teachers = [spec for spec in (metadata.get("teachers") or {}).values() if isinstance(spec, Mapping)]
    names = ", ".join(f"`{teacher.get('model') or teacher.get('name')}`" for teacher in teachers)
    taught = f"taught by {names}" if names else "trained without a teacher"
    return f"{what}, {taught} with xmodal. {description}".strip()


def _space(space: Mapping[str, Any]) -> str:
    teacher = space.get("teacher") or {}
    return (
        f"Its embeddings lie in the space of `{teacher.get('model') or teacher.get('name') or 'its teacher'}` "
        f"(`{space.get('tap')}`, {space.get('dim')} dimensions). Compare them with that model's by cosine."
    )


def _made(recipe: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    objective = metadata.get("objective") or recipe.get("objective") or []
    terms = [str(term.get("loss", "?")) if isinstance(term, Mapping) else str(term) for term in objective]
    rows = {
        "recipe": recipe.get("name"),
        "data": (recipe.get("data") or {}).get("train"),
        "objective": ", ".join(terms),
        "steps": metadata.get("steps"),
        "xmodal": metadata.get("xmodal_version"),
    }
    return "\n".join(f"- {key}: {value}" for key, value in rows.items() if value not in (None, "")) or "Not recorded."


def _table(metrics: Metrics, baseline: Metrics) -> str:
    header = ["split", "metric", "value", *(["without teacher"] if baseline else [])]
    rows = [header, ["---"] * len(header)]
    for split, values in metrics.items():
        for metric, value in values.items():
            other = baseline.get(split, {}).get(metric)
            rows.append(
                [split, metric, f"{value:.4g}", *([f"{other:.4g}" if other is not None else ""] if baseline else [])]
            )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
