"""Train with open_clip's script: by the example, once more with sigmoids, then with open_clip's own loss.

Run by the test beside it as ``python open_clip_driver.py FOLDER``: makes a tiny teacher and a shard in the folder, and
prints, as JSON, with which tile xmodal's loss was asked at each step.
"""

from __future__ import annotations

import json
import logging
import runpy
import sys
import tarfile
from pathlib import Path

import open_clip.factory
import open_clip_train.main
import torch

from xmodal.losses.open_clip import DistillClipLoss

ROOT = Path(__file__).resolve().parents[2]
BATCH = 12


def config(embed_dim: int) -> dict[str, object]:
    return {
        "embed_dim": embed_dim,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 12, "width": 32, "heads": 2, "layers": 1},
    }


def make(folder: Path) -> None:
    configs = folder / "configs"
    configs.mkdir()
    (configs / "tiny-student.json").write_text(json.dumps(config(16)))
    (configs / "tiny-teacher.json").write_text(json.dumps(config(24)))
    open_clip.add_model_config(configs)
    torch.manual_seed(1)
    torch.save(open_clip.create_model("tiny-teacher").state_dict(), folder / "teacher.pt")
    # One batch of real pictures: whatever their order, each step then sees the same ones.
    with (
        tarfile.open(ROOT / "data" / "samples" / "emoji" / "names-000000.tar") as source,
        tarfile.open(folder / "shard.tar", "w") as shard,
    ):
        members = source.getmembers()
        for member in [m for m in members if not m.name.endswith(".json")][: 2 * BATCH]:
            shard.addfile(member, source.extractfile(member))


def main() -> None:
    folder = Path(sys.argv[1])
    make(folder)
    arguments = ["--model", "tiny-student", "--train-data", str(folder / "shard.tar"), "--dataset-type", "webdataset"]
    arguments += ["--batch-size", str(BATCH), "--train-num-samples", str(3 * BATCH), "--epochs", "1", "--workers", "0"]
    arguments += ["--device", "cpu", "--precision", "fp32", "--warmup", "1", "--log-every-n-steps", "1"]
    arguments += ["--logs", str(folder / "logs"), "--aug-cfg", "scale=(1.0,1.0)"]
    teacher = ["--distill-model", "tiny-teacher", "--distill-pretrained", str(folder / "teacher.pt")]

    calls = []
    forward = DistillClipLoss.forward

    def counted(self, *args, **kwargs):
        calls.append(self.tile)
        return forward(self, *args, **kwargs)

    DistillClipLoss.forward = counted
    own = open_clip.factory.DistillClipLoss
    for name, more in (("ours", []), ("sigmoid", ["--siglip"])):
        sys.argv = ["example", "--tile", "5", "--model-configs", str(folder / "configs"), *arguments, *teacher, *more]
        sys.argv += ["--name", name]
        runpy.run_path(str(ROOT / "examples" / "open_clip_distillation.py"), run_name="__main__")
        logging.root.handlers.clear()  # or each run's file gets the later ones' lines too
    open_clip.factory.DistillClipLoss = own
    asked = list(calls)
    open_clip_train.main.main([*arguments, *teacher, "--name", "theirs"])
    print(json.dumps({"tiles": asked, "after": len(calls) - len(asked)}))


if __name__ == "__main__":
    main()
