"""Samplers and pruners of Optuna 5, with their parameters and defaults; a test holds them against Optuna.

Left out: parameters that take a function or an object, and those that Optuna has deprecated. The seed of a sampler is
``search.seed``.
"""

from __future__ import annotations

from torchdeck.core.catalog.entries import Entry, Param

_STARTUP = Param("n_startup_trials", "int", 10, "random trials before it begins", low=0)
_POPULATION = Param("population_size", "int", 50, "trials of a generation", low=2)
_CROSSOVER = (
    Param(
        "mutation_prob", "float", None, "chance that a parameter mutates; default: one over their number", low=0, high=1
    ),
    Param("crossover_prob", "float", 0.9, "chance of a crossover", low=0, high=1),
    Param("swapping_prob", "float", 0.5, "chance that parents swap a parameter", low=0, high=1),
)


def _sampler(name: str, cls: str, summary: str, *params: Param, several: bool = True, fixed: bool = False) -> Entry:
    """``several``: whether it takes several objectives; ``fixed``: all workers need the same seed."""
    return Entry("sampler", name, summary, params, {"class": cls, "several": several, "fixed": fixed})


SAMPLERS: tuple[Entry, ...] = (
    _sampler(
        "TPE",
        "TPESampler",
        "tree-structured Parzen estimator (Bergstra et al. 2011)",
        _STARTUP,
        Param("n_ei_candidates", "int", 24, "candidates for each parameter", low=1),
        Param("multivariate", "bool", None, "model parameters together; default: Optuna decides"),
        Param("group", "bool", False, "with multivariate: parameters that occur together in a group"),
        Param("constant_liar", "bool", True, "count running trials as bad, so that workers spread out"),
    ),
    _sampler("random", "RandomSampler", "independent random values"),
    _sampler("grid", "GridSampler", "every combination of choices and steps, in random order", fixed=True),
    _sampler(
        "CMA-ES",
        "CmaEsSampler",
        "covariance matrix adaptation (Hansen 2016); numbers only, one objective",
        Param("n_startup_trials", "int", 1, "random trials before it begins", low=0),
        Param("sigma0", "float", None, "first standard deviation, as a share of the range; default: a sixth", low=1e-9),
        Param("popsize", "int", None, "trials of a generation; default: from the number of parameters", low=2),
        Param("consider_pruned_trials", "bool", False, "learn from pruned trials, too"),
        Param("use_separable_cma", "bool", False, "a diagonal covariance matrix"),
        Param("with_margin", "bool", False, "CMA-ES with margin (Hamano et al. 2022), for whole numbers and steps"),
        Param("lr_adapt", "bool", False, "adapt its learning rate (Nomura et al. 2023)"),
        several=False,
    ),
    _sampler(
        "GP",
        "GPSampler",
        "Gaussian process with expected improvement; for few, costly trials",
        _STARTUP,
        Param("deterministic_objective", "bool", False, "the same parameters always give the same value"),
    ),
    _sampler(
        "QMC",
        "QMCSampler",
        "a quasi-random sequence: random search that leaves no gaps",
        Param("qmc_type", "str", "sobol", "the sequence", choices=("sobol", "halton")),
        Param("scramble", "bool", False, "randomise the sequence"),
        fixed=True,
    ),
    _sampler(
        "NSGA-II",
        "NSGAIISampler",
        "genetic algorithm for several objectives (Deb et al. 2002)",
        _POPULATION,
        *_CROSSOVER,
    ),
    _sampler(
        "NSGA-III",
        "NSGAIIISampler",
        "genetic algorithm for many objectives (Deb and Jain 2014)",
        _POPULATION,
        *_CROSSOVER,
        Param("dividing_parameter", "int", 3, "density of the reference points", low=1),
    ),
    _sampler(
        "brute-force",
        "BruteForceSampler",
        "every combination, also where parameters depend on others",
        Param("avoid_premature_stop", "bool", False, "with several workers: don't end while others run"),
    ),
)

_WARMUP = Param("n_warmup_steps", "int", 0, "epochs (or steps) of a trial before it may be pruned", low=0)
_BEFORE = Param("n_startup_trials", "int", 5, "trials that must be complete before any is pruned", low=0)
_INTERVAL = Param("interval_steps", "int", 1, "epochs (or steps) between two judgements", low=1)
_LEAST = Param("n_min_trials", "int", 1, "values of other trials at a step that are needed to judge", low=1)
_BOOTSTRAP = Param("bootstrap_count", "int", 0, "trials that a rung waits for", low=0)


def _pruner(name: str, cls: str, summary: str, *params: Param) -> Entry:
    return Entry("pruner", name, summary, params, {"class": cls})


PRUNERS: tuple[Entry, ...] = (
    Entry("pruner", "auto", "median after a fifth of the epochs; none with several objectives"),
    _pruner("none", "NopPruner", "every trial runs to its end"),
    _pruner(
        "median",
        "MedianPruner",
        "worse than the median of the others at the same epoch",
        _BEFORE,
        _WARMUP,
        _INTERVAL,
        _LEAST,
    ),
    _pruner(
        "percentile",
        "PercentilePruner",
        "not among the best percent of the others at the same epoch",
        Param("percentile", "float", 25.0, "percent that are kept", low=0, high=100),
        _BEFORE,
        _WARMUP,
        _INTERVAL,
        _LEAST,
    ),
    _pruner(
        "halving",
        "SuccessiveHalvingPruner",
        "asynchronous successive halving (Li et al. 2018)",
        Param("min_resource", "int", None, "epochs (or steps) of the first rung; default: estimated", low=1),
        Param("reduction_factor", "int", 4, "one in so many passes a rung", low=2),
        Param("min_early_stopping_rate", "int", 0, "rungs that are left out", low=0),
        _BOOTSTRAP,
    ),
    _pruner(
        "hyperband",
        "HyperbandPruner",
        "several halvings, from greedy to patient (Li et al. 2018)",
        Param("min_resource", "int", 1, "epochs (or steps) of the first rung", low=1),
        Param("max_resource", "int", None, "epochs (or steps) of a whole trial; default: the experiment's", low=1),
        Param("reduction_factor", "int", 3, "one in so many passes a rung", low=2),
        _BOOTSTRAP,
    ),
    _pruner(
        "patient",
        "PatientPruner",
        "no better for so many epochs; with 'inner' only where that pruner agrees",
        Param("patience", "int", 3, "epochs (or steps) without improvement", low=0),
        Param("min_delta", "float", 0.0, "what counts as an improvement", low=0),
        Param(
            "inner", "str", None, "a pruner that must agree", choices=("median", "percentile", "halving", "hyperband")
        ),
    ),
    _pruner(
        "threshold",
        "ThresholdPruner",
        "beyond a bound",
        Param("lower", "float", None, "least value that goes on"),
        Param("upper", "float", None, "greatest value that goes on"),
        _WARMUP,
        _INTERVAL,
    ),
    _pruner(
        "wilcoxon",
        "WilcoxonPruner",
        "signed-rank test against the best trial; for repeated measurements, as in cross-validation",
        Param("p_threshold", "float", 0.1, "p-value below which a trial is given up", low=0, high=1),
        Param("n_startup_steps", "int", 2, "measurements before it may be pruned", low=0),
    ),
)
