"""Functions of the user's own that are called with each event of a run (trainer.callbacks)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torchdeck.core import usercode
from torchdeck.core.errors import UserCodeError, UserError
from torchdeck.core.events import Event, Subscription
from torchdeck.core.session.recorder import Listener


def load_callbacks(references: Sequence[str]) -> list[tuple[str, Callable[[Event], Any]]]:
    """The functions by the references to them; a class is instantiated, and its instances are called.

    Raises UserError for what can't be called.
    """
    found = []
    for reference in references:
        target = usercode.load(reference, "trainer.callbacks")
        if isinstance(target, type):
            target = usercode.call(target, {}, "trainer.callbacks")
        if not callable(target):
            raise UserError(
                f"trainer.callbacks: {reference!r} is a {type(target).__name__}, which can't be called; a function of "
                "an event is needed.",
                field="trainer.callbacks",
            )
        found.append((reference, usercode.with_writer(target)))
    return found


class Callbacks(Listener):
    """Calls the user's functions in a thread of its own, each event in order: a slow one does not slow the training,
    but what it does may come after later steps. One that raises ends the run."""

    def __init__(
        self,
        callbacks: Sequence[tuple[str, Callable[[Event], Any]]],
        subscription: Subscription,
        on_failure: Callable[[str], None],
    ) -> None:
        super().__init__("callbacks", subscription, on_failure)
        self._callbacks = callbacks

    def handle(self, event: Event) -> None:
        """Hand an event to each."""
        for reference, function in self._callbacks:
            try:
                with usercode.user_errors():
                    function(event)
            except UserCodeError as error:
                self._on_failure(f"trainer.callbacks: {reference!r} raised {error}")
                self._callbacks = []
                return
