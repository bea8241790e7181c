"""The user's own code is taken without glue, and its errors are told in the user's own lines."""

from __future__ import annotations

import importlib
import re
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from conftest import ROOT, Train

from torchdeck.core import usercode
from torchdeck.core.errors import UserCodeError, UserError
from torchdeck.core.events import EpochEnded
from torchdeck.core.experiment import toml
from torchdeck.core.runs.folder import located
from torchdeck.core.usercode.imports import clash
from torchdeck.tui.__main__ import main

#: A file of our own in a traceback.
OURS = re.compile(f"{re.escape(str(ROOT))}/(src|core|tui)/")


def write(path: Path, code: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(code))
    return path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a top-level ``core`` and ``tui`` of its own, relative imports and submodules."""
    root = tmp_path / "project"
    write(root / "core" / "__init__.py", "NAME = 'theirs'\n")
    write(
        root / "core" / "blocks.py",
        "from torch import nn\nfrom . import NAME\n\ndef block(a, b):\n    return nn.Linear(a, b)\n",
    )
    write(root / "tui.py", "import core.blocks\nimport core\n\nWHO = core.NAME + core.blocks.NAME\n")
    write(root / "helpers" / "__init__.py", "")
    write(root / "helpers" / "deep.py", "VALUE = 3\n")
    write(
        root / "net.py",
        """\
        import torch
        from torch import nn
        import tui
        from core.blocks import block
        from core import blocks as b
        from helpers import deep

        class MyNet(nn.Module):
            def __init__(self, num_classes, width=8):
                super().__init__()
                self.width = width
                self.net = nn.Sequential(nn.Flatten(), block(64, width), nn.ReLU(), b.block(width, num_classes))
                assert tui.WHO == "theirstheirs" and deep.VALUE == 3

            def forward(self, x):
                return self.net(x)
        """,
    )
    return root


def test_a_project_with_its_own_core_and_tui_works(project: Path, train: Train) -> None:
    run = train(f"model.name={project}/net.py:MyNet", "model.args.width=16", "trainer.epochs=1")
    assert run.status == "done", run.failure
    assert run.session.built.trainer.net.width == 16
    import torchdeck.core

    assert Path(torchdeck.core.__file__).resolve() == ROOT / "core" / "__init__.py"


def test_modules_are_found_from_the_current_folder_and_among_the_installed(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    assert usercode.load("net:MyNet", "model.name")(num_classes=3).width == 8
    assert usercode.load("core.blocks:block", "model.name").__module__ == "core.blocks"
    assert usercode.load("torch.nn:Linear", "model.name") is torch.nn.Linear
    assert usercode.load("torch:nn.Linear", "model.name") is torch.nn.Linear


def test_files_in_packages_and_with_odd_names(tmp_path: Path) -> None:
    write(tmp_path / "pkg" / "__init__.py", "")
    write(tmp_path / "pkg" / "base.py", "X = 7\n")
    write(tmp_path / "pkg" / "net.py", "from .base import X\nfrom pkg import base\n\ndef get(): return X + base.X\n")
    write(tmp_path / "my-net.py", "import helper_beside\n\ndef get(): return helper_beside.Y\n")
    write(tmp_path / "helper_beside.py", "Y = 5\n")
    assert usercode.load(f"{tmp_path}/pkg/net.py:get", "x")() == 14
    assert usercode.load(f"{tmp_path}/my-net.py:get", "x")() == 5


@pytest.mark.parametrize("shared", ["shared.py", "shared/__init__.py", "shared/deep.py"])
def test_a_second_project_with_modules_of_the_same_name_is_refused(tmp_path: Path, shared: str) -> None:
    """Python has one module of a name in a process: the second project's code would be given the first one's."""
    module = shared.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    for number in (1, 2):
        write(tmp_path / str(number) / shared, f"N = {number}\n")
        write(tmp_path / str(number) / f"net{number}.py", f"from {module} import N\n")
    write(tmp_path / "3" / "other.py", "N = 3\n")
    assert usercode.load(f"{tmp_path}/1/net1.py:N", "x") == 1
    with pytest.raises(UserError, match=f"another module '{module}' is loaded, from '{tmp_path}/1/{shared}'"):
        usercode.load(f"{tmp_path}/2/net2.py:N", "x")
    assert usercode.load(f"{tmp_path}/3/other.py:N", "x") == 3
    assert usercode.load(f"{tmp_path}/1/net1.py:N", "x") == 1


@pytest.mark.parametrize("name", ["random.py", "time.py", "rich.py", "net.v2.py"])
def test_a_file_that_python_can_not_import_by_its_name_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, "N = 1\n")
    import rich  # noqa: F401

    with pytest.raises(UserError, match="rename"):
        usercode.load(f"{tmp_path}/{name}:N", "model.name")


def test_imports_from_the_current_folder_and_from_folders_without_init(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Python itself finds when it runs a script from the project's folder is found."""
    write(tmp_path / "base" / "__init__.py", "B = 1\n")
    write(tmp_path / "layers" / "block.py", "L = 2\n")
    write(tmp_path / "core" / "own.py", "O = 4\n")
    write(tmp_path / "json" / "mine.py", "")
    write(tmp_path / "torch" / "mine.py", "")
    write(
        tmp_path / "models" / "deep" / "net.py",
        """\
        import json, torch
        import layers.block
        from base import B
        from core import own
        from layers import block

        TOTAL = B + block.L + layers.block.L + own.O
        WHOLE = hasattr(json, "loads") and hasattr(torch, "Tensor")
        """,
    )
    write(tmp_path / "beside.py", "from models.deep.net import TOTAL, WHOLE\n")
    monkeypatch.chdir(tmp_path)
    for reference in ("models/deep/net.py", "models.deep.net", "beside.py", "beside"):
        assert usercode.load(f"{reference}:TOTAL", "x") == 9, reference
        assert usercode.load(f"{reference}:WHOLE", "x") is True, reference
    elsewhere = write(
        tmp_path.parent / f"{tmp_path.name}-elsewhere" / "apart.py", "from base import B\nimport tomllib, rich\n"
    )
    write(tmp_path / "rich.py", "raise RuntimeError('of another project')\n")
    assert usercode.load(f"{elsewhere}:B", "x") == 1


