"""What is saved is what the users' own libraries load without xmodal, and what load_student gives back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from xmodal.adapters import Encoder
from xmodal.errors import AdapterError
from xmodal.export import load_student, save_student

NETWORKS = [
    ("test_efficientnet", {}),
    ("test_vit", {}),  # its size is fixed: positions are part of the weights
    ("test_resnet", {"embed_dim": None}),
    ("test_convnext", {"embed_dim": None, "num_classes": 5}),
    ("tf_efficientnet_lite0", {"image_size": 96, "drop_path": 0.1}),
]


def test_image_students_are_timm_checkpoints_transform_included(
    make_student: Callable[..., Encoder],
    without_xmodal: Callable[[str], None],
    picture: Image.Image,
    tmp_path: Path,
) -> None:
    picture.save(tmp_path / "picture.png")
    students = {}
    for number, (model, options) in enumerate(NETWORKS):
        students[str(number)] = student = make_student(model=model, **options)
        save_student(student, tmp_path / str(number))
    without_xmodal(
        "import timm, torch\n"
        "from PIL import Image\n"
        "picture = Image.open('../picture.png')\n"
        f"for name in {list(students)!r}:\n"
        "    model = timm.create_model(f'local-dir:../{name}', pretrained=True).eval()\n"
        "    config = timm.data.resolve_model_data_config(model)\n"
        "    transform = timm.data.create_transform(**config, is_training=False)\n"
        "    with torch.inference_mode():\n"
        "        torch.save(model(transform(picture)[None]), f'../{name}.pt')\n"
    )
    for name, student in students.items():
        tap = "logits" if "logits" in student.taps() else "image.embedding"
        alone = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        assert torch.allclose(alone, student.encode(image=[picture], taps=[tap])[tap], atol=1e-6), name
        assert alone.shape[1] == (student.embed_dim if tap == "image.embedding" else 5)


def test_text_and_clip_students_are_sentence_transformers_folders(
    make_student: Callable[..., Encoder],
    without_xmodal: Callable[[str], None],
    picture: Image.Image,
    tmp_path: Path,
) -> None:
    picture.save(tmp_path / "picture.png")
    texts = [
        "a sad cat",
        "",
        "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen",
    ]
    text, bare, clip = make_student("text"), make_student("text", embed_dim=None), make_student("clip")
    save_student(text, tmp_path / "text")
    save_student(bare, tmp_path / "bare")
    save_student(clip, tmp_path / "clip")
    without_xmodal(
        "import timm, torch\n"
        "from PIL import Image\n"
        "from sentence_transformers import SentenceTransformer\n"
        "for name, folder in {'text': 'text', 'bare': 'bare', 'clip-text': 'clip/text'}.items():\n"
        "    model = SentenceTransformer(f'../{folder}', device='cpu')\n"
        f"    torch.save(model.encode({texts!r}, convert_to_tensor=True), f'../{{name}}.pt')\n"
        "model = timm.create_model('local-dir:../clip/image', pretrained=True).eval()\n"
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))\n"
        "with torch.inference_mode():\n"
        "    torch.save(model(transform(Image.open('../picture.png'))[None]), '../clip-image.pt')\n"
    )
    for name, student in {"text": text, "bare": bare, "clip-text": clip}.items():
        alone = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        assert torch.allclose(alone, student.encode(text=texts)["text.embedding"], atol=1e-6), name
    alone = torch.load(tmp_path / "clip-image.pt", weights_only=True)
    assert torch.allclose(alone, clip.encode(image=[picture])["image.embedding"], atol=1e-6)


@pytest.mark.parametrize("name", ["image", "text", "clip"])
def test_a_student_comes_back_whole(
    make_student: Callable[..., Encoder], metadata: dict[str, Any], tmp_path: Path, name: str
) -> None:
    student = make_student(name)
    save_student(student, tmp_path / "run" / "student", metadata)
    again = load_student(tmp_path / "run")
    assert again.metadata == metadata
    assert again.spec == student.spec
    assert again.state_hash() == student.state_hash()
    assert again.identity() == student.identity()
    assert again.taps() == student.taps()
    assert (again.embed_dim, again.modalities, again.training) == (8, student.modalities, False)
    if "text" in again.modalities:
        again.encode(text=["a cat", "the dog sleeps under the bridge"])  # a tokenizer remembers how it was last called
    save_student(again, tmp_path / "copy")
    for file in sorted((tmp_path / "run" / "student").rglob("*")):
        copy = tmp_path / "copy" / file.relative_to(tmp_path / "run" / "student")
        assert file.is_dir() or file.read_bytes() == copy.read_bytes(), file
        assert file.is_dir() or str(tmp_path).encode() not in file.read_bytes(), file


def test_a_class_student_comes_back_with_logits(make_student: Callable[..., Encoder], tmp_path: Path) -> None:
    save_student(make_student(embed_dim=None, num_classes=3), tmp_path / "student")
    again = load_student(tmp_path / "student")
    assert "logits" in again.taps()
    assert again.embed_dim == 256


def test_the_line_that_loads_a_student_loads_it(
    make_student: Callable[..., Encoder], picture: Image.Image, tmp_path: Path
) -> None:
    import timm
    from sentence_transformers import SentenceTransformer

    from xmodal.export.loading import load_line

    image, text = make_student("image"), make_student("text")
    folders = [save_student(image, tmp_path / "image"), save_student(text, tmp_path / "text")]
    libraries = {"timm": timm, "SentenceTransformer": SentenceTransformer}
    network, encoder = (eval(load_line(folder), libraries) for folder in folders)
    inputs = image.preprocess.collate([image.preprocess({"image": picture})])
    assert torch.allclose(network.eval()(inputs["image"]), image.encode(image=[picture])["image.embedding"], atol=1e-6)
    assert torch.allclose(
        encoder.encode(["a cat"], convert_to_tensor=True).cpu(),
        text.encode(text=["a cat"])["text.embedding"],
        atol=1e-6,
    )


def test_a_loaded_student_is_laid_out_as_its_own_library_loads_it(
    make_student: Callable[..., Encoder], tmp_path: Path
) -> None:
    import timm

    folder = save_student(make_student(model="tf_efficientnet_lite0", image_size=96), tmp_path / "student")
    network, images = timm.create_model(f"local-dir:{folder}", pretrained=True).eval(), torch.randn(4, 3, 96, 96)
    student = load_student(folder)
    with torch.no_grad():
        assert torch.equal(student({"image": images}, ["image.embedding"])["image.embedding"], network(images))


def test_half_precision_files_are_loaded_as_float32(make_student: Callable[..., Encoder], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for name in ("image", "text"):
        student = make_student(name)
        weights = save_student(student, tmp_path / name) / "model.safetensors"
        halved = {key: value.half() if value.ndim > 1 else value for key, value in load_file(weights).items()}
        save_file(halved, weights, metadata={"format": "pt"})
        again = load_student(tmp_path / name)
        assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}
        for before, after in zip(student.parameters(), again.parameters(), strict=True):
            assert torch.allclose(before, after, atol=2e-3)


def test_nothing_but_a_student_is_replaced(make_student: Callable[..., Encoder], tmp_path: Path) -> None:
    first, second = make_student(), make_student(embed_dim=4)
    save_student(first, tmp_path / "student")
    save_student(second, tmp_path / "student")
    assert load_student(tmp_path / "student").state_hash() == second.state_hash()
    assert [path.name for path in tmp_path.iterdir()] == ["student"]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(AdapterError, match="is not a student's folder; it is left alone"):
        save_student(first, tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


def test_a_save_that_fails_leaves_the_old_student_and_no_litter(
    make_student: Callable[..., Encoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = make_student()
    save_student(student, tmp_path / "student")

    def full(*given: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("xmodal.export.tensors.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_student(make_student(embed_dim=4), tmp_path / "student")
    assert load_student(tmp_path / "student").state_hash() == student.state_hash()
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_what_is_no_student_is_said(make_student: Callable[..., Encoder], tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="is not a folder"):
        load_student(tmp_path / "none")
    with pytest.raises(AdapterError, match="holds no student"):
        load_student(tmp_path)
    folder = save_student(make_student(), tmp_path / "student")
    weights, config = folder / "model.safetensors", folder / "config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1000])
    with pytest.raises(AdapterError, match="is truncated"):
        load_student(folder)
    weights.unlink()
    with pytest.raises(AdapterError, match="holds no weights"):
        load_student(folder)
    weights.write_bytes(whole)
    other = {**json.loads(config.read_text()), "architecture": "test_resnet"}
    config.write_text(json.dumps(other))
    with pytest.raises(AdapterError, match="not of this model"):
        load_student(folder)
    config.write_text(json.dumps({**other, "architecture": "none_such"}))
    with pytest.raises(AdapterError, match="not one that timm can make a network of"):
        load_student(folder)
    config.write_text('{"architecture":')
    with pytest.raises(AdapterError, match="cannot be read as JSON"):
        load_student(folder)


def test_a_foreign_timm_folder_is_read_too(tmp_path: Path) -> None:
    import timm
    from timm.models import save_for_hf

    network = timm.create_model("test_resnet", num_classes=3).eval()
    save_for_hf(network, tmp_path / "foreign", safe_serialization=True)
    student = load_student(tmp_path / "foreign")
    images = torch.randn(1, 3, 160, 160)
    assert student.metadata == {}
    assert torch.equal(student({"image": images}, ["image.embedding"])["image.embedding"], network(images))


def test_a_student_is_a_teacher_to_the_next(
    make_student: Callable[..., Encoder], picture: Image.Image, tmp_path: Path
) -> None:
    from xmodal.adapters import create_student, create_teacher

    image, text = make_student("image"), make_student("text")
    place = {name: str(save_student(s, tmp_path / name)) for name, s in {"image": image, "text": text}.items()}
    teacher = create_teacher("timm", model=f"local-dir:{place['image']}")
    assert torch.allclose(
        teacher.encode(image=[picture], taps=["logits"])["logits"], image.encode(image=[picture])["image.embedding"]
    )
    teacher = create_teacher("sentence", model=place["text"])
    assert torch.allclose(
        teacher.encode(text=["a cat"])["text.embedding"], text.encode(text=["a cat"])["text.embedding"]
    )
    heir = create_student("image", model="test_efficientnet", weights=place["image"], embed_dim=8, image_size=64)
    assert heir.state_hash() == image.state_hash()
