"""torch.compile: always, never, or where it pays, which is measured in the first steps."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from torchdeck.core.machine import distributed

#: Steps that are measured each way, after those that warm up, in which kernels are chosen and code is compiled.
_MEASURED, _WARM = 12, 3
#: Seconds of training that must be left for a try: compiling takes tens of seconds.
_WORTH = 120.0
#: A gain below this share is noise.
_GAIN = 0.03


class Compiling:
    """The callable that runs a model: as it is, or compiled.

    With ``auto`` the first steps are timed as they are, the next ones compiled, and the faster way is kept. The choice
    is part of a checkpoint, for the two ways differ in rounding.
    """

    def __init__(
        self,
        net: Callable[..., Any],
        mode: bool | Literal["auto"],
        device: torch.device,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        """``tell`` hears, in a sentence, what was measured and chosen."""
        self._plain, self._device, self._tell = net, device, tell
        self._compiled: Callable[..., Any] | None = None
        self._seconds: dict[bool, list[float]] = {False: [], True: []}
        self._first_done = self._began_to_compile = 0.0
        self._deciding = mode == "auto"
        if mode is True:
            self.use(True)

    @property
    def forward(self) -> Callable[..., Any]:
        """What is called with the inputs of a batch."""
        return self._plain if self._compiled is None else self._compiled

    @property
    def chosen(self) -> bool | None:
        """Whether the model is compiled; None while that is not decided."""
        return None if self._deciding else self._compiled is not None

    def use(self, compiled: bool) -> None:
        """Compile from here on, or don't."""
        self._deciding = False
        self._set(compiled)

    def _set(self, compiled: bool) -> None:
        self._compiled = torch.compile(self._plain) if compiled else None

    @contextmanager
    def measuring(self, done: float) -> Iterator[None]:
        """Around a step, ``done`` (0..1) of the training being behind it."""
        if not self._deciding:
            yield
            return
        self._wait()
        began = time.perf_counter()
        if not self._seconds[False]:
            self._first_done = done
        yield
        self._wait()
        self._measured(time.perf_counter() - began, done)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _measured(self, seconds: float, done: float) -> None:
        compiled = self._compiled is not None
        measured = self._seconds[compiled]
        measured.append(seconds)
        if len(measured) < _WARM + _MEASURED:
            return
        if not compiled:
            self._try(done)
            return
        before, after = (statistics.median(self._seconds[way][_WARM:]) for way in (False, True))
        faster = distributed.share(after < before * (1 - _GAIN))
        took = time.perf_counter() - self._began_to_compile
        self.use(faster)
        self._tell(
            f"torch.compile: {after * 1e3:.3g} ms a step instead of {before * 1e3:.3g} (tried in {took:.0f} s): "
            f"{'kept' if faster else 'not kept'}."
        )

    def _try(self, done: float) -> None:
        """Compile, unless too little is left to train."""
        step = statistics.median(self._seconds[False][_WARM:])
        each = max(done - self._first_done, 1e-12) / (_WARM + _MEASURED - 1)
        left = distributed.share(step * (1 - done) / each)
        if left < _WORTH:
            self._deciding = False
            self._tell(f"torch.compile is not tried: about {left:.0f} s of training are left, too few to pay for it.")
            return
        self._began_to_compile = time.perf_counter()
        self._set(True)
