"""The next token."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torchdeck.core.data.batches import Batch
from torchdeck.core.data.items import map_tensors, shapes
from torchdeck.core.data.seeds import derive
from torchdeck.core.data.vocabulary import bytes_of_tokens, decoded, encoded
from torchdeck.core.errors import UserError, first_line
from torchdeck.core.models.calls import logits_of, loss_of
from torchdeck.core.models.tokens import beyond_embedding, is_beyond
from torchdeck.core.tasks.base import Step, Task, floats
from torchdeck.core.tasks.generation import generate
from torchdeck.core.tasks.metrics import Metric
from torchdeck.core.tasks.tokens import classes_last, tokens_in

#: A loss of the model's own is the cross-entropy of its logits if it is as near as that.
_NEAR = 1e-4


class NextToken(Metric):
    """Perplexity, accuracy and, where the bytes that tokens stand for are known, bits per byte, over all tokens of a
    set that count. Perplexity is the exponential of their mean negative log likelihood, and not a mean over batches."""

    def __init__(self, ignored: int, sizes: Tensor | None) -> None:
        """``sizes``: how many bytes each token stands for."""
        self._ignored, self._sizes = ignored, sizes
        self._sums: Tensor | None = None

    def update(self, out: Any, y: Any) -> None:
        """Take logits and the tokens that they are of, in any order of ``classes_last``."""
        logits = classes_last(out, y)
        assert logits is not None
        counted = y != self._ignored
        logits, y = logits[counted], y[counted]
        exact = torch.float32 if y.device.type == "mps" else torch.float64
        surprise = F.cross_entropy(logits.float(), y, reduction="none").to(exact).sum()
        right = (logits.argmax(-1) == y).sum().to(exact)
        size = self._sizes.to(y.device)[y].sum().to(exact) if self._sizes is not None else torch.zeros_like(right)
        sums = torch.stack([surprise, right, size, torch.full_like(right, len(y))])
        self._sums = sums if self._sums is None else self._sums + sums

    def compute(self) -> dict[str, float]:
        """The figures; NaN where no token counts."""
        if self._sums is None:
            return {}
        surprise, right, size, count = self._sums.tolist()
        found = {"perplexity": math.nan, "accuracy": math.nan}
        if count:
            found = {
                "perplexity": float(torch.tensor(surprise / count, dtype=torch.float64).exp()),
                "accuracy": right / count,
            }
        if self._sizes is not None:
            found["bits_per_byte"] = surprise / math.log(2) / size if size else math.nan
        return found


class LanguageTask(Task):
    """Logits [B, T, V] of the tokens that follow [B, T].

    The targets are the tokens that follow; or they are the inputs again, as Hugging Face's ``labels`` are, or there are
    none: then each token is the target of the one before it, and the last has none. A model that takes the targets
    gives its loss itself; whether it moves them by one of its own accord (Hugging Face's do, nanoGPT does not) is found
    out from its loss and its logits. Time may come first, where a collate function gives [T, B].
    """

    resizes = False

    def begin(self) -> None:
        """How the tokens and their targets lie is found out by the first batch."""
        self._ignored: int = self._args["ignore_index"]
        sizes = bytes_of_tokens(self._info.vocabulary)
        self._sizes = None if sizes is None else torch.tensor(sizes)
        #: Whether the model moves the targets that it is given, and whether that was found out.
        self._moves = self.caller.target == "labels" and self.loss is None
        self._settled = self.caller.target is None or self.loss is not None
        #: Tokens before the next one at most, and those that a text begins with where no prompt is given.
        self._context = 0
        self._begin: Tensor | None = None
        self.writes = self._args["sample_tokens"] > 0 and bool(self._info.vocabulary or self._info.codec)

    # --- a step ----------------------------------------------------------------------------------------------------

    def forward(self, net: Callable[..., Any], batch: Batch) -> Step:
        """Run the model on the tokens."""
        self._look(batch)
        if not self._settled:
            self._settle(net, batch)
        x, given, targets = self._arranged(batch)
        raw = self._called(net, x, given)
        found = loss_of(raw) if self.loss is None else None
        outputs = floats(self.outputs(raw))
        self._second = isinstance(outputs, Tensor) and _classes_second(outputs, targets)
        if self.loss is None or not self.loss.own:
            outputs = self._of_targets(outputs, given, targets)
        if found is None:
            return Step(outputs, targets, batch.size)
        return Step(outputs, targets, batch.size, found[0].float(), found[1])

    def targets(self, batch: Batch) -> Any:
        """The tokens that the logits are of."""
        return self._arranged(batch)[2]

    def weight(self, batch: Batch) -> Tensor | int:
        """How many tokens count, unless a loss says otherwise."""
        if self.loss is not None:
            return super().weight(batch)
        return self._count(self.targets(batch), batch.size)

    def weight_of_step(self, step: Step) -> Tensor | int:
        """How many tokens count."""
        return self._count(step.targets, step.size)

    def _count(self, y: Any, size: int) -> Tensor | int:
        return (y != self._ignored).sum() if isinstance(y, Tensor) else size

    def _called(self, net: Callable[..., Any], x: Any, given: Any) -> Any:
        """The model's output.

        Raises UserError for a token beyond its vocabulary.
        """
        try:
            return self.caller(net, x, given)
        except IndexError as error:
            if is_beyond(error):
                raise beyond_embedding(self._net, x, self._experiment.model.name) from None
            raise

    def _arranged(self, batch: Batch) -> tuple[Any, Any, Any]:
        """The inputs, what a model that takes targets is given, and the targets of its logits."""
        x, y = batch.x, batch.y
        tokens = tokens_in(x)
        if tokens is None:
            return x, y, y
        time = _time_of(tokens, batch.size)
        if y is None or self._is_again(tokens, y):
            all_of_them = tokens if y is None else y
            following = all_of_them.narrow(time, 1, all_of_them.shape[time] - 1)
            if self._moves:
                return x, all_of_them, following
            return _cut(x, tokens.shape, time), following, following
        if self._moves and isinstance(y, Tensor) and y.shape == tokens.shape:
            # Moved by one already: what the model moves once more is moved back, which leaves the last ones out.
            nothing = torch.full_like(y.narrow(time, 0, 1), self._ignored)
            kept = y.narrow(time, 0, y.shape[time] - 1)
            return x, torch.cat([nothing, kept], time), kept
        return x, y, y

    def _is_again(self, tokens: Tensor, y: Any) -> bool:
        """Whether the targets are the inputs again; found out with the first batch."""
        if self._again is None:
            same = isinstance(y, Tensor) and y.shape == tokens.shape
            self._again = same and bool(((y == tokens) | (y == self._ignored)).all()) and bool((y == tokens).any())
        return self._again

    _again: bool | None = None

    def _of_targets(self, outputs: Any, given: Any, targets: Any) -> Any:
        """The logits of the targets, classes last: of a model that moves the targets it is given without the last."""
        whole = given if self._moves else targets
        logits = classes_last(outputs, whole, self._info.outputs)
        if logits is None or whole.shape == targets.shape:
            return outputs if logits is None else logits
        time = 1 if whole.shape[1] != targets.shape[1] else 0
        return logits.narrow(time, 0, targets.shape[time])

    def _settle(self, net: Callable[..., Any], batch: Batch) -> None:
        """Whether the model moves the targets that it is given: which of the two cross-entropies its loss is."""
        self._settled = True
        guess, self._moves = self._moves, False
        x, given, targets = self._arranged(batch)
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            raw = self._called(net, x, given)
        loss, logits, near = loss_of(raw), classes_last(logits_of(raw), targets, self._info.outputs), {}
        if loss is not None and logits is not None and targets.ndim == 2:
            time, length = self._time, targets.shape[self._time]
            for moves in (False, True):
                of = logits.narrow(time, 0, length - moves), targets.narrow(time, int(moves), length - moves)
                own = float(F.cross_entropy(of[0].flatten(0, 1).float(), of[1].flatten(), ignore_index=self._ignored))
                near[moves] = abs(own - float(loss[0])) / max(abs(own), 1e-9)
        self._moves = min(near, key=lambda moves: (near[moves], moves != guess), default=guess)
        if not near or near[self._moves] < _NEAR:
            self._tell_moved(batch)
            return
        self._moves = guess
        if type(self._net).__module__.startswith("transformers."):
            return  # which always move their labels
        self.measures = False
        self._warn(
            f"The loss that model.name = {self._experiment.model.name!r} gives is not the cross entropy of its logits "
            "and the targets, so that it can't be told which token they are of: perplexity and accuracy are not "
            "measured. Without the loss (another loss.name) they are."
        )

    def _tell_moved(self, batch: Batch) -> None:
        if self._moves and batch.y is not None and not self._again:
            self._warn(
                f"The targets are the tokens that follow, and model.name = {self._experiment.model.name!r} moves its "
                "targets by one itself: they are moved back for it, and the last token of each sequence does not count."
            )

    # --- figures ---------------------------------------------------------------------------------------------------

    def of_task(self, step: Step) -> list[Metric]:
        """Perplexity, accuracy, bits per byte."""
        return [NextToken(self._ignored, self._sizes)]

    def fits(self, step: Step) -> bool:
        """Whether the outputs are logits of the tokens."""
        return self.measures and classes_last(step.outputs, step.targets, self._info.outputs) is not None

    @property
    def figures(self) -> tuple[str, ...]:
        """The names of the figures of the task."""
        return tuple(name for name in super().figures if self._sizes is not None or name != "bits_per_byte")

    def check(self, step: Step) -> None:
        """The outputs must be logits of the tokens, unless the loss is not the catalog's; the prompt must be of tokens.

        Raises UserError where they are not.
        """
        name, y = self._experiment.model.name, step.targets
        if self.loss is not None and not self.loss.own and not self.fits(step):
            raise UserError(
                f"model.name = {name!r} returned {shapes(step.outputs)} for the targets {shapes(y)}, which are of "
                f"{self._info.outputs} tokens; logits of the shape "
                f"{[*y.shape, self._info.outputs] if isinstance(y, Tensor) else '[B, T, tokens]'} are needed.",
                field="model.name",
            )
        if self._args["prompt"]:
            self._first_tokens()
        super().check(step)

    # --- text ------------------------------------------------------------------------------------------------------

    def _look(self, batch: Batch) -> None:
        """Keep how long sequences are, and how the first begins."""
        if self._context:
            return
        tokens = tokens_in(self._arranged(batch)[0])
        if tokens is not None:
            self._time = _time_of(tokens, batch.size)
            self._context = tokens.shape[self._time]
            self._begin = tokens.select(1 - self._time, 0)[:1].detach().cpu()

    _time = 1
    _second = False

    def _first_tokens(self) -> Tensor | None:
        """What a text begins with: the prompt, a new line, or the first token of the data."""
        vocabulary, codec = self._info.vocabulary, self._info.codec
        prompt = self._args["prompt"]
        if prompt:
            return torch.tensor(encoded(prompt, vocabulary, codec), dtype=torch.int64)
        if "\n" in vocabulary:
            return torch.tensor(encoded("\n", vocabulary))
        return self._begin

    def text(self, net: Callable[..., Any], epoch: int) -> str | None:
        """What the model writes after an epoch, drawn from (seed, epoch) alone."""
        begin = self._first_tokens() if self.writes and self._context else None
        if begin is None or not len(begin):
            return None
        try:
            tokens = self._continued(net, begin, self._args["sample_tokens"], self._context, epoch)
            return decoded(tokens.tolist(), self._info.vocabulary, self._info.codec)
        except Exception as error:  # a model that takes sequences of one length only trains just as well
            self.writes = False
            self._warn(f"No text is written while training: {type(error).__name__}: {first_line(error)}")
            return None

    def continued(self, net: Callable[..., Any], text: str, where: str) -> str:
        """What the model writes after ``text``: as many tokens as while training (100 where none were written), drawn
        from the seed of the training alone; ``where`` the text stands, for messages.

        Raises UserError where the tokens of the text are not known.
        """
        info = self._info
        if not (info.vocabulary or info.codec) or len(info.input_shape) != 1:
            raise UserError(
                f"The checkpoint does not tell how text becomes the tokens of {info.name!r}: predict can't continue "
                f"{where}. A data set tells it by itos, a list with the text of each token, or stoi, a dict."
            )
        begin = torch.tensor(encoded(text, info.vocabulary, info.codec, where), dtype=torch.int64)
        if not len(begin):
            raise UserError(f"{where} is empty; give it a text to continue.")
        tokens = self._continued(net, begin, self._args["sample_tokens"] or 100, info.input_shape[0], 0)
        return decoded(tokens[len(begin) :].tolist(), info.vocabulary, info.codec)

    def _continued(self, net: Callable[..., Any], begin: Tensor, count: int, context: int, epoch: int) -> Tensor:
        return generate(
            lambda t: self._last_logits(net, t),
            begin.to(self._device),
            count,
            context,
            len(self._info.vocabulary) or self._info.outputs,
            self._args["temperature"],
            torch.Generator().manual_seed(derive(self._experiment.trainer.seed, "text", epoch)),
        )

    def _last_logits(self, net: Callable[..., Any], tokens: Tensor) -> Tensor:
        logits = logits_of(self.caller(net, tokens.unsqueeze(1 - self._time)))
        if logits.ndim == 2:  # [T * B, V], of one sequence
            return logits[-1]
        if self._second:
            return logits[0, :, -1]
        return logits.select(1 - self._time, 0)[-1]


def _time_of(tokens: Tensor, size: int) -> int:
    """Which dimension of the tokens is time: the second, unless the first can't be the samples'."""
    return 0 if tokens.ndim == 2 and tokens.shape[0] != size and tokens.shape[1] == size else 1


def _classes_second(logits: Tensor, y: Any) -> bool:
    """Whether logits are [B, V, T], and not [B, T, V] as well."""
    three = logits.ndim == 3 and isinstance(y, Tensor) and y.ndim == 2
    return three and logits.shape[:2] != y.shape and (logits.shape[0], logits.shape[2]) == tuple(y.shape)


def _cut(x: Any, shape: torch.Size, time: int) -> Any:
    """The inputs without the last token, and what belongs to each token (masks) likewise."""
    return map_tensors(lambda t: t.narrow(time, 0, shape[time] - 1) if t.shape[:2] == shape else t, x)
