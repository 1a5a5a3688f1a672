"""Scaled cosines of all rows with all columns, a tile at a time: never more than a tile of them in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from xmodal.errors import LossError
from xmodal.losses.checks import check_count

PRODUCTS = ("float32", "bfloat16")
F = TypeVar("F", bound=Callable[..., Any])


def check_tiling(tile: object, products: object) -> None:
    """Refuse a tile that is no size, and products that are not to be had."""
    if tile is not None:
        check_count("tile", tile)
    if products not in PRODUCTS:
        raise LossError(f"products must be {' or '.join(map(repr, PRODUCTS))}; given {products!r}")
    if tile is None and products != "float32":
        raise LossError(f"products={products!r} are those of the tiled form; give a tile too, such as tile=1024")


def opaque(schema: str, fake: Callable[..., Any]) -> Callable[[F], F]:
    """Make a function, of tensors to tensors without gradient, one operation for a compiler, outside of autocast.

    A compiled caller's graph then holds neither its loops nor its buffers. Others call the function itself: going
    through the dispatcher would import half of the compiler at the first call.
    """

    def wrap(function: F) -> F:
        def run(sides: Sequence[Tensor], *rest: Any) -> Any:
            # autocast would take even float32 operands to half
            with torch.no_grad(), torch.autocast(sides[0].device.type, enabled=False):
                return function(sides, *rest)

        operation = torch.library.custom_op(f"xmodal::{function.__name__}", run, mutates_args=(), schema=schema)
        operation.register_fake(fake)

        @wraps(function)
        def call(*arguments: Any) -> Any:
            return (operation if torch.compiler.is_compiling() else run)(*arguments)

        return cast(F, call)

    return wrap


def as_scalar(number: float | Tensor, like: Tensor, dtype: torch.dtype) -> Tensor:
    """A number as a tensor on the device of another, without waiting for the device."""
    if isinstance(number, Tensor):
        return number.to(like.device, dtype).reshape(())  # a model may hold it in one element, [1]
    return like.new_full((), number, dtype=dtype)


def parts(num: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most ``size`` that cover ``num``."""
    return (slice(start, min(start + size, num)) for start in range(0, num, size))


class Buffer:
    """Memory for one tile, used again for the next: a new allocation for each would cost more than its arithmetic."""

    def __init__(self, like: Tensor, num: int, dtype: torch.dtype | None = None) -> None:
        self._memory = torch.empty(num, dtype=dtype or like.dtype, device=like.device)

    def view(self, num_rows: int, num_columns: int) -> Tensor:
        """Its beginning, as a contiguous tile."""
        return self._memory[: num_rows * num_columns].view(num_rows, num_columns)


class Vectors:
    """``[N, D]``, the way to their directions, and back from these' gradient, some at a time."""

    def __init__(self, x: Tensor, tile: int) -> None:
        self.x, self.tile = x, tile
        # By the largest entry first, as in numerics.directions: squares would leave the range of numbers.
        self._largest, self._inverse = x.new_empty(2, len(x), 1)
        for part in self.parts():
            largest = x[part].abs().amax(1, keepdim=True)
            self._largest[part] = torch.where(largest != 0, largest, 1)
            length = torch.linalg.vector_norm(x[part] / self._largest[part], dim=1, keepdim=True)
            self._inverse[part] = torch.where(largest != 0, length.reciprocal(), 0)

    def parts(self) -> Iterator[slice]:
        """Which ones to take at a time."""
        return parts(len(self.x), self.tile)

    def directions(self, part: slice) -> Tensor:
        """Of length 1; zeros stay zeros."""
        found: Tensor = (self.x[part] / self._largest[part]).mul_(self._inverse[part])
        return found

    def pull(self, gradient: Tensor, weight: Tensor) -> Tensor:
        """From the directions' gradient to ``weight`` times that of the vectors, in place.

        Returns the sum of what the first says along the directions: lengths hide it, and a scale is asked for it.
        """
        total = torch.zeros_like(weight)
        for part in self.parts():
            direction = self.directions(part)
            along = (gradient[part] * direction).sum(1, keepdim=True)
            total += along.sum()
            gradient[part].addcmul_(direction, along, value=-1)
            gradient[part].mul_(self._inverse[part] * weight).div_(self._largest[part])
        return total


