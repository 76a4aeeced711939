"""Dynamic shapes as torch has them, as the JSON that ``trtmut --shapes`` reads."""

from __future__ import annotations

import sys
from typing import Any, Mapping, Optional, Sequence


def shapes_from_torch(
    args_dynamic_shape: Optional[Sequence[Any]] = None,
    kwargs_dynamic_shape: Optional[Mapping[str, Any]] = None,
) -> dict[str, Any]:
    """The spec that means what ``set_expected_dynamic_shape_range(args_dynamic_shape, kwargs_dynamic_shape)`` means.

    The arguments are those of Torch-TensorRT's mutable module: for each argument of ``forward`` a tree of tensors, where a tensor
    is a dict from axes to ``torch.export.Dim`` objects, a list of them, or ``None``. Write it to a file with ``json.dump``.

    :raises ValueError: where one name is two dims with different ranges.
    :raises TypeError: for an object that is none of torch's.
    """
    dims: dict[str, dict[str, int]] = {}
    args = [_tree(shape, dims, f"args[{i}]") for i, shape in enumerate(args_dynamic_shape or ())]
    kwargs = {key: _tree(shape, dims, key) for key, shape in (kwargs_dynamic_shape or {}).items()}
    return {"dims": dims, "args": args, "kwargs": kwargs}


def _tree(shape: Any, dims: dict[str, dict[str, int]], where: str) -> Any:
    if isinstance(shape, Mapping):
        if all(type(key) is int for key in shape):
            return {str(axis): _axis(dim, dims, f"{where}[{axis}]") for axis, dim in shape.items()}
        if all(isinstance(key, str) for key in shape):
            return {key: _tree(inner, dims, f"{where}.{key}") for key, inner in shape.items()}
        raise TypeError(f"{where} has axes and names for keys, and is either a tensor or a dict")
    if isinstance(shape, (list, tuple)):
        return [_tree(inner, dims, f"{where}[{i}]") for i, inner in enumerate(shape)]
    return _axis(shape, dims, where)


def _axis(dim: Any, dims: dict[str, dict[str, int]], where: str) -> Any:
    """A name, an expression, a size, a hint, or None."""
    if dim is None or (isinstance(dim, int) and not isinstance(dim, bool)):
        return dim
    hint = getattr(getattr(dim, "type", None), "name", None)
    if hint in ("AUTO", "DYNAMIC", "STATIC"):
        bounds = [(name, getattr(dim, name)) for name in ("min", "max")]
        given = ", ".join(f"{name}={value}" for name, value in bounds if value is not None)
        return f"Dim.{hint}({given})" if given else hint
    root = getattr(dim, "root", dim)
    if not (hasattr(dim, "__name__") and hasattr(root, "min") and hasattr(root, "max")):
        raise TypeError(f"{where} is {dim!r}, and not a torch.export.Dim, a hint, a size or None")
    _note(root, dims)
    return dim.__name__


def _note(root: Any, dims: dict[str, dict[str, int]]) -> None:
    # Where a dim has no bound, torch has an infinity of its own, or the largest integer of the system.
    bounds = {"min": int(root.min)}
    if root.max < sys.maxsize - 1:
        bounds["max"] = int(root.max)
    before = dims.setdefault(root.__name__, bounds)
    if before != bounds:
        raise ValueError(f"there are two dims `{root.__name__}`, {_shown(before)} and {_shown(bounds)}")


def _shown(bounds: dict[str, int]) -> str:
    return f"{bounds['min']} to {bounds.get('max', 'no bound')}"
