"""Stage `code`: for every other stage, the list of the code that it runs, with checksums.

A stage depends on its list and not on the files, so nobody has to keep its dependencies: a change re-runs what imports
the changed file, directly or not, also where it imports more than it uses (all data sets, say). Plumbing decides no
result and is left out: what it passes on is tracked as parameters, or is in SPECIFICATIONS.
"""

import ast
from pathlib import Path

from bayesft.files import checksum, write_text
from stages.common import run

PLUMBING = {
    "stages/__init__.py",
    "stages/code.py",
    "stages/common.py",
    "stages/parameters.py",
    "bayesft/__init__.py",
}
# What plumbing passes on and params.yaml does not hold: networks, data sets, the settings' defaults.
SPECIFICATIONS = (Path("bayesft/tasks.py"), Path("bayesft/settings.py"))
# The stages that import the module of their method alone have a list for each method.
METHODS = {"train": ("erm", "awp", "uniform"), "adapt": ("ftna", "reram_v"), "drift": ("drift_aware", "drift_dropout")}
PLAIN = (
    "download", "boundary", "ablate", "search", "tune", "study", "evaluate", "scenes", "detect", "detections", "render",
)  # fmt: skip


def main() -> None:
    """Write the list of every stage to data/code."""
    starts = {stage: [Path(f"stages/{stage}.py")] for stage in PLAIN}
    for stage, methods in METHODS.items():
        for method in methods:
            starts[f"{stage}-{method}"] = [Path(f"stages/{stage}.py"), Path(f"bayesft/training/{method}.py")]
    for name, files in starts.items():
        lines = [f"{checksum(Path(file))}  {file}\n" for file in sorted(imported_by(files))]
        write_text(Path(f"data/code/{name}.txt"), "".join(lines))


def imported_by(files: list[Path]) -> set[str]:
    """`files` and all that they import of this project, directly or not, without plumbing and what only it imports."""
    seen, todo = set(), {file.as_posix() for file in (*files, *SPECIFICATIONS)}
    while todo:
        file = todo.pop()
        seen.add(file)
        table = Path(file).with_suffix(".sha256")  # checksums that stand beside the code
        if table.exists():
            seen.add(table.as_posix())
        todo |= direct_imports(Path(file)) - seen - PLUMBING
    return seen


def direct_imports(path: Path) -> set[str]:
    """The files of this project that the file `path` imports, the packages on the way among them."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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
    return files


if __name__ == "__main__":
    run(main)
