"""Search: Optuna studies over the fields of an experiment."""