@pytest.mark.parametrize(
    "body",
    [
        "import importlib\nNAME = importlib.import_module('zoo.small_model').NAME",
        "import sys\n__import__('zoo.small_model')\nNAME = sys.modules['zoo.small_model'].NAME",
        "exec('from zoo.small_model import NAME', globals())",
        "import pydoc\nNAME = pydoc.locate('zoo.small_model.NAME')",
        "import os, sys\nsys.path.insert(0, os.path.join(os.path.dirname(__file__), 'lib'))\nfrom in_lib import NAME",
        "import sys\nsys.path.append('..')\nfrom further_up import NAME",
        "from spaces.deep.inner import NAME",
    ],
    ids=["import_module", "__import__", "exec", "pydoc", "a folder in front", "the folder above", "namespace packages"],
)
def test_what_code_does_to_find_its_modules_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    project = tmp_path / "project"
    write(project / "zoo" / "__init__.py", "")
    for path in ("zoo/small_model.py", "lib/in_lib.py", "../further_up.py", "spaces/deep/inner.py"):
        write(project / path, "NAME = 'theirs'\n")
    write(project / "own.py", body)
    monkeypatch.chdir(project)
    assert usercode.load("own.py:NAME", "x") == "theirs"
    assert usercode.load("own:NAME", "x") == "theirs"


