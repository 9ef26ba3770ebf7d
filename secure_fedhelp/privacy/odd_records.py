"""Made-up records as private ones may be now and then, beside which a record's answer must be what it is alone.

A network may mix records only where one of them is odd: ``if inputs.max() > 50`` for the whole batch, a cut at ten
times its median, an order by the records' lengths. Normal numbers never go there, and private records may. One record
is NaN throughout: nearly all arithmetic hands NaN on, so what is mixed shows, through a factor of zero too, by which a
gate that opens later hides it at the start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

#: Records in the largest batch that is tried: a multiple of most sizes of groups.
MANY = 48


def odd_records(inputs: Tensor) -> Tensor:
    """Half a dozen records about ``inputs``, [n, *shape], the last of them NaN.

    Of whole numbers they stay whole, from 0 to the largest: a network may take them for rows of an embedding.
    """
    record, other = inputs[0], inputs[-1]
    found = [torch.zeros_like(record), _cut(other, math.ceil(record.shape[-1] / 2))]
    if torch.equal(inputs, inputs.round()):
        found += [_cut(record, 1), torch.full_like(record, float(inputs.max()))]
    else:
        found += [record * 0.01, other * 100, record.abs() * -30]
    return torch.stack([*found, torch.full_like(record, math.nan)])


def _cut(record: Tensor, length: int) -> Tensor:
    """The record with zeros from ``length`` on, as padding is."""
    kept = record.clone()
    kept[..., length:] = 0
    return kept


@contextmanager
def moved(model: nn.Module) -> Iterator[None]:
    """``model`` with other weights than those at the start: of these some are zero, and nothing behind them shows."""
    weights = [p for p in model.parameters() if p.requires_grad]
    before, drawn = [p.detach().clone() for p in weights], torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for p in weights:
                inputs = max(1, p.numel() // len(p)) if p.ndim and len(p) else 1
                step = 0.3 * float(p.abs().mean()) or 1 / math.sqrt(inputs)
                p.add_(torch.randn(p.shape, generator=drawn, dtype=p.dtype), alpha=step)
        yield
    finally:
        with torch.no_grad():
            for p, values in zip(weights, before, strict=True):
                p.copy_(values)


def decides_by_values(pass_through: Callable[[], object]) -> bool:
    """Whether Python reads a tensor's values, or rows are picked by them: what is computed then depends on the records.

    Such code may do with a batch what it does with none of its records, and no trial sees all cases of it.
    """
    reading = _Reading()  # type: ignore[no-untyped-call]
    with reading:
        pass_through()
    return reading.found


class _Reading(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of its metaclass
    found: bool = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        picks = name == "index" and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        self.found = self.found or picks or name in _READS
        return func(*args, **(kwargs or {}))


_READS = frozenset(
    ("_local_scalar_dense", "equal", "nonzero", "nonzero_numpy", "masked_select", "masked_scatter", "bincount")
) | {"_unique", "_unique2", "unique_dim", "unique_consecutive", "_pack_padded_sequence"}
