"""`upshift prove tasks` finds nothing lost, and says so."""

from __future__ import annotations

import subprocess
import sys

import pytest
from harness import child_env

from upshift import _tasks_prove


@pytest.mark.timeout(120)
def test_a_short_proof():
    command = [sys.executable, "-m", "upshift", "prove", "tasks", "--kills", "4", "--seed", "1"]
    done = subprocess.run(command, env=child_env(), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    found = dict(line.split(":", 1) for line in done.stdout.splitlines())
    assert (found["kills"].strip(), found["accepted"].strip(), found["lost"].strip()) == ("4", "120", "0")


def test_a_lost_task_is_reported(capsys):
    ended = [{"status": "completed"}, {"status": "completed"}, {"status": "completed"}]
    ledger = "0 7 1.0\n1 7 1.0\n1 8 3.5\n"
    assert _tasks_prove._report([1, 2, 3], ended, {2}, ledger, {7: 2.0}) == 1
    said = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert (said["lost"].strip(), said["run twice, a kill fell inside"].strip()) == ("1", "1")
    assert said["largest recovery time"].strip() == "1.50 s"
    # Run twice for no reason.
    assert _tasks_prove._report([1, 2], ended[:2], set(), ledger, {7: 2.0}) == 1
