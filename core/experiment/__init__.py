"""An experiment: its description, as TOML, as a form, as flat hyperparameters, and the space that a search draws
from."""
