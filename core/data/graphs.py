"""Graphs of PyTorch Geometric, which is never imported here before the user's code has."""

from __future__ import annotations

import sys
from typing import Any


def is_graph(item: Any) -> bool:
    """Whether an item is a graph (``Data``, ``HeteroData``): it tells how it is joined with others."""
    return all(callable(getattr(item, name, None)) for name in ("__inc__", "__cat_dim__", "to_dict"))


def joined(graphs: list[Any]) -> Any:
    """The graphs as one of several components, as PyTorch Geometric's DataLoader gives them: ``x`` [all nodes, F],
    ``edge_index`` [2, all edges], ``batch`` [all nodes] with the graph of each node."""
    return sys.modules["torch_geometric.data"].Batch.from_data_list(graphs)
