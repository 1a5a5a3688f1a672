"""Locked towers (LiT, Zhai et al. 2022, arXiv:2111.07991): all but the linear head stays as it is."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from typing_extensions import Self

from xmodal.adapters.encoder import Encoder
from xmodal.errors import AdapterError


class Lockable(Encoder):
    """An encoder whose body can be locked: without gradient, in eval mode whatever calls ``.train()``."""

    locked = False

    @property
    @abstractmethod
    def linear_head(self) -> nn.Module | None:
        """What still learns in a locked encoder; None where it has no head."""

    @property
    @abstractmethod
    def head_taps(self) -> tuple[str, ...]:
        """The taps that the head makes."""

    def lock(self) -> Self:
        """From now on only the head learns. Raises :class:`AdapterError` where there is none."""
        head = self.linear_head
        if head is None:
            raise AdapterError(
                f"{self.name} is locked and has no head, so nothing of it would learn. Give embed_dim, the width of "
                "its head, or leave locked out."
            )
        self.locked = True
        self.requires_grad_(False)
        head.requires_grad_(not self.frozen)
        return self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.locked and self.linear_head is not None:
            head = set(self.linear_head.modules())
            for module in self.modules():
                if module is not self and module not in head:
                    module.training = False
        return self

    def learns(self, tap: str) -> bool:
        own = tap.partition(".")[2] or tap  # english.embedding is what the head makes of another text
        return not self.locked or own in {made.partition(".")[2] or made for made in self.head_taps}

    def body_gradients(self) -> AbstractContextManager[None]:
        """Around what comes before the head: a locked body costs no backward pass, and keeps nothing for one."""
        return torch.no_grad() if self.locked else nullcontext()
