from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchdeck.core.errors import UserError
from torchdeck.core.usercode.scan import parameters_of, scan


def test_the_examples() -> None:
    kinds = {
        f.name: f.kind for name in ("my_net", "my_data", "my_loss") for f in scan(ROOT / "examples" / f"{name}.py")
    }
    assert kinds["MyNet"] == "model"
    assert kinds["Spirals"] == "data"
    assert kinds["focal_loss"] == "function"


def test_nothing_of_it_is_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    file = tmp_path / "evil.py"
    file.write_text(
        f"open({str(canary)!r}, 'w')\nimport torch.nn as nn\n"
        "class Base(nn.Module):\n    def __init__(self, width=[1, 2], *, scale=print('x'), name='n'): ...\n"
        "class Net(Base): ...\nclass _Hidden(nn.Module): ...\n"
        "class Rows:\n    def __getitem__(self, i): ...\n"
        "class Loop(Loop): ...\n"
    )
    found = {f.name: f for f in scan(file)}
    assert not canary.exists()
    assert found["Net"].kind == "model"
    assert found["Net"].parameters == {"width": [1, 2], "scale": None, "name": "n"}
    assert found["Rows"].kind == "data"
    assert "_Hidden" not in found


@pytest.mark.parametrize("content", [b"class (", b"\xff\xfe\x00", b"\x00", b"x = 1\n" + b"(" * 500])
def test_what_is_not_python_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "broken.py"
    file.write_bytes(content)
    with pytest.raises(UserError, match="is not Python"):
        scan(file)
    assert parameters_of(f"{file}:Net") == {}


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be read"):
        scan(tmp_path / "gone.py")
    assert parameters_of("gone.module:Net") == {}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(st.text(max_size=200))
def test_any_text(tmp_path: Path, text: str) -> None:
    file = tmp_path / "any.py"
    file.write_text(text, encoding="utf-8", errors="replace")
    try:
        scan(file)
    except UserError as error:
        assert str(error).endswith(".")
