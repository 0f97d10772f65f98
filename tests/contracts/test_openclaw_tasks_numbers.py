"""Contract openclaw §8: the documented numbers of the workers. Speed is measured in benches/python."""

from __future__ import annotations

import time

import pytest
from harness import eventually


def test_a_trivial_task_ends_well_under_two_seconds(manager):  # openclaw §8 load floor
    manager.register_handler("t")(lambda context: {"success": True})
    manager.start_workers()
    begun = time.monotonic()
    assert manager.wait(manager.queue_task("t"), 20)["status"] == "completed"
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize(("low", "high"), [(1, 2), (2, 6), (2, 16)], ids=["small", "medium", "large"])
def test_presets_construct_and_run(make_manager, low, high):  # openclaw §8 presets, §9 3
    manager = make_manager(min_workers=low, max_workers=high, enable_auto_scaling=False)
    manager.register_handler("t")(lambda context: 1)
    manager.start_workers()
    assert manager.current_workers == high
    assert [manager.wait(manager.queue_task("t"), 20)["result"] for _ in range(5)] == [1] * 5


def test_idle_workers_cost_next_to_nothing(make_manager):  # openclaw §8 "< 5 % CPU per worker (target < 0.1 %)"
    manager = make_manager(max_workers=8, enable_auto_scaling=False)
    manager.start_workers()
    time.sleep(0.3)
    begun, cpu = time.monotonic(), time.process_time()
    time.sleep(2)
    share = (time.process_time() - cpu) / (time.monotonic() - begun)
    assert share / 8 < 0.005


def test_scale_down_within_idle_time_and_one_interval(make_manager):  # openclaw §8
    manager = make_manager(max_workers=2, scaling_check_interval=0.3, scale_down_idle_time=0.6, cpu_threshold=101)
    manager.enable_auto_scaling = False
    manager.start_workers()
    manager.enable_auto_scaling = True
    begun = time.monotonic()
    eventually(lambda: manager.current_workers == 1)
    assert 0.5 < time.monotonic() - begun < 0.6 + 0.3 + 0.6
