"""A call of a module as the file that ``trtmut run --inputs`` and ``trtmut shapes init --from`` read."""

from __future__ import annotations

import inspect
import os
import re
from typing import TYPE_CHECKING, Any, Iterator, Mapping, Optional, Sequence, Union

if TYPE_CHECKING:
    import torch


def save_inputs(
    path: Union[str, "os.PathLike[str]"],
    args: Sequence[Any] = (),
    kwargs: Optional[Mapping[str, Any]] = None,
    *,
    module: "Optional[torch.nn.Module]" = None,
    names: Optional[Sequence[str]] = None,
) -> list[str]:
    """Writes the tensors of the call ``module(*args, **kwargs)`` to a safetensors file, under the names that ``torch.export`` gives
    to the inputs. Returns the names, in order.

    :param module: whose ``forward`` names the positional arguments; needed where there are any.
    :param names: one for each tensor instead, as in ``torch.onnx.export(..., input_names=...)``.
    :raises ValueError: where positional arguments have no names, or ``names`` are more or fewer than the tensors.
    :raises TypeError: where ``module`` cannot be called so.
    """
    import torch
    from safetensors.torch import save_file

    found: list[tuple[str, torch.Tensor]] = []
    numbers = _Numbers()
    for name, value in _arguments(args, kwargs or {}, module, names is not None):
        for path_in_call, leaf in _leaves((name,), value):
            key = numbers.free(_placeholder(path_in_call))
            if isinstance(leaf, torch.Tensor):
                found.append((key, leaf))
    if names is not None:
        if len(names) != len(found) or len(set(names)) != len(names):
            raise ValueError(f"there are {len(found)} tensors ({', '.join(key for key, _ in found)}) for the names {list(names)}")
        found = [(name, tensor) for name, (_, tensor) in zip(names, found)]
    # A file has no tensors that share memory.
    save_file({key: tensor.detach().cpu().clone().contiguous() for key, tensor in found}, os.fspath(path))
    return [key for key, _ in found]


def _arguments(args: Sequence[Any], kwargs: Mapping[str, Any], module: Any, named: bool) -> list[tuple[str, Any]]:
    if module is not None:
        signature = inspect.signature(module.forward)
        signature.bind(*args, **kwargs)
        # Keywords stay in the order of the call: torch does not reorder them either.
        return [*signature.bind_partial(*args).arguments.items(), *kwargs.items()]
    if args and not named:
        raise ValueError("positional arguments have no names: give `module`, whose forward has them, or `names`")
    return [*((f"args_{i}", value) for i, value in enumerate(args)), *kwargs.items()]


def _leaves(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves((*path, str(key)), inner)
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            yield from _leaves((*path, str(i)), inner)
    else:
        yield path, value


def _placeholder(path: tuple[str, ...]) -> str:
    """As ``placeholder_naming_pass`` of torch names it."""
    return re.sub(r"[^a-zA-Z0-9]", "_", "_".join(path)).lower()


class _Numbers:
    """Names that are not taken yet, with a number where they would be, as torch counts them."""

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.highest: dict[str, int] = {}

    def free(self, name: str) -> str:
        if name in self.taken:
            name = f"{name}_{self.highest.get(name, 0) + 1}"
        numbered = re.match(r"(.*)_(\d+)", name)
        if numbered:
            prefix, number = numbered.group(1), int(numbered.group(2))
            self.highest[prefix] = max(number, self.highest.get(prefix, 0))
        self.taken.add(name)
        return name
