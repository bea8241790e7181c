"""Models whose constructor takes a config, with stand-ins of the interfaces of nanoGPT, minGPT, Informer and
transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from torchdeck.core.data.source import DataInfo
from torchdeck.core.errors import UserError
from torchdeck.core.experiment.model_schema import Model
from torchdeck.core.models.build import build_model
from torchdeck.core.models.configured import pretrained

MODELS = """
import json
from dataclasses import dataclass
from pathlib import Path
import torch
from torch import nn

@dataclass
class GPTConfig:
    n_embd: int = 8
    vocab_size: int = None
    bias: bool = True

class GPT(nn.Module):  # nanoGPT: no annotation, the dataclass stands beside it
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=config.bias)

class CfgNode:
    def __init__(self, **values):
        self.__dict__.update(values)

class Mini(nn.Module):  # minGPT
    @staticmethod
    def get_default_config():
        return CfgNode(n_embd=4, vocab_size=None)

    def __init__(self, settings):
        super().__init__()
        self.head = nn.Linear(settings.n_embd, settings.vocab_size)

class Informer(nn.Module):  # an argparse.Namespace
    def __init__(self, configs):
        super().__init__()
        self.head = nn.Linear(configs.d_model, configs.c_out)

class Config:  # transformers
    def __init__(self, hidden_size=16, num_labels=2, **rest):
        self.hidden_size, self.num_labels = hidden_size, num_labels
        self.__dict__.update(rest)

class Bert(nn.Module):
    config_class = Config

    def __init__(self, config):
        super().__init__()
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    @classmethod
    def from_pretrained(cls, folder, local_files_only=False, **values):
        if not (Path(folder) / "config.json").exists():
            raise OSError(f"{folder} does not have a file named config.json")
        net = cls(Config(**json.loads((Path(folder) / "config.json").read_text()), **values))
        nn.init.constant_(net.classifier.weight, 0.25)
        return net

class Plain(nn.Module):
    def __init__(self, width):
        super().__init__()
"""

INFO = DataInfo("d", "language", (5,), 7, tuple("abcdefg"), integer=True)


def made(folder: Path, name: str, args: dict[str, object] | None = None, weights: str | None = None) -> torch.nn.Module:
    file = folder / "models_with_config.py"
    file.write_text(MODELS)
    return build_model(Model(name=f"{file}:{name}", args=args or {}, weights=weights), INFO)


def test_a_config_is_made_of_the_arguments(tmp_path: Path) -> None:
    gpt = made(tmp_path, "GPT", {"n_embd": 12, "bias": False})
    assert (gpt.head.in_features, gpt.head.out_features, gpt.head.bias) == (12, 7, None)
    mini = made(tmp_path, "Mini", {"n_embd": 6, "vocab_size": 9})
    assert (mini.head.in_features, mini.head.out_features) == (6, 9)
    assert made(tmp_path, "Mini").head.out_features == 7
    informer = made(tmp_path, "Informer", {"d_model": 3, "c_out": 2})
    assert (informer.head.in_features, informer.head.out_features) == (3, 2)
    bert = made(tmp_path, "Bert", {"hidden_size": 24})
    assert (bert.classifier.in_features, bert.classifier.out_features) == (24, 7)


def test_a_folder_of_transformers(tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    folder.mkdir()
    with pytest.raises(UserError, match="does not have a file named"):
        made(tmp_path, "Bert", weights=str(folder))
    (folder / "config.json").write_text('{"hidden_size": 10}')
    net = made(tmp_path, "Bert", {"num_labels": 3}, str(folder))
    assert net.classifier.weight.shape == (3, 10) and (net.classifier.weight == 0.25).all()


def test_code_in_a_folder_is_not_run_unasked(tmp_path: Path) -> None:
    class AutoModel:
        @classmethod
        def from_pretrained(cls, folder: str, **options: object) -> dict[str, object]:
            return options

    AutoModel.__module__ = "transformers.models.auto.modeling_auto"
    assert pretrained(AutoModel, str(tmp_path), {}) == {"local_files_only": True, "trust_remote_code": False}
    trusted = pretrained(AutoModel, str(tmp_path), {"trust_remote_code": True})
    assert trusted == {"local_files_only": True, "trust_remote_code": True}


@pytest.mark.parametrize(
    ("name", "args", "sentence"),
    [
        ("GPT", {"n_embed": 3}, "model.args.n_embed is not a value of GPTConfig; did you mean 'n_embd'"),
        ("Mini", {"n_embed": 3}, "not a value of CfgNode; did you mean 'n_embd'"),
        ("Bert", {"hidden": 3}, "not a value of Config; did you mean 'hidden_size'"),
        ("Informer", {"d_model": 3}, "no attribute 'c_out'"),
        ("Plain", {}, "model.args.width is missing"),
    ],
)
def test_wrong_configs_in_a_sentence(tmp_path: Path, name: str, args: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        made(tmp_path, name, args)
