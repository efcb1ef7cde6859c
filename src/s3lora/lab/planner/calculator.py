"""Sums from plans: read as a syntax tree and worked out by hand, within bounds; nothing is run."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable

LONGEST = 300
"""Characters of a sum."""
LARGEST = 10**30
"""Numbers beyond are refused, in every step."""
LARGEST_EXPONENT = 100

Number = int | float

SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "^": "**"})
ALLOWED = re.compile(r"[0-9eE.()+*/% _-]+", re.ASCII)
THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))", re.ASCII)

BINARY: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
UNARY: dict[type[ast.unaryop], Callable[[Number], Number]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}


class SumError(ValueError):
    """The sum cannot be worked out; the message says why."""


def calculate(text: str) -> str:
    """The value of a sum, as text.

    Numbers, brackets and + - * / // % ** (and × · ÷ − ^); commas between groups of three digits do
    not count.

    Returns:
        A whole number as it is, another one with at most ten digits.

    Raises:
        SumError: if it is no such sum, has no value, or a number in it is too large.

    Cost
        Bounded: at most `LONGEST` characters, and numbers of at most 31 digits.
    """
    if len(text) > LONGEST:
        raise SumError(f"{len(text)} characters are too long for a sum, at most {LONGEST}")
    plain = THOUSANDS.sub("", text.translate(SIGNS)).strip()
    if not ALLOWED.fullmatch(plain):
        raise SumError(f"{_short(text)} is no sum of numbers")
    try:
        tree = ast.parse(plain, mode="eval")
        return _written(_value(tree.body))
    except SumError:
        raise
    except ZeroDivisionError as error:
        raise SumError("it divides by zero") from error
    except (OverflowError, MemoryError, RecursionError) as error:
        raise SumError("it is too large or too deep") from error
    except (SyntaxError, ValueError) as error:
        raise SumError(f"{_short(text)} is no sum of numbers") from error


def _value(node: ast.expr) -> Number:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return _bounded(node.value)
    if isinstance(node, ast.UnaryOp) and type(node.op) in UNARY:
        return UNARY[type(node.op)](_value(node.operand))
    if isinstance(node, ast.BinOp) and type(node.op) in BINARY:
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Pow):
            _check_power(left, right)
        return _bounded(_exact(node.op, left, right))
    raise SumError(f"{_short(ast.unparse(node))} is no sum of numbers")


def _exact(sign: ast.operator, left: Number, right: Number) -> Number:
    """The value; of a division of whole numbers without remainder, a whole number."""
    if isinstance(sign, ast.Div) and type(left) is type(right) is int and right:
        whole, rest = divmod(left, right)
        if rest == 0:
            return whole
    return BINARY[type(sign)](left, right)


def _check_power(base: Number, exponent: Number) -> None:
    """Refuse a power before it is worked out: it could fill the memory."""
    if abs(exponent) > LARGEST_EXPONENT:
        raise SumError(f"the exponent {exponent:.6g} is too large, at most {LARGEST_EXPONENT}")
    if abs(base) > 1 and exponent * math.log10(abs(base)) > math.log10(LARGEST) + 1:
        raise SumError(f"a number is larger than {LARGEST:.0e}")


def _bounded(value: object) -> Number:
    if not isinstance(value, int | float):
        raise SumError("it has no real value")
    if isinstance(value, float) and not math.isfinite(value):
        raise SumError("it has no finite value")
    if abs(value) > LARGEST:
        raise SumError(f"a number is larger than {LARGEST:.0e}")
    return value


def _written(value: Number) -> str:
    if isinstance(value, int):
        return str(value)
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.10g}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= 60 else f"{line[:60]}…")
