"""Which code a stage runs: the files that it imports, directly or not, each with its checksum."""

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from bayesft.files import checksum

# Files whose own text decides nothing. What `parameters` works out is written into the plan, and what a stage reads of
# it directly (`sigma_max`) is a parameter of the stage. Times are no result.
DECIDE_NOTHING = {"stages/parameters.py", "stages/timings.py"}
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_of(starts: Iterable[str]) -> dict[str, str]:
    """The files that `starts` import within this project, themselves included: SHA-256 by path, of what each does."""
    seen: set[str] = set()
    todo = set(starts)
    while todo:
        file = todo.pop()
        seen.add(file)
        table = Path(file).with_suffix(".sha256")  # checksums that stand beside the code
        if table.exists():
            seen.add(table.as_posix())
        todo |= direct_imports(Path(file)) - seen - DECIDE_NOTHING
    return {file: meaning(Path(file)) for file in sorted(seen)}


def digest(content: object) -> str:
    """A fingerprint of a JSON value: 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@cache
def meaning(path: Path) -> str:
    """The SHA-256 of what a file does: comments, docstrings and the layout of code decide nothing."""
    if path.suffix != ".py":
        return checksum(path)
    return hashlib.sha256(json.dumps(_told(_tree(path))).encode()).hexdigest()


def _told(node: object) -> object:
    """A node of a syntax tree as a JSON value, without docstrings, and without fields that say nothing."""
    if isinstance(node, list):
        return [_told(each) for each in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = fields["body"][1:]
    return [type(node).__name__, {name: _told(value) for name, value in fields.items() if value not in (None, [])}]


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def direct_imports(path: Path) -> frozenset[str]:
    """The files of this project that the file `path` imports, the packages on the way among them.

    Imports for the type checker alone do not count. Files are read once in a process.

    Raises:
        ValueError: The file has a relative import.
    """
    names = set()
    for node in _executed(_tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{path}: a relative import; write the package's whole name")
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    files = set()
    for name in names:
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            base = Path(*parts[:end])
            files |= {p.as_posix() for p in (base / "__init__.py", base.with_suffix(".py")) if p.exists()}
    return frozenset(files)


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a tree but the body of `if TYPE_CHECKING`, which never runs."""
    yield tree
    checks_types = isinstance(tree, ast.If) and isinstance(tree.test, ast.Name) and tree.test.id == "TYPE_CHECKING"
    for node in tree.orelse if checks_types else ast.iter_child_nodes(tree):
        yield from _executed(node)
