"""``--dry-run``: the resolved experiment, the model's tree, memory and the data's shape."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from torchdeck.core.experiment import toml
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.text import printable, printable_lines
from torchdeck.tui.columns import size

if TYPE_CHECKING:
    from torchdeck.core.models.summary import Node


def show_plan(experiment: Experiment, base: str) -> int:
    """Print what would be trained; nothing is written. ``base``: what the experiment was made from."""
    from torchdeck.core.control import Control
    from torchdeck.core.data.items import shapes
    from torchdeck.core.models.summary import summarize
    from torchdeck.core.session.samples import shape_in_words
    from torchdeck.core.training.build import build_trainer

    notes: list[str] = []
    built = build_trainer(experiment, Control(), lambda event: None, notes.append)
    info = built.data.info
    console = Console(highlight=False, soft_wrap=True)
    console.print(printable(f"# from {base}"), markup=False)
    console.print(printable_lines(toml.dumps(experiment).rstrip()), markup=False)
    built.data.close()

    console.print()
    samples = ", ".join(f"{count:,} {part}" for part, count in info.samples.items())
    console.print(printable(f"data      {info.name} from {info.place}: {samples}"), markup=False)
    shown = shape_in_words(built.data.sample) or shapes(built.data.sample.first(1).x)
    console.print(f"input     {shown}  {info.task}, {info.outputs} outputs", markup=False)
    if info.class_names:
        names = ", ".join(info.class_names[:12]) + (", ..." if len(info.class_names) > 12 else "")
        console.print(printable(f"classes   {names}"), markup=False)
    console.print(f"device    {built.device}, {built.trainer.precision.name}", markup=False)
    console.print(
        f"training  {built.trainer.total_steps:,} steps, {built.trainer.epoch_length:,} an epoch", markup=False
    )

    for note in notes:
        console.print(f"note      {printable_lines(note)}", markup=False)

    summary = summarize(
        built.trainer.net,
        built.trainer.task.one_call(built.data.sample.first(1)),
        experiment.trainer.batch_size,
        experiment.optimizer.name,
        built.trainer.task.caller,
    )
    console.print()
    Console(highlight=False, width=max(console.width, 100)).print(module_table(summary.root))
    root = summary.root
    adds = f", {root.multiply_adds:,} multiply-adds a sample" if root.multiply_adds else ""
    console.print(f"{root.parameters:,} parameters ({root.trainable:,} trained){adds}")
    parts = {
        "weights": summary.weights,
        "gradients": summary.gradients,
        "optimizer": summary.optimizer,
        "activations": summary.activations,
    }
    listed = ", ".join(f"{name} {size(count)}" for name, count in parts.items())
    console.print(f"memory    about {size(summary.total)} at batch size {experiment.trainer.batch_size}: {listed}")
    return 0


def module_table(root: Node) -> Table:
    """The model's modules, nested, as a table."""
    table = Table(box=None, pad_edge=False)
    table.add_column("module", no_wrap=True)
    for column in ("output", "parameters", "share", "multiply-adds"):
        table.add_column(column, justify="right", no_wrap=True)
    for depth, node in root.walk():
        label = f"{'  ' * depth}{node.name + ': ' if node.name else ''}{node.type}"
        if node.parameters and not node.trainable:
            label += " (frozen)"
        shape = "x".join(map(str, node.output_shape)) or "-"
        share = f"{node.share:.1%}" if node.parameters else "-"
        table.add_row(Text(printable(label)), shape, f"{node.parameters:,}", share, f"{node.multiply_adds:,}")
    return table
