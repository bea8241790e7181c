"""The Checkpoints screen: files looked into, compared, exported; hostile and broken ones told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from conftest import Train
from textual.pilot import Pilot
from textual.widgets import Input, RichLog
from workbench import QUICK, Open, asked, notices, train_of, until

from torchdeck.core.experiment import toml
from torchdeck.tui.screens.checkpoints import CheckpointsScreen
from torchdeck.tui.screens.console import Console
from torchdeck.tui.screens.dialogs import Pick, Question, TextDialog


class Evil:
    def __reduce__(self) -> Any:
        return os.system, (f"touch {os.environ['CANARY']}",)


async def opened(pilot: Pilot[int], count: int) -> CheckpointsScreen:
    await pilot.press("C")
    await until(pilot, lambda: isinstance(pilot.app.screen, CheckpointsScreen))
    screen: Any = pilot.app.screen
    await until(pilot, lambda: len(screen.files.items) == count)
    return screen


async def see(pilot: Pilot[int], screen: CheckpointsScreen, path: Path) -> None:
    assert screen.files.go(path)
    await until(pilot, lambda: screen.stored is not None and screen.stored.path == path)


def words(screen: CheckpointsScreen) -> str:
    return str(screen.query_one("#weights-words").render())


@pytest.fixture(autouse=True)
def _no_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CANARY", str(tmp_path / "canary"))
    for name in ("TORCH_HOME", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)


async def test_resnet_fits_one_screen_and_tells_its_numbers(workbench: Open, tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    async with workbench(QUICK, size=(120, 40)) as pilot:
        screen = await opened(pilot, 1)
        await see(pilot, screen, tmp_path / "resnet18.pth")
        await pilot.press("tab")
        tree = screen.tensors
        assert len(tree.items) <= tree.size.height - 1
        assert any("layer4" in line for line in tree.plain)
        assert any("tensors" in line for line in tree.plain)
        await pilot.press("g", "l", "j")  # conv1.weight
        facts = screen.query_one("#weights-facts")
        await until(pilot, lambda: any("zeros 0.00%" in line for line in facts.plain))  # type: ignore[attr-defined]
        assert tree.current[1].path == "conv1.weight"
        await pilot.press("h", "h")
        assert tree.current[1].path == "conv1"
        before = len(tree.items)
        await pilot.press("l")
        assert len(tree.items) > before
        await pilot.press("i")
        await until(pilot, lambda: len(screen.figures) == 122)


async def test_hostile_and_broken_files_are_told_and_the_list_lives_on(workbench: Open, tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3), "x": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "empty.pth").touch()
    (tmp_path / "zeros.safetensors").write_bytes(bytes(100))
    torch.save({"good": torch.ones(2, 2)}, tmp_path / "good.pt")
    async with workbench(QUICK) as pilot:
        screen = await opened(pilot, 4)
        await see(pilot, screen, tmp_path / "evil.pt")
        assert "DANGER, would run posix.system" in words(screen)
        assert [b.path for _, b in screen.tensors.items] == ["w"]
        for name, sentence in (("empty.pth", "is empty"), ("zeros.safetensors", "zeros")):
            assert screen.files.go(tmp_path / name)
            await until(pilot, lambda sentence=sentence: sentence in words(screen))
        await see(pilot, screen, tmp_path / "good.pt")
        (tmp_path / "good.pt").unlink()
        await pilot.press("e")
        await until(pilot, lambda: "There is no file" in notices(pilot))
        # A whole model is opened only when the user has read what that means.
        assert screen.files.go(tmp_path / "evil.pt")
        await see(pilot, screen, tmp_path / "evil.pt")
        await pilot.press("W")
        await until(pilot, lambda: isinstance(pilot.app.screen, Question))
        title = asked(pilot)
        assert "RUNS what its author put into it: posix.system" in title
        await pilot.press("n")
        await until(pilot, lambda: pilot.app.screen is screen)
        assert not (tmp_path / "canary").exists()


async def test_diff_export_finetune(workbench: Open, train: Train, tmp_path: Path) -> None:
    run = train("trainer.epochs=2").path
    async with workbench(QUICK) as pilot:
        screen = await opened(pilot, 2)
        await pilot.press("space", "space", "equals_sign")
        await until(pilot, lambda: isinstance(pilot.app.screen, Console) and pilot.app.screen.code == 0)
        log = "\n".join(line.text for line in pilot.app.screen.query_one(RichLog).lines)
        assert "changed" in log and "of 6 tensors are the same" in log
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is screen)
        await pilot.press("x")
        await until(pilot, lambda: isinstance(pilot.app.screen, Pick))
        pilot.app.screen.query_one(Input).value = "safetensors"
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, TextDialog))
        pilot.app.screen.query_one(Input).value = str(tmp_path / "out.safetensors")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, Console) and pilot.app.screen.code == 0)
        assert (tmp_path / "out.safetensors").exists()
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is screen)
        assert screen.files.go(next(f.path for f in screen.files.items if "best.pt" in f.names))
        await pilot.press("F")
        for value in ("", "1.*", "0.2"):
            await until(pilot, lambda: isinstance(pilot.app.screen, TextDialog))
            dialog = pilot.app.screen
            dialog.query_one(Input).value = value
            await pilot.press("enter")
            await until(pilot, lambda dialog=dialog: pilot.app.screen is not dialog)
        await until(pilot, lambda: isinstance(pilot.app.screen, Console) and pilot.app.screen.code == 0)
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is train_of(pilot))
        made = toml.build(train_of(pilot).form.raw)
        assert made.model.weights and made.model.weights.startswith(str(run / "checkpoints"))
        assert made.model.freeze == ("1.*",)
        assert made.optimizer.backbone_lr_factor == 0.2