class Cosines:
    """``scale · cos + bias`` of ``rows`` ``[N, D]`` with ``columns`` ``[M, D]``.

    ``first`` is the column that belongs to the first row. :meth:`take` goes to some rows, then :meth:`logits` gives
    their tiles. Those of the first rows to take can be kept and used again. A row of zeros has no direction: its
    cosines are 0.

    With ``halve``, products take bfloat16 operands. Their sums are float32, but a product's result is bfloat16 again:
    there is none other on a CPU. Such numbers have most digits near 0, so each product is brought there before it is
    rounded: a softmax's logit by that of the row with its own column, a sigmoid's by its bias.
    """

    def __init__(
        self,
        rows: Tensor,
        columns: Tensor,
        scale: Tensor,
        bias: Tensor | None = None,
        *,
        first: int,
        tile: int,
        halve: bool,
    ) -> None:
        self.scale, self.bias, self.first, self.tile, self.halve = scale, bias, first, tile, halve
        self.rows, self.columns = Vectors(rows, tile), Vectors(columns, tile)
        # what products take: all columns' directions on the right, scaled directions of the rows taken on the left
        self.right = torch.empty_like(columns, dtype=torch.bfloat16 if halve else columns.dtype)
        for part in self.columns.parts():
            self.right[part] = self.columns.directions(part)
        self.left = self.right[:0]
        self.unscaled: Tensor | None = None  # of the rows taken, where the columns' gradient wants them
        self.want_unscaled = False
        self.keep: Tensor | None = None  # where logits of the first rows are written to
        self.kept: Tensor | None = None  # where they are read from
        self._at_first = False
        if halve:
            self._half = self.buffer(torch.bfloat16)

    def buffer(self, dtype: torch.dtype | None = None) -> Buffer:
        """Memory for the largest tile."""
        rows, columns = self.rows.x, self.columns.x
        return Buffer(rows, min(self.tile, len(rows)) * min(self.tile, len(columns)), dtype)

    def take(self, part: slice) -> None:
        """Go to these rows."""
        left = self.rows.directions(part)
        if self.want_unscaled:
            self.unscaled = left.to(self.right.dtype, copy=True)
        left.mul_(self.scale)
        self.left = left.to(self.right.dtype)
        self._at_first = part.start == 0
        if self.halve and self.bias is None:
            own = self.right[self.first + part.start : self.first + part.stop]
            near = (self.left.to(left.dtype) * own.to(left.dtype)).sum(1, keepdim=True)
            self._offset = -near.bfloat16()
            self._rest = -self._offset.to(left.dtype)
        elif self.halve and self.bias is not None:
            self._offset = self.bias.bfloat16().view(1, 1)
            self._rest = self.bias - self._offset.to(left.dtype)

    def logits(self, columns: slice, buffer: Buffer) -> Tensor:
        """``[rows taken, columns]``, in the buffer."""
        right = self.right[columns]
        out = buffer.view(len(self.left), len(right))
        if self._at_first and self.kept is not None:
            return out.copy_(self.kept[:, columns])
        if self.halve:
            half = self._half.view(*out.shape)
            torch.addmm(self._offset.expand_as(half), self.left, right.mT, out=half)
            out.copy_(half).add_(self._rest)
        else:
            torch.mm(self.left, right.mT, out=out)
            if self.bias is not None:
                out.add_(self.bias)
        if self._at_first and self.keep is not None:
            self.keep[:, columns] = out
        return out

    def own(self, tile: Tensor, part: slice, columns: slice) -> tuple[slice, Tensor]:
        """Which rows of all find their own column in the tile, and a view of what stands there."""
        offset = self.first + part.start - columns.start
        view = tile.diagonal(offset)
        start = part.start + max(0, -offset)
        return slice(start, start + len(view)), view


class Gradient:
    """From the gradient of tiles of :class:`Cosines` to that of the rows, the columns and the scale.

    The scale's comes along with either; where it alone is wanted, that of the rows is made for it.
    """

    def __init__(self, cosines: Cosines, want_rows: bool, want_columns: bool, want_scale: bool) -> None:
        self.cosines = cosines
        rows, columns = cosines.rows.x, cosines.columns.x
        self.rows = torch.zeros_like(rows) if want_rows or (want_scale and not want_columns) else None
        self.columns = torch.zeros_like(columns) if want_columns else None
        # not the scaled ones that the logits are made of: the scale's gradient would have to be divided by the scale
        cosines.want_unscaled = want_columns
        if cosines.halve:
            self._half = cosines.buffer(torch.bfloat16)
            longest = max(min(cosines.tile, len(side)) for side in (rows, columns))
            self._product = Buffer(rows, longest * rows.shape[1], torch.bfloat16)

    def add(self, tile: Tensor, part: slice, columns: slice) -> None:
        """Take in the gradient of the logits of the rows taken, ``part``, with these columns."""
        if self.cosines.halve:
            tile = self._half.view(*tile.shape).copy_(tile)
        if self.rows is not None:
            self._add_product(self.rows[part], tile, self.cosines.right[columns])
        if self.columns is not None:
            assert self.cosines.unscaled is not None
            self._add_product(self.columns[columns], tile.mT, self.cosines.unscaled)

    def _add_product(self, total: Tensor, tile: Tensor, vectors: Tensor) -> None:
        if self.cosines.halve:
            total += torch.mm(tile, vectors, out=self._product.view(*total.shape))
        else:
            total.addmm_(tile, vectors)

    def finish(self, weight: float) -> tuple[Tensor, Tensor, Tensor]:
        """All gradients, times ``weight``: of rows, of columns (of no size where not made) and of the scale."""
        cosines, scale = self.cosines, self.cosines.scale
        by_scale = torch.zeros_like(scale)
        if self.columns is not None:
            by_scale = cosines.columns.pull(self.columns, scale * weight) * weight
        if self.rows is not None:
            by_scale = cosines.rows.pull(self.rows, scale * weight) * weight
        rows, columns = (scale.new_empty(0) if given is None else given for given in (self.rows, self.columns))
        return rows, columns, by_scale

    @staticmethod
    def fake(sides: Sequence[Tensor], want_rows: bool, want_columns: bool, want_scale: bool) -> tuple[Tensor, ...]:
        """What :meth:`finish` returns, of sides that begin with rows, columns and scale, without the numbers.

        Compilers ask for it.
        """
        rows, columns, scale = (torch.empty_like(x) for x in sides[:3])
        makes_rows = want_rows or (want_scale and not want_columns)
        return rows if makes_rows else scale.new_empty(0), columns if want_columns else scale.new_empty(0), scale
