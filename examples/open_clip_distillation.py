"""Distil with open_clip's own training script, and xmodal's loss in place of its own.

    python examples/open_clip_distillation.py --tile 1024 \
        --model RN50 --distill-model ViT-L-14 --distill-pretrained openai \
        --train-data 'shards/{00000..00999}.tar' --dataset-type webdataset --train-num-samples 1000000

Arguments are those of open_clip_train (``python -m open_clip_train.main --help``) and the few below. With
``torchrun --nproc-per-node 8`` in place of ``python`` it runs on eight devices. open_clip_train needs pandas installed.
"""

from __future__ import annotations

import argparse
from functools import partial

import open_clip.factory
import open_clip_train.data
import open_clip_train.main
from webdataset.tariterators import tar_file_expander

from xmodal.losses.open_clip import DistillClipLoss


def main() -> None:
    # No abbreviations: open_clip_train's --model would be taken for --model-configs.
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--tile", type=int, help="compare so many rows with so many at a time; saves memory")
    parser.add_argument("--model-configs", help="a JSON file or a folder of them: architectures of your own")
    # Where one of these two is missing, open_clip_train trains without a teacher and does not say so.
    parser.add_argument("--distill-model", required=True, help="the teacher, a model of open_clip")
    parser.add_argument("--distill-pretrained", required=True, help="its weights: a tag or a file")
    own, theirs = parser.parse_known_args()

    # This does it: open_clip's create_loss looks the class up there when training begins.
    open_clip.factory.DistillClipLoss = partial(DistillClipLoss, tile=own.tile)

    # Newer releases of webdataset end each shard with an empty file, which open_clip_train does not expect.
    open_clip_train.data.tar_file_expander = partial(tar_file_expander, eof_value=None)
    if own.model_configs:
        open_clip.add_model_config(own.model_configs)
    teacher = ["--distill-model", own.distill_model, "--distill-pretrained", own.distill_pretrained]
    open_clip_train.main.main([*theirs, *teacher])


if __name__ == "__main__":
    main()
