"""Optimizers of torch.optim, with the parameters and defaults of torch 2.14; a test holds them against torch.

Learning rate and weight decay are fields of the experiment; here stand the defaults that they take when they are
not given (``facts``). SGD's default of 0.05 is ours: torch's 0.001 trains next to nothing. LBFGS (needs a closure),
SparseAdam (needs sparse gradients) are left out.
"""

from __future__ import annotations

from torchdeck.core.catalog.entries import Entry, Param

_EPS = Param("eps", "float", 1e-8, "added to the denominator", low=0)
_BETAS = Param("betas", "floats", (0.9, 0.999), "decay of the running averages", low=0, high=0.999999)
_AMSGRAD = Param("amsgrad", "bool", False, "the AMSGrad variant")
_DECOUPLED = Param("decoupled_weight_decay", "bool", False, "weight decay as in AdamW")


def _momentum(default: float = 0.0) -> Param:
    return Param("momentum", "float", default, "share of the last step that is kept", low=0, high=0.9999)


def _entry(
    name: str,
    summary: str,
    lr: float,
    *params: Param,
    weight_decay: float = 0.0,
    fused: bool = False,
    factory: str | None = None,
) -> Entry:
    """``factory``: the class, where it is not torch.optim's of that name."""
    facts = {"lr": lr, "weight_decay": weight_decay, "fused": fused}
    return Entry("optimizer", name, summary, params, facts, factory or f"torch.optim:{name}")


OPTIMIZERS: tuple[Entry, ...] = (
    _entry(
        "SGD",
        "stochastic gradient descent",
        0.05,
        _momentum(0.9),
        Param("dampening", "float", 0.0, "dampening of momentum", low=0, high=1),
        Param("nesterov", "bool", False, "Nesterov's momentum"),
        fused=True,
    ),
    _entry("Adam", "adaptive moments (Kingma and Ba 2014)", 1e-3, _BETAS, _EPS, _AMSGRAD, _DECOUPLED, fused=True),
    _entry(
        "AdamW",
        "Adam with decoupled weight decay (Loshchilov and Hutter 2017)",
        1e-3,
        _BETAS,
        _EPS,
        _AMSGRAD,
        weight_decay=0.01,
        fused=True,
    ),
    _entry(
        "NAdam",
        "Adam with Nesterov momentum (Dozat 2016)",
        2e-3,
        _BETAS,
        _EPS,
        Param("momentum_decay", "float", 4e-3, "decay of momentum", low=0),
        _DECOUPLED,
    ),
    _entry("RAdam", "rectified Adam (Liu et al. 2019)", 1e-3, _BETAS, _EPS, _DECOUPLED),
    _entry(
        "RMSprop",
        "gradient over its running root mean square",
        1e-2,
        Param("alpha", "float", 0.99, "smoothing of the squares", low=0, high=1),
        _EPS,
        _momentum(),
        Param("centered", "bool", False, "normalise by the variance"),
    ),
    _entry(
        "Adagrad",
        "steps shrink with the sum of squared gradients",
        1e-2,
        Param("lr_decay", "float", 0.0, "decay of the learning rate", low=0),
        Param("initial_accumulator_value", "float", 0.0, "start of the sum", low=0),
        Param("eps", "float", 1e-10, "added to the denominator", low=0),
        fused=True,
    ),
    _entry(
        "Adadelta",
        "no learning rate to tune (Zeiler 2012)",
        1.0,
        Param("rho", "float", 0.9, "smoothing of the squares", low=0, high=1),
        Param("eps", "float", 1e-6, "added to the denominator", low=0),
    ),
    _entry("Adamax", "Adam with the infinity norm", 2e-3, _BETAS, _EPS),
    _entry(
        "ASGD",
        "averaged SGD (Polyak and Juditsky 1992)",
        1e-2,
        Param("lambd", "float", 1e-4, "decay term", low=0),
        Param("alpha", "float", 0.75, "power of the step size", low=0),
        Param("t0", "float", 1e6, "step at which averaging starts", low=0),
    ),
    _entry(
        "Rprop",
        "resilient backpropagation; for full batches",
        1e-2,
        Param("etas", "floats", (0.5, 1.2), "factors down and up", low=0),
        Param("step_sizes", "floats", (1e-6, 50.0), "smallest and largest step", low=0),
    ),
    _entry(
        "Adafactor",
        "Adam with factored second moments (Shazeer and Stern 2018)",
        1e-2,
        Param("beta2_decay", "float", -0.8, "decay of beta2"),
        Param("d", "float", 1.0, "clipping threshold", low=0),
    ),
    _entry(
        "Muon",
        "orthogonalised momentum for the hidden matrices (Jordan 2024); AdamW for all else",
        2e-2,
        _momentum(0.95),
        Param("nesterov", "bool", True, "Nesterov's momentum"),
        Param("ns_steps", "int", 5, "Newton-Schulz iterations", low=1, high=20),
        Param("adamw_lr", "float", 1e-3, "learning rate of AdamW for what isn't a hidden matrix", low=1e-12),
        weight_decay=0.01,
    ),
)
