"""Jinja templates compiled with counts where they repeat or make something."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator

LOOKED_AT, COUNTED = "looked at by us", "counted by us"
"""Filters that the compiled code calls, by names that no template can write."""


class Counting(CodeGenerator):
    """Compiles for an environment that has both filters and a method `made`."""

    def visit_Template(self, node: nodes.Template, frame: Any = None) -> None:
        """Count rounds of loops, and look at what is compared."""
        for loop in list(node.find_all(nodes.For)):
            count = nodes.ExprStmt(self._looked_at(nodes.Const(True), loop), lineno=loop.lineno)
            loop.body.insert(0, count)
            if loop.test is not None:
                loop.test = nodes.And(self._looked_at(nodes.Const(True), loop), loop.test)
        for compare in list(node.find_all(nodes.Compare)):
            compare.expr = self._looked_at(compare.expr, compare)
            for operand in compare.ops:
                operand.expr = self._looked_at(operand.expr, compare)
        for concat in list(node.find_all(nodes.Concat)):
            concat.nodes = [self._looked_at(part, concat, COUNTED) for part in concat.nodes]
        super().visit_Template(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Any) -> None:
        self._made(super().visit_Concat, node, frame)

    def visit_List(self, node: nodes.List, frame: Any) -> None:
        self._made(super().visit_List, node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Any) -> None:
        self._made(super().visit_Dict, node, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Any) -> None:
        if node.ctx == "load":
            self._made(super().visit_Tuple, node, frame)
        else:
            super().visit_Tuple(node, frame)

    def _made(self, visit: Callable[[Any, Any], None], node: Any, frame: Any) -> None:
        self.write("environment.made(")
        visit(node, frame)
        self.write(")")

    def _looked_at(self, node: nodes.Expr, near: nodes.Node, name: str = LOOKED_AT) -> nodes.Expr:
        # A filter's call is the cheapest there is.
        look = nodes.Filter(node, name, [], [], None, None, lineno=near.lineno)
        look.set_environment(self.environment)
        return look
