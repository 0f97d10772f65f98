"""Contract openclaw §4.5: the expression language of rule conditions, and W8."""

from __future__ import annotations

import logging
import os
import time

import pytest

from upshift._tasks_conditions import Condition, ConditionError

CONTEXT = {
    "count": 7,
    "ratio": 0.5,
    "level": "High",
    "tags": ["a", "b"],
    "nested": {"size": 3, "names": ["x"]},
    "none": None,
    "flag": True,
    "path": "/var/log/app.log",
}


@pytest.mark.parametrize(
    "text",
    [
        "True",
        "count",
        "count == 7",
        "count != 8 and ratio < 1",
        "not none",
        "none is None",
        "flag is not None",
        "'a' in tags",
        "'z' not in tags",
        "5 < count < 10",
        "count + 1 == 8",
        "count - 1 == 6 or False",
        "count * 2 == 14",
        "count / 2 == 3.5",
        "count // 2 == 3",
        "count % 2 == 1",
        "-count == -7",
        "nested['size'] == 3",
        "nested['names'][0] == 'x'",
        "tags[-1] == 'b'",
        "level[0:2] == 'Hi'",
        "(count > 5) and (ratio <= 0.5)",
        "len(tags) == 2",
        "min(1, count) == 1 and max([1, count]) == 7",
        "abs(-count) == 7",
        "any([none, flag]) and not all([none, flag])",
        "str(count) == '7' and int('7') == count and float('0.5') == ratio and bool(count)",
        "nested.get('size') == 3 and nested.get('nothing', 5) == 5",
        "path.startswith('/var') and path.endswith('.log')",
        "level.lower() == 'high' and level.upper() == 'HIGH'",
        "'  x '.strip() == 'x'",
        "1 if flag else 0",
        "count in (1, 7) and count in {7} and count in [7]",
        "{'a': 1}['a'] == 1",
        "  count == 7  ",
    ],
)
def test_grammar(text):
    assert Condition(text).holds(CONTEXT) is True


@pytest.mark.parametrize(
    "text",
    [
        "",
        "count =",
        "count; count",
        "x = 1",
        "(x := 1)",
        "lambda: 1",
        "[x for x in tags]",
        "{x for x in tags}",
        "{x: 1 for x in tags}",
        "any(x for x in tags)",
        "2 ** 10",
        "1 << 3",
        "count & 1",
        "~count",
        "+count",
        "level.__class__",
        "level.format(1)",
        "level.lower",
        "tags.append(1)",
        "''.join(tags)",
        "().__class__.__bases__[0].__subclasses__()",
        "__import__('os')",
        "open('/etc/passwd')",
        "eval('1')",
        "getattr(level, 'lower')",
        "sorted(tags)",
        "(lambda: 1)()",
        "nested['get']()",
        "len(*tags)",
        "int('7', base=8)",
        "{**nested}",
        "f'{count}'",
        "b'bytes' == level",
        "... is None",
        "1j == 1",
        "await_ and (yield)",
        "0x" + "f" * 3000,
        " or ".join(["count"] * 400),
        "(" * 60 + "1" + ")" * 60 + " + " + "-" * 60 + "1",
    ],
)
def test_outside_the_grammar(text):
    with pytest.raises(ConditionError):
        Condition(text)


@pytest.mark.parametrize(
    "text",
    ["missing", "level > 5", "nested['none']", "tags[9]", "count.get('x')", "int('x')", "1 / 0", "'%s' % count"],
)
def test_what_cannot_be_evaluated_raises(text):
    with pytest.raises((NameError, TypeError, LookupError, ValueError, ArithmeticError)):
        Condition(text).holds(CONTEXT)


@pytest.mark.parametrize(
    "text", ["'x' * 1000000000", "1000000000 * [1]", "*".join(["9999999999"] * 140), "[1] * 99999 + [1] * 99999"]
)
def test_size_is_bounded(text):
    begun = time.monotonic()
    with pytest.raises(ValueError):
        Condition(text).holds({})
    assert time.monotonic() - begun < 1


def test_a_name_is_a_key_of_the_context_only():
    assert Condition("len").holds({"len": 1}) is True
    with pytest.raises(NameError):
        Condition("len").holds({})


def test_stored_rules_outside_the_grammar_are_skipped_with_a_warning(manager, tmp_path, caplog):  # openclaw W8
    target = tmp_path / "written"
    manager.conn.execute(
        "INSERT INTO task_rules (trigger_event, task_type, condition) VALUES ('e', 't', ?)",
        (f"[c for c in ().__class__.__base__.__subclasses__()] or open({str(target)!r}, 'w')",),
    )
    manager.register_rule("e", "good", "size > 1")
    with caplog.at_level(logging.WARNING, "upshift.tasks"):
        (task,) = manager.trigger_event("e", {"size": 2})
    assert manager.get_task_status(task)["task_type"] == "good"
    assert "skipped" in caplog.text
    assert not os.path.exists(target)
