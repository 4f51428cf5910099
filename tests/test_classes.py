"""No class of the relay is larger than one can hold in mind: at most 15 fields and 25 methods.

A larger one says why in a paragraph of its docstring that starts with `Size:`; one that is not larger may not have
such a paragraph. Fields are what an object keeps: every assignment to an attribute of `self`, `__slots__`, and names
annotated in the class. Methods include properties. What bases in relay/ have counts too, except for

- bases whose own docstring gives a reason: it stands there once, and subclasses count from zero;
- `LoopActor`, which is the relay's form of `pykka.Actor`: what a library's base class has is not counted either.

Records do not count: a dataclass or named tuple without methods is a list of options or a row, and has no behaviour
that its fields could entangle.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

MAX_FIELDS = 15
MAX_METHODS = 25

FRAMEWORK = {"relay.actors.runtime.LoopActor"}

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Class:
    """One class of a source file, without its bases."""

    node: ast.ClassDef
    names: dict[str, str]
    """The full names that names of its file stand for."""

    fields: set[str] = field(default_factory=set)
    methods: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for statement in self.node.body:
            if isinstance(statement, _Function):
                self.methods.add(statement.name)
                self.fields |= set(_assigned(statement))
            elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                if "ClassVar" not in ast.unparse(statement.annotation):
                    self.fields.add(statement.target.id)
            elif isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__slots__":
                constants = (part for part in ast.walk(statement.value) if isinstance(part, ast.Constant))
                self.fields |= {str(constant.value) for constant in constants}

    @property
    def bases(self) -> list[str]:
        """Full names, without type arguments."""
        texts = [
            ast.unparse(base.value if isinstance(base, ast.Subscript) else base) for base in self.node.bases
        ]
        split = [text.partition(".") for text in texts]
        return [self.names.get(first, first) + dot + rest for first, dot, rest in split]

    @property
    def is_record(self) -> bool:
        decorators = [ast.unparse(decorator) for decorator in self.node.decorator_list]
        return not self.methods and (
            "NamedTuple" in " ".join(self.bases) or "dataclass" in " ".join(decorators)
        )

    @property
    def has_reason(self) -> bool:
        return re.search(r"(^|\n\n)Size: \w", ast.get_docstring(self.node) or "") is not None


def _assigned(method: _Function) -> Iterator[str]:
    """Attributes of the first parameter that a method assigns, functions inside it included."""
    parameters = [*method.args.posonlyargs, *method.args.args]
    for node in ast.walk(method):
        if (
            parameters
            and isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and ast.unparse(node.value) == parameters[0].arg
        ):
            yield node.attr


def classes_of(sources: dict[str, str]) -> dict[str, Class]:
    """The classes of some modules, by full name. `sources` holds each module's text."""
    found: dict[str, Class] = {}
    for module, text in sources.items():
        tree = ast.parse(text)
        nodes = list(ast.walk(tree))
        names = {node.name: f"{module}.{node.name}" for node in nodes if isinstance(node, ast.ClassDef)}
        for node in nodes:
            if isinstance(node, ast.ImportFrom):
                names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        found |= {names[node.name]: Class(node, names) for node in nodes if isinstance(node, ast.ClassDef)}
    return found


def counted(name: str, classes: dict[str, Class]) -> tuple[set[str], set[str]]:
    """Fields and methods that count for a class."""
    fields, methods = set(classes[name].fields), set(classes[name].methods)
    for base in classes[name].bases:
        if base in classes and base not in FRAMEWORK and not classes[base].has_reason:
            more_fields, more_methods = counted(base, classes)
            fields |= more_fields
            methods |= more_methods
    return fields, methods


def faults(sources: dict[str, str]) -> list[str]:
    """Every class that is too large without a reason, or gives one and is not."""
    found = []
    classes = classes_of(sources)
    for name, one in classes.items():
        fields, methods = counted(name, classes)
        large = (len(fields) > MAX_FIELDS or len(methods) > MAX_METHODS) and not one.is_record
        if large and not one.has_reason:
            found.append(f"{name}: {len(fields)} fields and {len(methods)} methods, and no reason")
        elif one.has_reason and not large:
            found.append(f"{name}: a reason for a size that it does not have")
    return found


