"""What the tables promise exists."""

from __future__ import annotations

import importlib

import pytest

from upshift.compat import tables

# contracts: the public names of each import path
CONTRACT = {
    "core.result_cache": {"ResultCache", "get_cache", "main"},
    "core.db_pool": {"ConnectionPool", "PooledConnection", "get_pool", "close_all_pools", "main"},
    "autonomous.background_tasks": {"BackgroundTaskManager", "TaskPriority", "TaskStatus", "main"},
    "web.dashboard": {"DashboardServer", "ConnectionManager", "main"},
    "core.scalability_integration": {
        *("ScalabilityManager", "get_manager", "cached", "with_db_pool", "queue_task", "main"),
        *("BackgroundTaskManager", "TaskPriority", "ResultCache", "get_cache"),
        *("ConnectionPool", "get_pool", "close_all_pools"),
    },
}


def test_every_module_of_the_contracts_is_known():
    assert set(tables.MODULES) == set(CONTRACT)


@pytest.mark.parametrize("path", tables.served())
def test_a_served_module_has_exactly_the_names_of_its_contract(path):
    assert set(tables.MODULES[path].names) == CONTRACT[path]


@pytest.mark.parametrize(
    "target", sorted({target for path in tables.served() for target in tables.MODULES[path].names.values()})
)
def test_targets_exist(target):
    module, _, attribute = target.partition(":")
    assert module.split(".")[0] == "upshift"
    assert hasattr(importlib.import_module(module), attribute)


def test_alias_of_a_class_is_the_same_class_everywhere():
    """One public name never means two objects within a system, except each module's own main."""
    targets: dict[tuple[str, str], set[str]] = {}
    for module in tables.MODULES.values():
        for name, target in module.names.items():
            targets.setdefault((module.system, name), set()).add(target)
    assert {key for key, found in targets.items() if len(found) > 1 and key[1] != "main"} == set()
