"""Conditions of rules: a small expression language over the keys of a context, evaluated without `eval`."""

from __future__ import annotations

import ast
import functools
import logging
import operator
from collections.abc import Mapping
from typing import Any, Callable

__all__ = ["Condition", "ConditionError", "condition_of", "holds"]

logger = logging.getLogger("upshift.tasks")

#: Characters and syntax nodes of one condition, and the depth to which they nest.
MAX_LENGTH = 2000
MAX_NODES = 300
MAX_DEPTH = 40
#: Items of a value made on the way, such as the product of a list and a number; bits of a whole number.
MAX_ITEMS = 100_000
MAX_BITS = 4096

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda one, other: one in other,
    ast.NotIn: lambda one, other: one not in other,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "len": len,
    "min": min,
    "max": max,
    "abs": abs,
    "any": any,
    "all": all,
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
}
_METHODS: dict[str, type] = {"get": dict, "startswith": str, "endswith": str, "lower": str, "upper": str, "strip": str}
_LITERALS = (str, int, float, bool, type(None))


class ConditionError(ValueError):
    """The text is not in the grammar of conditions."""


class Condition:
    """A condition that has been checked. `holds(context)` evaluates it; what goes wrong then is raised."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_LENGTH:
            raise ConditionError(f"a condition may have {MAX_LENGTH} characters, not {len(text)}")
        try:
            self._body = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            raise ConditionError(f"condition {text!r} is no expression: {error}") from None
        count = 0
        nodes: list[tuple[ast.AST, int]] = [(self._body, 1)]
        while nodes:
            node, depth = nodes.pop()
            count += 1
            if count > MAX_NODES or depth > MAX_DEPTH:
                raise ConditionError(f"condition {text!r} is too large")
            _check(node, text)
            nodes += [(child, depth + 1) for child in _parts(node)]

    def holds(self, context: Mapping[str, Any]) -> bool:
        return bool(_value(self._body, context))


def _parts(node: ast.AST) -> list[ast.AST]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        # The method is part of the call; anywhere else an attribute is refused.
        return [node.func.value, *node.args]
    return list(ast.iter_child_nodes(node))


def _check(node: ast.AST, text: str) -> None:
    if isinstance(node, ast.Constant):
        allowed = isinstance(node.value, _LITERALS)
    elif isinstance(node, ast.BinOp):
        allowed = type(node.op) in _BINARY
    elif isinstance(node, ast.UnaryOp):
        allowed = isinstance(node.op, (ast.Not, ast.USub))
    elif isinstance(node, ast.Compare):
        allowed = all(type(op) in _COMPARE for op in node.ops)
    elif isinstance(node, ast.Call):
        known = isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS
        method = isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS
        allowed = (known or method) and not node.keywords and not any(isinstance(a, ast.Starred) for a in node.args)
    elif isinstance(node, ast.Dict):
        allowed = all(key is not None for key in node.keys)
    else:
        allowed = isinstance(
            node,
            (
                *(ast.Name, ast.Load, ast.Subscript, ast.Slice, ast.BoolOp, ast.And, ast.Or, ast.IfExp),
                *(ast.List, ast.Tuple, ast.Set, ast.operator, ast.unaryop, ast.cmpop),
                ast.Index if hasattr(ast, "Index") and ast.Index is not None else ast.Load,
            ),
        )
    if not allowed:
        kind = type(node).__name__
        raise ConditionError(
            f"condition {text!r} uses what conditions cannot ({kind}); accepted are literals, names, subscripts, "
            "and/or/not, comparisons, + - * / // %, displays, conditional expressions, calls of "
            f"{', '.join(_FUNCTIONS)} and of .{', .'.join(_METHODS)}"
        )


def _value(node: ast.expr, context: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        if node.id in context:
            return context[node.id]
        raise NameError(f"the context has no {node.id!r}")
    if isinstance(node, ast.BoolOp):
        ends_with = isinstance(node.op, ast.Or)
        value = None
        for part in node.values:
            value = _value(part, context)
            if bool(value) is ends_with:
                break
        return value
    if isinstance(node, ast.UnaryOp):
        operand = _value(node.operand, context)
        return not operand if isinstance(node.op, ast.Not) else -operand
    if isinstance(node, ast.BinOp):
        return _binary(node.op, _value(node.left, context), _value(node.right, context))
    if isinstance(node, ast.Compare):
        return _compare(node, context)
    if isinstance(node, ast.IfExp):
        return _value(node.body if _value(node.test, context) else node.orelse, context)
    if isinstance(node, ast.Subscript):
        return _value(node.value, context)[_value(node.slice, context)]
    if isinstance(node, ast.Slice):
        return slice(*(None if part is None else _value(part, context) for part in (node.lower, node.upper, node.step)))
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        kind = {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)]
        return kind(_value(item, context) for item in node.elts)
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values)
        return {_value(key, context): _value(value, context) for key, value in pairs if key is not None}
    if isinstance(node, ast.Call):
        return _call(node, context)
    raise ConditionError(f"{type(node).__name__} has no value")


def _compare(node: ast.Compare, context: Mapping[str, Any]) -> Any:
    left, result = _value(node.left, context), True
    for op, part in zip(node.ops, node.comparators):
        right = _value(part, context)
        result = _COMPARE[type(op)](left, right)
        if not result:
            break
        left = right
    return result


def _binary(op: ast.operator, left: Any, right: Any) -> Any:
    if isinstance(op, ast.Mod) and isinstance(left, (str, bytes)):
        raise TypeError("% does not format text in a condition")
    if isinstance(op, ast.Mult):
        for one, other in ((left, right), (right, left)):
            if isinstance(one, (str, list, tuple)) and isinstance(other, int) and len(one) * other > MAX_ITEMS:
                raise ValueError("the product is too large")
    value = _BINARY[type(op)](left, right)
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise ValueError("the number is too large")
    if isinstance(value, (str, list, tuple)) and len(value) > MAX_ITEMS:
        raise ValueError("the value is too large")
    return value


def _call(node: ast.Call, context: Mapping[str, Any]) -> Any:
    arguments = [_value(argument, context) for argument in node.args]
    if isinstance(node.func, ast.Name):
        return _FUNCTIONS[node.func.id](*arguments)
    if isinstance(node.func, ast.Attribute):
        owner, name = _value(node.func.value, context), node.func.attr
        kind = _METHODS[name]
        if not isinstance(owner, kind):
            raise TypeError(f".{name}() is for {kind.__name__} only, not {type(owner).__name__}")
        return getattr(kind, name)(owner, *arguments)
    raise ConditionError("only functions and methods by name can be called")


@functools.lru_cache(maxsize=256)
def condition_of(text: str) -> Condition:
    """The condition that a text says, checked once."""
    return Condition(text)


def holds(condition: str, context: Mapping[str, Any]) -> bool:
    """Whether a stored condition is empty or true. One that cannot be evaluated does not hold."""
    if not condition.strip():
        return True
    try:
        return condition_of(condition).holds(context)
    except ConditionError as error:
        logger.warning("a stored rule is skipped: %s", error)
    except Exception as error:  # whatever the values in the context do, only this rule is concerned
        logger.debug("condition %r does not hold: %s", condition, error)
    return False