def test_one_project_is_not_refused_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules of equal names are refused only where the second one's may be imported."""
    write(tmp_path / "models" / "tools.py", "N = 'models'\n")
    write(tmp_path / "models" / "net.py", "from tools import N\n")
    write(tmp_path / "tools.py", "N = 'nobody uses it'\n")
    write(tmp_path / "lib" / "extras.py", "N = 'lib'\n")
    write(tmp_path / "extras.py", "N = 'nobody uses it'\n")
    write(tmp_path / "data.py", "import sys\nsys.path.insert(0, 'lib')\nfrom extras import N\n")
    write(tmp_path / "loss.py", "from extras import N\n")
    write(tmp_path / "late.py", "def f():\n    from tools import N\n    return N\n")
    write(tmp_path / "by_way.py", "import late\n")
    write(tmp_path / "unclear.py", "import importlib\ndef f(name): return importlib.import_module(name)\n")
    (tmp_path / "linked").symlink_to(tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    assert usercode.load("models/net.py:N", "x") == "models"
    assert usercode.load("linked/net.py:N", "x") == "models"
    assert usercode.load("data.py:N", "x") == "lib"
    assert usercode.load("loss.py:N", "x") == "lib"
    with pytest.raises(usercode.NameTaken, match="another module 'tools' is loaded"):
        usercode.load("models.net:N", "x")  # whose ``tools`` is the one in this folder
    (tmp_path / "models" / "net.py").touch()
    assert usercode.load("models/net.py:N", "x") == "models"
    for file in ("late.py", "by_way.py", "unclear.py"):
        with pytest.raises(usercode.NameTaken, match="another module 'tools' is loaded"):
            usercode.load(f"{file}:f", "x")


def test_folders_above_a_file_hide_nothing_of_pythons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "mailbox" not in sys.modules
    write(tmp_path / "mailbox.py", "raise RuntimeError('a script of the project')\n")
    write(tmp_path / "parts" / "net.py", "import mailbox, layers_above\nN = mailbox.Mailbox\n")
    write(tmp_path / "layers_above.py", "")
    monkeypatch.chdir(tmp_path)
    assert usercode.load("parts/net.py:N", "x").__module__ == "mailbox"


def test_what_a_runs_code_imports_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "project" / "layers_of" / "block.py", "N = 4\n")
    write(tmp_path / "project" / "nets_in" / "net.py", "from layers_of.block import N\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    experiment = toml.load("digits", ["model.name=nets_in/net.py:N"])
    found = located(experiment, tmp_path / "project", lambda note: None)
    assert usercode.load(found.model.name, "model.name") == 4


def test_a_module_that_is_missing_is_the_one_that_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "nets_of" / "__init__.py", "import nets\n")  # the beginning of its own name
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserCodeError, match="No module named 'nets'"):
        usercode.load("nets_of.small:Net", "model.name")


def test_a_search_of_two_code_bases_with_equal_names_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its trials share a process: the second code base would be given the modules of the first."""
    for number in (1, 2):
        write(tmp_path / str(number) / "shared.py", f"N = {number}\n")
        write(tmp_path / str(number) / f"net{number}.py", "from shared import N\n")
        write(tmp_path / str(number) / f"plain{number}.py", "N = 3\n")
    monkeypatch.chdir(tmp_path)
    space = "search.space={'model.name' = ['1/net1.py:N', '2/net2.py:N']}"
    assert main(["--batch", "digits", "--trials", "2", "--set", space]) == 2
    told = capsys.readouterr().err
    assert told.startswith(
        "torchdeck: search.space.model.name: '1/net1.py:N' and '2/net2.py:N' can't be used in one process"
    )
    assert "each has a module 'shared' of its own" in told and told.count("\n") == 1
    assert not list(tmp_path.glob("runs/*"))
    assert clash(["1/plain1.py:N", "2/net2.py:N", "1/net1.py:other", "mlp", "torch.nn:Linear"]) is not None
    assert clash(["1/plain1.py:N", "2/net2.py:N", "2/plain2.py:N", "mlp", "torch.nn:Linear"]) is None


def test_users_code_sees_a_command_line_of_its_own(
    tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At import and when called, in this process and in DataLoader workers."""
    ours = ["torchdeck", "--batch", "--set", "x=1"]
    monkeypatch.setattr("sys.argv", ours)
    file = write(
        tmp_path / "own.py",
        """\
        import argparse, sys
        import torch
        from torch.utils.data import Dataset

        args = argparse.ArgumentParser().parse_args()
        SEEN = list(sys.argv)

        class Data(Dataset):
            def __init__(self):
                self.again = argparse.ArgumentParser().parse_args()
                self.targets = torch.arange(40) % 2
            def __len__(self): return 40
            def __getitem__(self, i): return torch.randn(4), self.targets[i]
        """,
    )
    assert usercode.load(f"{file}:SEEN", "x") == [str(file)]
    run = train(f"data.name={file}:Data", "model.name=mlp", "trainer.epochs=1", "data.workers=1")
    assert run.status == "done", run.failure
    assert sys.argv is ours


