"""Servers that one process has started, and others ask."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from cai.calls.model import Model
from cai.records import Values


def is_started_here(model: Model) -> bool:
    """Whether a server is started for a model."""
    serving = sys.modules.get("cai.models.serving.model")
    return serving is not None and isinstance(model, serving.ServedModel)


def lent_servers() -> dict[str, Values]:
    """The servers that this process has started, as `adopt_servers` takes them in another one."""
    pool = sys.modules.get("cai.models.serving.pool")
    return {} if pool is None else pool.POOL.lent()


def adopt_servers(servers: Mapping[str, Values]) -> None:
    """Ask servers that another process has started, in place of new ones."""
    if servers:
        from cai.models.serving.pool import POOL

        POOL.adopt(servers)
