"""What several test folders share: child processes, threads with a time limit, polling.

Imported as a plain module; the `conftest.py` of each folder puts `tests/` on the path.
"""

from __future__ import annotations

import ast
import os
import queue
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager, suppress

TIMEOUT = 60.0

# Reads one Python snippet per line (as a literal), answers with the repr of its value or the exception.
PEER = """
import ast, sys, traceback
space = {}
out = sys.stdout
for line in sys.stdin:
    source = ast.literal_eval(line)
    try:
        tree = ast.parse(source)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "<peer>", "exec"), space)
        value = None
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "<peer>", "eval"), space)
        answer = ("ok", repr(value))
    except BaseException:
        answer = ("error", traceback.format_exc())
    out.write(repr(answer) + chr(10))
    out.flush()
"""


def child_env(**changes):
    """Environment of a child: this one's, with `changes`; a value of None removes the variable."""
    env = dict(os.environ)
    env["PYTHONPATH"] = os.pathsep.join(entry for entry in sys.path if entry)
    for name, value in changes.items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = str(value)
    return env


def run(code, *argv, env=None, cwd=None, timeout=TIMEOUT, status=0):
    """Runs `code` in a fresh interpreter and returns its standard output; fails on another exit status."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, argv)],
        env=child_env(**(env or {})),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == status, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run_literal(code, *argv, **options):
    """Like `run`, for a child that prints one literal: returns its value."""
    return ast.literal_eval(run(code, *argv, **options).strip())


class PeerError(AssertionError):
    """The snippet raised in the peer process; carries its traceback."""


class Peer:
    """A second interpreter that executes snippets one at a time and returns the value of the last expression."""

    def __init__(self, prelude="", env=None, cwd=None):
        self._process = subprocess.Popen(
            [sys.executable, "-c", PEER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=child_env(**(env or {})),
            cwd=cwd,
        )
        self._answers = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if prelude:
            self(prelude)

    def _read(self):
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(None)

    @property
    def pid(self):
        return self._process.pid

    def send(self, source):
        """Starts a snippet without waiting for its end; `receive` collects the answer."""
        self._process.stdin.write(repr(textwrap.dedent(source).strip()) + "\n")
        self._process.stdin.flush()

    def receive(self, timeout=TIMEOUT):
        line = self._answers.get(timeout=timeout)
        assert line is not None, f"peer ended with status {self._process.wait(timeout)}"
        outcome, text = ast.literal_eval(line)
        if outcome == "error":
            raise PeerError(text)
        return ast.literal_eval(text)

    def __call__(self, source, timeout=TIMEOUT):
        self.send(source)
        return self.receive(timeout)

    def kill(self):
        """SIGKILL: nothing in the peer gets to clean up."""
        self._process.kill()
        self._process.wait(TIMEOUT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self._process.poll() is None:
            self._process.stdin.close()
            try:
                self._process.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                self.kill()
        self._reader.join(TIMEOUT)
        if not self._process.stdin.closed:
            with suppress(BrokenPipeError):  # killed with a snippet still in the buffer
                self._process.stdin.close()
        self._process.stdout.close()


class Task(threading.Thread):
    """A daemon thread whose `result()` returns or raises what the function did, within a time limit."""

    def __init__(self, body, *args, **kwargs):
        super().__init__(daemon=True)
        self._call = (body, args, kwargs)
        self._outcome = None
        self.start()

    def run(self):
        body, args, kwargs = self._call
        self._call = None
        try:
            self._outcome = (body(*args, **kwargs), None)
        except BaseException as error:
            self._outcome = (None, error)

    def done(self):
        return self._outcome is not None

    def result(self, timeout=TIMEOUT):
        self.join(timeout)
        assert not self.is_alive(), "thread still runs: deadlock?"
        value, error = self._outcome
        if error is not None:
            raise error
        return value


def together(body, count, timeout=TIMEOUT):
    """Runs `body(index)` in `count` threads released at the same moment; returns the results in order."""
    barrier = threading.Barrier(count)

    def start(index):
        barrier.wait(timeout)
        return body(index)

    return [task.result(timeout) for task in [Task(start, index) for index in range(count)]]


def travelled() -> float:
    """Seconds by which `upshift.testing.travel` has moved the engine's clocks in the tests before this one."""
    from upshift import ResultCache

    cache = ResultCache()
    cache.set("now", None)
    return float(cache.cache["now"][2] - time.time())


def eventually(condition, timeout=20.0, interval=0.01):
    """Polls until `condition()` is true and returns its value; fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(interval)


def stays(condition, seconds=0.2, interval=0.01):
    """Polls for `seconds` and fails as soon as `condition()` is false."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert condition()
        time.sleep(interval)


@contextmanager
def peers(count, prelude="", **options):
    """`count` peers that all ran `prelude`, closed at the end."""
    started = []
    try:
        for _ in range(count):
            started.append(Peer(prelude, **options))
        yield started
    finally:
        for peer in started:
            peer.close()