def test_no_class_is_large_without_a_reason() -> None:
    files = sorted((ROOT / "relay").rglob("*.py"))
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files
    ]
    assert faults({name: path.read_text() for name, path in zip(names, files, strict=True)}) == []


def fields(count: int, indent: str = "        ") -> str:
    return "".join(f"{indent}self.f{number} = 0\n" for number in range(count))


def methods(count: int) -> str:
    return "".join(f"    def m{number}(self): ...\n" for number in range(count))


SIZE = '    """A class.\n\n    Size: it has to be.\n    """\n'
INIT = "    def __init__(self):\n"


@pytest.mark.parametrize(
    "source",
    [
        "class A:\n" + INIT + fields(16),
        "class A:\n" + methods(26),
        "class A:\n    x: int = 0\n" + INIT + fields(15),
        "@dataclass\nclass A:\n    x: int = 0\n" + INIT + fields(15),
        "class A:\n    __slots__ = ('x', *('y', 'z'))\n" + INIT + fields(13),
        "class A:\n" + INIT + fields(14) + "    def more(self):\n        self.x, (self.y, *_) = f()\n",
        "class A:\n" + INIT + fields(14) + "    def more(self):\n        with f() as self.x: self.y += 1\n",
        "class A:\n" + INIT + fields(15) + "        def later():\n            self.x: int = 1\n",
        "class A:\n    @property\n    def p(self): ...\n" + methods(25),
        "class A:\n    async def p(self): ...\n" + methods(25),
        "class A:\n    @classmethod\n    def p(cls): ...\n" + methods(25),
        "class B:\n" + methods(25) + "class A(B):\n    def own(self): ...\n",
        "class B(Generic[T]):\n" + INIT + fields(15) + "class A(B[int]):\n    x: int\n",
        "import relay.b\nfrom relay.b import B as C\nclass A(C):\n" + methods(24),
        "import relay.b\nclass A(relay.b.B):\n" + methods(24),
        "import relay.b as b\nclass A(b.B):\n" + methods(24),
        "class A:\n" + SIZE + INIT + fields(15),
        "class A:\n" + SIZE + methods(25),
        "@dataclass\nclass A:\n" + SIZE + "".join(f"    f{number}: int\n" for number in range(30)),
        "class A:\n    'A class.\\n\\nSize:'\n" + methods(26),
        "class A:\n    'The Size: is large.'\n" + methods(26),
        "class B:\n" + SIZE + methods(30) + "class A(B):\n" + INIT + fields(16),
    ],
)
def test_what_the_rule_refuses(source: str) -> None:
    other = "class B:\n    def x(self): ...\n    def y(self): ...\n"
    (fault,) = faults({"relay.a": source, "relay.b": other})
    assert fault.startswith("relay.a.A: ")


@pytest.mark.parametrize(
    "source",
    [
        "class A:\n" + INIT + fields(15) + fields(15),
        "class A:\n" + methods(25) + methods(25),
        "class A:\n" + SIZE + INIT + fields(16),
        "class A:\n" + SIZE + methods(26),
        "class A:\n    x: ClassVar[int] = 0\n    y = 0\n"
        + INIT
        + fields(15)
        + "        other.x = self.f1.x = 0\n",
        "class B:\n" + SIZE + methods(30) + "class A(B):\n    def own(self): ...\n",
        "class B:\n" + methods(25) + "class A(B):\n    def m0(self): ...\n",
        "class A(library.B):\n" + methods(25),
        "from relay.actors.runtime import LoopActor\nclass A(LoopActor):\n" + methods(25),
        "@dataclass(frozen=True)\nclass A:\n" + "".join(f"    f{number}: int\n" for number in range(30)),
        "class A(NamedTuple):\n" + "".join(f"    f{number}: int\n" for number in range(30)),
    ],
)
def test_what_the_rule_allows(source: str) -> None:
    framework = "class LoopActor:\n    def x(self): ...\n"
    assert faults({"relay.a": source, "relay.actors.runtime": framework}) == []
