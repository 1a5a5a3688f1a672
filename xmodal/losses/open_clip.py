"""open_clip's distillation loss, drop-in: same calls and figures, less memory, right over ranks, SigLIP too."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed import ProcessGroup

from xmodal.errors import LossError
from xmodal.losses.checks import check_positive
from xmodal.losses.contrastive import both_ways, check_pairs, detached, own_pairs, siglip, soft_sigmoid
from xmodal.losses.distributed import mean_over_ranks
from xmodal.losses.tiled_softmax import tiled_softmax
from xmodal.losses.tiles import check_tiling


class DistillClipLoss(nn.Module):
    r"""The hard and the soft contrastive loss of a student beside its teacher, in place of open_clip's class.

    .. math:: \tfrac12 \sum_{\text{ways}} \operatorname{mean}_i -\log q_{ii}, \qquad
              \tfrac12 \sum_{\text{ways}} \operatorname{mean}_i \sum_j -p_{ij} \log q_{ij}

    with :math:`q` the student's softmax over the batch of all ranks and :math:`p` the teacher's, image to text and text
    to image: ``contrastive_loss`` and ``distill_loss``, in nats. The second is a cross-entropy, as open_clip has it: at
    equality it is the teacher's entropy, not zero. :func:`xmodal.losses.soft_contrastive` is the same less that
    entropy.

    Constructor and call take what open_clip's ``DistillClipLoss`` takes, so that its training script can use this one::

        import open_clip.factory
        open_clip.factory.DistillClipLoss = xmodal.losses.open_clip.DistillClipLoss

    What differs:

    - **Memory.** With ``tile``, a batch is compared a tile of that many rows and columns at a time, once for both
      losses; the B × B matrices are never whole. The numbers stay the same. ``products`` is that of
      :func:`xmodal.losses.soft_contrastive`.
    - **Ranks.** The gradient, averaged over ranks as DistributedDataParallel does, is that of one process with the
      whole batch, and the value is the whole batch's on every rank, whatever ``local_loss`` and ``gather_with_grad``
      say. open_clip's is so with ``gather_with_grad``; without it, features get 1/ranks of their gradient, or with
      ``local_loss`` none as the candidates of other rows. With ``local_loss`` its value is a rank's own rows' mean.
    - **SigLIP.** A student with a ``logit_bias`` is trained by sigmoids: ``contrastive_loss`` is
      :func:`xmodal.losses.siglip`, and ``distill_loss`` is :func:`xmodal.losses.soft_sigmoid` where the teacher has a
      bias too, which is zero at equality. From a teacher without one it still learns by softmax, and a bias of the
      teacher alone changes nothing, for a softmax does not feel it. open_clip's fails on any bias.
    - **Cached teachers.** Teacher features may come from a file: any float dtype, any device, any length and width.
    - **Precision.** Logits are float32 at least, also under autocast. Features need not be normalised.

    ``cache_labels`` has nothing to cache here. Horovod is refused.

    >>> import torch
    >>> rows = torch.eye(2)
    >>> losses = DistillClipLoss()(rows, rows, 1.0, rows, rows, 2.0, output_dict=True)
    >>> {name: round(value.item(), 4) for name, value in losses.items()}
    {'contrastive_loss': 0.3133, 'distill_loss': 0.4325}
    """

    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
        *,
        tile: int | None = None,
        products: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        super().__init__()
        if use_horovod:
            raise LossError("use_horovod: rows of other ranks come through torch.distributed only; start with torchrun")
        check_tiling(tile, products)
        self.local_loss, self.gather_with_grad, self.cache_labels = local_loss, gather_with_grad, cache_labels
        self.rank, self.world_size, self.tile, self.products = rank, world_size, tile, products

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        dist_image_features: Tensor,
        dist_text_features: Tensor,
        dist_logit_scale: float | Tensor,
        output_dict: bool = False,
        *,
        logit_bias: float | Tensor | None = None,
        dist_logit_bias: float | Tensor | None = None,
    ) -> dict[str, Tensor] | tuple[Tensor, Tensor]:
        """``contrastive_loss`` and ``distill_loss``, as a mapping or as a pair; ``dist_`` is the teacher's side."""
        device = image_features.device
        rows = (image_features, text_features, dist_image_features.to(device), dist_text_features.to(device))
        scale, teacher_scale = _number(logit_scale, device), detached(_number(dist_logit_scale, device))
        options: dict[str, Any] = {"tile": self.tile, "products": self.products, "group": self._group()}
        if logit_bias is None:
            hard, soft = _softmax(*rows, scale, teacher_scale, **options)
        else:
            bias = _number(logit_bias, device)
            hard = siglip(*rows[:2], logit_scale=scale, logit_bias=bias, **options)
            if dist_logit_bias is None:
                _, soft = _softmax(*rows, scale, teacher_scale, **options)
            else:
                options |= {"teacher_scale": teacher_scale, "teacher_bias": _number(dist_logit_bias, device)}
                soft = soft_sigmoid(*rows, student_scale=scale, student_bias=bias, **options)
        return {"contrastive_loss": hard, "distill_loss": soft} if output_dict else (hard, soft)

    def extra_repr(self) -> str:
        return f"rank={self.rank}, world_size={self.world_size}, tile={self.tile}, products={self.products!r}"

    def _group(self) -> ProcessGroup | None:
        if self.world_size == 1:
            return None
        if not dist.is_initialized() or (dist.get_rank(), dist.get_world_size()) != (self.rank, self.world_size):
            here = f"{dist.get_rank()} of {dist.get_world_size()}" if dist.is_initialized() else "without a group"
            raise LossError(
                f"the loss was made for rank {self.rank} of {self.world_size}; this process is {here}: "
                "call torch.distributed.init_process_group first, as torchrun's scripts do"
            )
        return dist.group.WORLD


def _softmax(
    image: Tensor,
    text: Tensor,
    teacher_image: Tensor,
    teacher_text: Tensor,
    scale: float | Tensor,
    teacher_scale: float | Tensor,
    *,
    tile: int | None,
    products: str,
    group: ProcessGroup | None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropies of the student's softmax with the own pairs and with the teacher's, both the two ways' mean."""
    check_pairs(image, text)
    check_pairs(teacher_image, teacher_text, len(image))
    check_positive("logit_scale", scale)
    check_positive("dist_logit_scale", teacher_scale)
    teacher = (teacher_image.detach(), teacher_text.detach(), teacher_scale)
    if tile is not None:
        how: dict[str, Any] = {"tile": tile, "products": products, "group": group}
        soft, hard = tiled_softmax(image, text, scale, [teacher], **how, cross_entropy=True)
        return hard, soft
    logs = [logits.log_softmax(-1) for logits in both_ways(image, text, scale, group)]
    with torch.no_grad():
        targets = [logits.softmax(-1) for logits in both_ways(*teacher, group)]
    soft = torch.stack([(target * log).sum(-1).mean() for target, log in zip(targets, logs, strict=True)])
    return mean_over_ranks(own_pairs(logs, group), group), mean_over_ranks(-soft.mean(), group)


def _number(x: float | Tensor, device: torch.device) -> float | Tensor:
    """A scale or bias as losses take it: a model may hold it in one element, ``[1]``, and a cache on the CPU."""
    return x.to(device).reshape(()) if isinstance(x, Tensor) else x
