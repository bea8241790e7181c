"""CONTRIBUTING.md is followed to the letter, in a copy of the tree."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from conftest import ROOT, json_lines

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = [block.split("\n", 1) for block in re.findall(r"^```python\n# (.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)]

#: What somebody would do who has followed the page.
SESSION = r"""
import asyncio, contextlib, io, json, os, sys
from pathlib import Path
from torchdeck.tui.__main__ import main

def told(*words):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            code = main(list(words))
        except SystemExit as ended:
            code = ended.code
    assert code == 0, (words, out.getvalue())
    return out.getvalue()

found = {"root": str(Path(sys.modules["torchdeck.tui.__main__"].__file__).resolve().parents[1])}
found["catalog"] = told("catalog")
told("--batch", "--json", "--set", "data.name=spirals", "--set", "model.name=waves", "--set",
    "optimizer.name=Lion", "--set", "model.args.features=64", "--set", "trainer.epochs=40",
    "--set", "tracking.name=first", "--set", "trainer.batch_size=32", "--set", "tracking.note=two arms",
    "--set", "tracking.tensorboard=false")
found["help"] = told("newest", "--help")
found["newest"] = told("newest", "data:spirals").strip()
found["completed"] = told("__complete", "fish", "newes")

async def screen():
    from torchdeck.tui.app import Workbench
    app = Workbench(Path("runs"))
    async with app.run_test(size=(120, 35)) as pilot:
        async def until(so):
            for _ in range(1000):
                if so():
                    return
                await pilot.pause(0.02)
            raise AssertionError("it did not come")
        await until(lambda: app.is_screen_installed("train") and app.train.snapshot is not None)
        await pilot.press("B")
        await until(lambda: type(app.screen).__name__ == "NotesScreen")
        words = app.screen.query_one("#notes-words")
        await until(lambda: "looking" not in str(words.render()))
        found["notes"] = str(words.render())
        found["tabs"] = app.screen.query_one("Tabs").render_line(0).text
        found["palette"] = [command.title for command in app.get_system_commands(app.screen)]

asyncio.run(screen())
Path("found.json").write_text(json.dumps(found))
"""


def apply(tree: Path, where: str, code: str) -> None:
    """Put a block where its first line says: into a new file, or before the end of what is named."""
    file, _, place = where.partition(", in ")
    if not place:
        assert not (tree / file).exists(), f"{file} is there already"
        (tree / file).write_text(code, encoding="utf-8")
        return
    name, _, key = place.partition("[")
    text = (tree / file).read_text(encoding="utf-8")
    node = next(
        statement.value
        for statement in ast.parse(text).body
        if isinstance(statement, ast.Assign | ast.AnnAssign)
        and ast.unparse(statement.targets[0] if isinstance(statement, ast.Assign) else statement.target) == name
    )
    if key:
        assert isinstance(node, ast.Dict)
        wanted = key.rstrip("]").strip('"')
        node = next(value for one, value in zip(node.keys, node.values, strict=True) if ast.literal_eval(one) == wanted)  # type: ignore[arg-type]
    lines = text.splitlines(keepends=True)
    assert node is not None
    assert node.end_lineno is not None
    lines.insert(node.end_lineno - 1, code)
    (tree / file).write_text("".join(lines), encoding="utf-8")


def test_what_is_added_as_the_page_says_is_there(tmp_path: Path) -> None:
    tree, work = tmp_path / "tree", tmp_path / "work"
    work.mkdir()
    for folder in ("core", "tui", "src"):
        shutil.copytree(ROOT / folder, tree / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for where, code in BLOCKS:
        apply(tree, where.strip(), code)
    done = subprocess.run(
        [sys.executable, "-P", "-c", SESSION],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(tree / "src"), "XDG_STATE_HOME": str(tmp_path / "state")},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((work / "found.json").read_text())
    assert Path(found["root"]).is_relative_to(tree)

    for name in ("spirals", "waves", "Lion"):
        assert re.search(rf"^  {name} +\S", found["catalog"], re.MULTILINE)
    epochs = [event for event in json_lines(done.stdout) if event["event"] == "epoch"]
    assert len(epochs) == 40
    assert epochs[-1]["val"]["accuracy"] > 0.9 > epochs[0]["val"]["accuracy"]
    assert "torchdeck newest model:cnn" in found["help"]
    assert Path(work / found["newest"]).resolve() == (work / "runs" / Path(found["newest"]).name).resolve()
    assert found["completed"].startswith("newest\tprint the directory")
    assert "two arms" in found["notes"]
    assert "B Notes" in found["tabs"]
    assert "Notes (app.notes)" in found["palette"]


def test_the_picture_shows_the_layers_of_the_contract() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = next(contract["layers"] for contract in settings["contracts"] if contract["type"] == "layers")
    picture = re.search(r"^```text\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    assert picture is not None
    lines = picture.group(1).splitlines()
    assert len(lines) == len(layers)
    for line, layer in zip(lines, layers, strict=True):
        assert re.match(rf"{re.escape(layer)}( |$)", line), (
            "the picture in CONTRIBUTING.md is not that of pyproject.toml"
        )
        assert not line.removeprefix(layer).startswith(" |")