@pytest.mark.parametrize(
    "body", ["p = argparse.ArgumentParser(); p.add_argument('data'); p.parse_args()", "sys.exit('no data')", "exit(0)"]
)
def test_code_that_exits_is_one_sentence(tmp_path: Path, body: str) -> None:
    file = write(tmp_path / "ends.py", f"import argparse, sys\n{body}\n")
    with pytest.raises(UserCodeError) as caught:
        usercode.load(f"{file}:Net", "model.name")
    assert "\n" not in str(caught.value)
    assert f'"{file}", line 2' in str(caught.value)


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("missing.py:Net", "there is no file"),
        ("no_such_package.mod:Net", "there is no module"),
        ("{0}/net.py:MyNest", "did you mean 'MyNet'?"),
        ("{0}/net.py:", "is not of the form"),
    ],
)
def test_wrong_references(project: Path, reference: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        usercode.load(reference.format(project), "model.name")
    assert sentence in str(caught.value)


def test_errors_are_told_from_the_users_line_on(tmp_path: Path) -> None:
    file = write(
        tmp_path / "bad.py", "import json\n\ndef f():\n    return json.loads('{')\n\nraise ValueError('no luck')\n"
    )
    with pytest.raises(UserCodeError) as caught:
        usercode.load(f"{file}:f", "model.name")
    told = str(caught.value)
    assert told.startswith(f'ValueError: no luck in "{file}", line 6')
    assert "usercode.py" not in told
    assert "importlib" not in told
    syntax = write(tmp_path / "syntax.py", "def f(:\n")
    with pytest.raises(UserCodeError, match=r'syntax.py", line 1'):
        usercode.load(f"{syntax}:f", "model.name")
    absent = write(tmp_path / "absent.py", "import no_such_thing\n")
    with pytest.raises(UserCodeError, match=r"No module named 'no_such_thing' in .*absent.py\", line 1"):
        usercode.load(f"{absent}:f", "model.name")


def test_of_the_frames_only_the_users_are_told(tmp_path: Path) -> None:
    file = write(
        tmp_path / "deep.py",
        "from torch import nn, zeros\n\ndef inner(x): return nn.Sequential(nn.Linear(2, 3))(x)\n\ninner(zeros(1, 5))\n",
    )
    with pytest.raises(UserCodeError) as caught:
        usercode.load(f"{file}:inner", "model.name")
    head, *frames = str(caught.value).splitlines()
    assert head.endswith(f'in "{file}", line 3')
    assert [line for line in frames if line.startswith("  File")] == [
        f'  File "{file}", line 5, in <module>',
        f'  File "{file}", line 3, in inner',
    ]


NET = """\
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, wrong=False):
        super().__init__()
        self.linear = nn.Linear(64, num_classes)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return BODY
"""


@pytest.mark.parametrize(
    ("body", "sentences", "user"),
    [
        ("self.linear(x)", ("raised in forward", "RuntimeError", 'net.py", line 12'), True),
        ("x.flatten(1)", ("returned the shape [2, 64]", "[2, 10] is needed"), None),
        ("self.linear(x.flatten(1))[:, :4]", ("has 4 outputs, but 'digits' has 10 classes",), True),
        ("[1]", ("returned a list; a tensor [batch, outputs] is needed",), True),
        ("self.linear(x.flatten(1)) if self.calls < 20 else 1 / 0", ("ZeroDivisionError", 'net.py", line 12'), False),
    ],
    ids=["raises", "too many outputs", "too few outputs", "no tensor", "raises later"],
)
def test_models_that_go_wrong(train: Train, tmp_path: Path, body: str, sentences, user: bool | None) -> None:
    file = write(tmp_path / "net.py", NET.replace("BODY", body))
    run = train(f"model.name={file}:Net", "trainer.epochs=1", "tracking.graph=false")
    if user is None:
        return  # more outputs than classes is allowed
    assert run.failure is not None
    for sentence in sentences:
        assert sentence in run.failure.message
    assert not OURS.search(run.failure.message)
    assert run.failure.user is user
    assert (run.session.run is None) is user


def test_wrong_arguments_of_the_users_class(train: Train, tmp_path: Path) -> None:
    file = write(tmp_path / "net.py", NET.replace("BODY", "x"))
    run = train(f"model.name={file}:Net", "model.args.wong=1")
    assert run.failure and "did you mean 'wrong'?" in run.failure.message
    write(file, NET.replace("BODY", "x").replace("num_classes,", "num_classes, depth,"))
    other = file.rename(tmp_path / "net2.py")
    run = train(f"model.name={other}:Net")
    assert run.failure and "model.args.depth is missing: Net requires it" in run.failure.message


def test_the_examples_train(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    run = train(source="examples/own_everything.toml")
    assert run.status == "done", run.failure
    last = run.of(EpochEnded)[-1]
    assert last.val["accuracy"] > 0.9
    assert 0 < last.val["confidence"] <= 1
    assert run.session.built.data.info.class_names == ("first", "second", "third")
    lazy = train("trainer.epochs=1", "model.name=examples/my_net.py:tiny_net", source="digits")
    assert lazy.status == "done", lazy.failure


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.toml")), ids=lambda p: p.name)
def test_example_experiments_are_valid(file: Path) -> None:
    toml.load(str(file))


def test_datasets_reach_workers_and_their_errors_come_back(train: Train, tmp_path: Path) -> None:
    write(tmp_path / "names.py", "OFFSET = 1\n\nclass Flip:\n    def __call__(self, x):\n        return -x\n")
    file = write(
        tmp_path / "data.py",
        """\
        import torch
        from names import OFFSET, Flip

        class Numbers:
            def __init__(self, count=64, bad=-1):
                self.count, self.bad, self.flip = count, bad, Flip()
                self.targets = [i % 2 for i in range(count)]
            def __len__(self):
                return self.count
            def __getitem__(self, i):
                if i == self.bad:
                    raise RuntimeError("cannot read this one")
                return self.flip(torch.tensor([float(i % 2), OFFSET])), i % 2
        """,
    )
    options = (f"data.name={file}:Numbers", "data.workers=2", "trainer.epochs=2", "trainer.batch_size=8")
    good = train(*options)
    assert good.status == "done", good.failure
    same = train(*options[:1], "data.workers=0", *options[2:])
    assert [e.train for e in good.of(EpochEnded)] == [e.train for e in same.of(EpochEnded)]
    bad = train(*options, "data.args.bad=60", "data.test_share=0", "trainer.validation_share=0")
    assert bad.failure
    assert 'RuntimeError: cannot read this one in "' in bad.failure.message
    assert 'data.py", line 12' in bad.failure.message
    assert not OURS.search(bad.failure.message)


HALF = """\
from ignite.metrics import Metric

class Half(Metric):
    def reset(self):
        self.n = 0

    def update(self, output):
        self.n += len(output[1])

    def compute(self):
        return self.n / 2
"""


def test_ignite_metrics_and_loss_modules(train: Train, tmp_path: Path) -> None:
    write(tmp_path / "m.py", "from torch import nn\n\nclass L(nn.CrossEntropyLoss):\n    pass\n")
    write(tmp_path / "half.py", HALF)
    run = train(
        f"loss.name={tmp_path}/m.py:L",
        "loss.args.label_smoothing=0.1",
        f"tracking.metrics=['{tmp_path}/half.py:Half']",
        "trainer.epochs=1",
    )
    assert run.status == "done", run.failure
    assert run.of(EpochEnded)[0].val["Half"] == 72


def test_modules_imported_by_name_are_those_of_import_statements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As repositories choose a model: ``importlib.import_module("models." + name)``."""
    (tmp_path / "zoo_nets").mkdir()
    (tmp_path / "zoo_nets" / "small.py").write_text("from zoo_nets import base\n\nclass Small(base.Base): ...\n")
    (tmp_path / "zoo_nets" / "base.py").write_text("class Base: ...\n")
    (tmp_path / "zoo_nets" / "__init__.py").write_text(
        "import importlib\n\ndef create(kind): return getattr(importlib.import_module('zoo_nets.' + kind), "
        "kind.title())()\n"
    )
    (tmp_path / "train.py").write_text(
        "import importlib\nimport zoo_nets.small\n\n"
        "def create(): return zoo_nets.create('small')\n"
        "def same(): return type(create()) is zoo_nets.small.Small\n"
        "def gone(): importlib.import_module('zoo_nets.large')\n"
    )
    monkeypatch.chdir(tmp_path)
    made = usercode.load("zoo_nets:create", "model.name")("small")
    assert type(made).__name__ == "Small"
    assert usercode.load("train.py:same", "model.name")()
    with pytest.raises(ModuleNotFoundError, match=r"zoo_nets\.large"):
        usercode.load("train.py:gone", "model.name")()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("zoo_nets_that_nobody_has")
    assert usercode.load("zoo_nets:create", "model.name").__globals__["__spec__"].name == "zoo_nets"
