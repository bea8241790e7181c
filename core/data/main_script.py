"""Whether DataLoader's workers can be started from the script that runs: they import it anew, as multiprocessing does
where it does not fork (docs.python.org/3/library/multiprocessing.html#the-spawn-and-forkserver-start-methods)."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset


def why_no_workers(dataset: Any) -> str:
    """Why worker processes can't read this data set, as a sentence about them goes on; empty where nothing speaks
    against it."""
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is None and file is not None:
        return _why_not_again(Path(file))
    found = _of_main(dataset)
    if found is None or (spec is not None and not spec.name.endswith("__main__")):
        return ""
    return (
        f"can't find {found.__name__}, which was defined at a prompt, in a notebook or in __main__.py; put it "
        f"in a module"
    )


def _why_not_again(file: Path) -> str:
    """What keeps a script from being imported once more."""
    try:
        tree = ast.parse(file.read_bytes())
    except OSError:
        return f"can't run the script {str(file)!r} once more; put it in a file"
    except (SyntaxError, ValueError):
        return ""
    compared = (node for node in ast.walk(tree) if isinstance(node, ast.Compare))
    if any(isinstance(name, ast.Name) and name.id == "__name__" for node in compared for name in ast.walk(node)):
        return ""
    return (
        f"run {str(file)!r} once more, from its top; put what it does below if __name__ == '__main__':, its "
        "classes and functions before that"
    )


def _of_main(dataset: Any) -> type | None:
    """The class of a data set, or of one that it holds, that was defined in the script itself."""
    if type(dataset).__module__ == "__main__":
        return type(dataset)
    for inner in vars(dataset).values() if hasattr(dataset, "__dict__") else ():
        for one in inner if isinstance(inner, list | tuple) else (inner,):
            if isinstance(one, Dataset) and (found := _of_main(one)) is not None:
                return found
    return None
