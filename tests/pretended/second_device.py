"""A device that is pretended, to test on a machine without a GPU what goes wrong on one.

Its tensors compute on the CPU, say they are elsewhere, and refuse to meet tensors of the CPU as those of a GPU would. Torch's
"lazy" stands in for "cuda": it has no driver that would be missed, and its backward passes run in the caller's thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

ELSEWHERE = "lazy:0"
_aten = torch.ops.aten
_INDEXED = (_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default)


class Elsewhere(Tensor):
    """A tensor on the pretended device; its numbers are those of `inner`."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Elsewhere:
        made: Elsewhere = Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            layout=inner.layout, device=torch.device(ELSEWHERE),
        )  # fmt: skip
        made.inner = inner
        return made

    def __repr__(self, **_: Any) -> str:
        return f"Elsewhere({self.inner!r})"

    def __format__(self, spec: str) -> str:
        return format(self.inner.item() if self.dim() == 0 else repr(self), spec)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.inner.__reduce_ex__(protocol)

    def tolist(self) -> Any:
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _carried_out(func, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Catches what makes tensors out of nothing."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _carried_out(func, args, kwargs or {})


def _carried_out(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """An operation where its tensors or its argument `device` say; scalars of the CPU are welcome anywhere, as on a GPU."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = [isinstance(tensor, Elsewhere) for tensor in tensors]
    mixed = any(there) and any(tensor.dim() and not away for tensor, away in zip(tensors, there, strict=True))
    copies = func in (_aten.copy_.default, _aten._to_copy.default)
    # Indices may lie on the CPU wherever the indexed tensor is, and not the other way round.
    if mixed and not copies and not (func in _INDEXED and there[0]):
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, but found {ELSEWHERE} and cpu")
    asked = kwargs.get("device")
    away = torch.device(asked).type == torch.device(ELSEWHERE).type if asked is not None else any(there[:1] if mixed else there)
    inside = tree_map(lambda leaf: leaf.inner if isinstance(leaf, Elsewhere) else leaf, (tuple(args), dict(kwargs)))
    if asked is not None:
        inside[1]["device"] = torch.device("cpu")
    found = func(*inside[0], **inside[1])
    if not away:
        return found
    wrapped = tree_map(lambda leaf: Elsewhere(leaf) if isinstance(leaf, Tensor) else leaf, found)
    if func is _aten._to_copy.default or not any(there):
        return wrapped
    return return_and_correct_aliasing(func, tuple(args), dict(kwargs), wrapped)


@contextmanager
def second_device() -> Iterator[str]:
    """Within, there is a second device, of this name."""
    future, plain, load = torch.__future__, torch.autocast, torch.load

    def autocast(kind: str, *given: Any, **options: Any) -> AbstractContextManager[Any]:
        return nullcontext() if kind == torch.device(ELSEWHERE).type else plain(kind, *given, **options)

    def loaded(file: Any, map_location: Any = None, **options: Any) -> Any:
        away = map_location is not None and torch.device(map_location) == torch.device(ELSEWHERE)
        content = load(file, map_location="cpu" if away else map_location, **options)
        return tree_map(lambda leaf: leaf.to(ELSEWHERE) if away and isinstance(leaf, Tensor) else leaf, content)

    before = future.get_overwrite_module_params_on_conversion()
    # A parameter cannot become another class of tensor in place.
    future.set_overwrite_module_params_on_conversion(True)
    try:
        with patch.object(torch, "autocast", autocast), patch.object(torch, "load", loaded), _Factories():
            yield ELSEWHERE
    finally:
        future.set_overwrite_module_params_on_conversion(before)
