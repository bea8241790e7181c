"""Learning-rate schedules that can be picked by name."""

from __future__ import annotations

from torchdeck.core.catalog.entries import Entry, Param

_WARMUP = Param(
    "warmup", "float", 0.0, "share of all steps in which the learning rate rises from near zero", low=0, high=0.99
)
_GAMMA = Param("gamma", "float", 0.1, "the learning rate is multiplied by it", low=1e-9, high=1)

SCHEDULES: tuple[Entry, ...] = (
    Entry("schedule", "constant", "the same learning rate throughout", (_WARMUP,)),
    Entry(
        "schedule",
        "step",
        "multiply by gamma every step_size epochs",
        (Param("step_size", "int", 10, "epochs between two cuts", low=1), _GAMMA),
    ),
    Entry(
        "schedule",
        "multistep",
        "multiply by gamma at each milestone",
        (Param("milestones", "ints", (30, 60, 80), "epochs after which to cut", low=1), _GAMMA),
    ),
    Entry(
        "schedule",
        "exponential",
        "multiply by gamma after each epoch",
        (Param("gamma", "float", 0.95, "the learning rate is multiplied by it", low=1e-9, high=1),),
    ),
    Entry(
        "schedule",
        "cosine",
        "half a cosine down to final, after a warm-up",
        (_WARMUP, Param("final", "float", 0.0, "share of the learning rate left at the end", low=0, high=1)),
    ),
    Entry(
        "schedule",
        "linear",
        "a straight line up in the warm-up, then down to final",
        (_WARMUP, Param("final", "float", 0.0, "share of the learning rate left at the end", low=0, high=1)),
    ),
    Entry(
        "schedule",
        "one_cycle",
        "up to lr and down to nearly nothing, momentum the other way (Smith 2018)",
        (
            Param("warmup", "float", 0.3, "share of all steps in which it rises", low=0, high=0.99),
            Param("div", "float", 25.0, "it starts at lr / div", low=1),
            Param("final_div", "float", 1e4, "it ends at lr / div / final_div", low=1),
            Param("cycle_momentum", "bool", True, "move momentum between 0.95 and 0.85"),
        ),
    ),
    Entry(
        "schedule",
        "plateau",
        "multiply by gamma when the watched metric has not improved for patience epochs",
        (
            _GAMMA,
            Param("patience", "int", 5, "epochs without improvement that are borne", low=0),
            Param("min_factor", "float", 1e-4, "never below this share of lr", low=0, high=1),
        ),
    ),
)
