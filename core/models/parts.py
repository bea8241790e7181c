"""Several modules that are trained together, as one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from torchdeck.core.errors import UserError, did_you_mean


class Parts(nn.Module):
    """Several modules that a step of the user's own trains: ``models.generator`` or ``models["generator"]``. Called
    itself, it is its first part, which is what is exported."""

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        """Raises UserError for a part that is called like something that every module has."""
        super().__init__()
        for name, module in parts.items():
            if hasattr(nn.Module, name):
                raise UserError(
                    f"model.parts.{name}: every nn.Module has {name!r} of its own; call the part something else.",
                    field=f"model.parts.{name}",
                )
            self.add_module(name, module)

    def __getitem__(self, name: str) -> nn.Module:
        """The part of that name.

        Raises UserError where there is none.
        """
        found = dict(self.named_children()).get(name)
        if found is None:
            raise UserError(f"The model has no part {name!r}; {did_you_mean(name, list(self))}", field="model.parts")
        return found

    def __iter__(self) -> Iterator[str]:
        """The names of the parts, in the order of the experiment."""
        return iter([name for name, _ in self.named_children()])

    def __len__(self) -> int:
        return len(self._modules)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the first part makes of it."""
        return next(self.children())(*args, **kwargs)
