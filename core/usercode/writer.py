"""What user code writes into its run: figures, images, videos, texts and more, beside the run's own curves in
TensorBoard.

A model, data set, loss or metric of the user's that has a parameter ``writer`` is handed a ``RunWriter``: its methods
are those of ``torch.utils.tensorboard.SummaryWriter``, in the run's own file; without ``global_step`` the run's step
is meant.
"""

from __future__ import annotations

import contextlib
import contextvars
import io
from collections.abc import Callable, Iterator
from typing import Any

#: Calls that are kept until the run has its files.
_KEPT = 200


class RunWriter:
    """Writes into the run that is being trained; outside of one (evaluation, prediction, workers) it writes nothing."""

    def __init__(self) -> None:
        self._target: Any = None
        self._kept: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self._step: Callable[[], int] = lambda: 0
        self._muted = False
        #: Whether calls are kept for a run that begins.
        self.expecting = False

    def add_figure(self, tag: str, figure: Any, global_step: int | None = None, **more: Any) -> None:
        """A Matplotlib figure, which is closed."""
        self._write("add_figure", global_step, tag, figure, **more)

    def add_image(self, tag: str, img_tensor: Any, global_step: int | None = None, **more: Any) -> None:
        """An image [C, H, W], uint8 or floats from 0 to 1 (``dataformats`` says otherwise)."""
        self._write("add_image", global_step, tag, img_tensor, **more)

    def add_images(self, tag: str, img_tensor: Any, global_step: int | None = None, **more: Any) -> None:
        """Images [N, C, H, W] in a grid."""
        self._write("add_images", global_step, tag, img_tensor, **more)

    def add_video(self, tag: str, vid_tensor: Any, global_step: int | None = None, fps: float = 4, **more: Any) -> None:
        """Videos [N, T, C, H, W], side by side, or one [T, C, H, W]: uint8 or floats from 0 to 1."""
        self._write("add_video", global_step, tag, vid_tensor, fps=fps, **more)

    def add_text(self, tag: str, text_string: str, global_step: int | None = None, **more: Any) -> None:
        """A text (Markdown)."""
        self._write("add_text", global_step, tag, text_string, **more)

    def add_scalar(self, tag: str, scalar_value: Any, global_step: int | None = None, **more: Any) -> None:
        """A number."""
        self._write("add_scalar", global_step, tag, scalar_value, **more)

    def add_histogram(self, tag: str, values: Any, global_step: int | None = None, **more: Any) -> None:
        """How values are spread."""
        self._write("add_histogram", global_step, tag, values, **more)

    def _write(self, method: str, step: int | None, *args: Any, **more: Any) -> None:
        if self._muted:
            return
        more["global_step"] = self._step() if step is None else step
        if self._target is not None:
            _call(self._target, method, args, more)
        elif self.expecting and len(self._kept) < _KEPT:
            self._kept.append((method, args, more))

    def attach(self, target: Any, step: Callable[[], int]) -> None:
        """The run has begun: write to this SummaryWriter, at the step that is asked for, and what was kept before."""
        self._target, self._step = target, step
        kept, self._kept = self._kept, []
        for method, args, more in kept:
            _call(target, method, args, more)

    def detach(self) -> None:
        """The run is over, or keeps no TensorBoard file."""
        self._target, self._kept, self.expecting = None, [], False

    @contextlib.contextmanager
    def muted(self) -> Iterator[None]:
        """What is written meanwhile is dropped: it is only being tried."""
        before, self._muted = self._muted, True
        try:
            yield
        finally:
            self._muted = before

    def __reduce__(self) -> tuple[Any, ...]:
        return RunWriter, ()  # in a DataLoader worker, or in a file, it writes nothing

    def __deepcopy__(self, memo: Any) -> RunWriter:
        return self  # averaged weights are a copy of the model, not of the run


def _call(target: Any, method: str, args: tuple[Any, ...], more: dict[str, Any]) -> None:
    if method == "add_video":
        _add_video(target, *args, **more)
    else:
        getattr(target, method)(*args, **more)


def _add_video(target: Any, tag: str, video: Any, global_step: int, fps: float, walltime: float | None = None) -> None:
    """SummaryWriter.add_video needs moviepy, and one before its version 2; Pillow writes the same GIF.

    Raises ValueError for what is no video.
    """
    import numpy as np
    from PIL import Image
    from tensorboard.compat.proto.summary_pb2 import Summary
    from torch.utils.tensorboard._convert_np import make_np

    frames = np.asarray(make_np(video))
    frames = frames[None] if frames.ndim == 4 else frames
    if frames.ndim != 5 or frames.shape[2] not in (1, 3):
        raise ValueError(f"add_video: the shape {frames.shape} is not [N, T, C, H, W] with 1 or 3 channels")
    if frames.dtype != np.uint8:
        frames = np.clip(np.nan_to_num(frames) * 255, 0, 255).round().astype(np.uint8)
    beside = np.concatenate(list(frames.transpose(0, 1, 3, 4, 2)), axis=2)  # [T, H, N * W, C]
    pictures = [Image.fromarray(np.repeat(one, 3, axis=2) if one.shape[2] == 1 else one) for one in beside]
    gif = io.BytesIO()
    pictures[0].save(gif, "GIF", save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0)
    image = Summary.Image(
        height=beside.shape[1], width=beside.shape[2], colorspace=3, encoded_image_string=gif.getvalue()
    )
    summary = Summary(value=[Summary.Value(tag=tag, image=image)])
    target._get_file_writer().add_summary(summary, global_step, walltime)


_CURRENT: contextvars.ContextVar[RunWriter | None] = contextvars.ContextVar("writer", default=None)


def current() -> RunWriter:
    """The writer of the run that this thread trains; one that writes nothing where it trains none."""
    return _CURRENT.get() or RunWriter()


def use(writer: RunWriter) -> None:
    """From now on this thread trains with that writer."""
    writer.expecting = True
    _CURRENT.set(writer)
