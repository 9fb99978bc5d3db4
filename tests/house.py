"""The rules of the house, read from the source: imports between modules, lengths of files and functions."""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("arcticseg", "shards", "launchers", "configs", "benchmarks", "tests")
FILE_LINES = 400
FUNCTION_LINES = 60

Function = ast.FunctionDef | ast.AsyncFunctionDef


def python_files(root: Path, folders: Sequence[str] = FOLDERS) -> list[Path]:
    """All Python files of these folders."""
    return sorted(path for folder in folders for path in (root / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    """The dotted name of a file, given by its path from the root; a package stands for its `__init__`."""
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def parents_of(module: str) -> list[str]:
    """The packages that a module lies in, outermost first."""
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def import_graph(root: Path, folders: Sequence[str] = FOLDERS) -> dict[str, set[str]]:
    """The modules of these folders that each of their modules imports, also late, but not under TYPE_CHECKING.

    `from package import module` imports the module. Whatever imports a package's module also imports the package, that
    is its `__init__`, unless it stands in that package itself. `import_module` counts where its argument is a string or
    begins with a package's name (`f"package.{name}"`); names in a table are not followed.
    """
    modules = {module_of(path.relative_to(root)): path for path in python_files(root, folders)}
    return {module: _imports_of(module, path, set(modules)) for module, path in modules.items()}


def reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    """All modules that a module imports, directly or through others."""
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph[waiting.pop()] - reached
        reached |= new
        waiting += new
    return reached


def circles(graph: Mapping[str, set[str]]) -> list[str]:
    """Import circles as `a -> b -> a`: enough of them that each module on a circle stands in one."""
    shown: set[str] = set()
    chains = []
    for module in sorted(graph):
        chain = [] if module in shown else _way_back(graph, module)
        if chain:
            shown.update(chain)
            chains.append(" -> ".join(chain))
    return chains


def long_files(root: Path, folders: Sequence[str] = FOLDERS) -> list[str]:
    """`path: lines` of files that are too long."""
    counts = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in python_files(root, folders)}
    return [f"{path.relative_to(root)}: {lines} lines" for path, lines in counts.items() if lines > FILE_LINES]


def long_functions(root: Path, folders: Sequence[str] = FOLDERS) -> list[str]:
    """`path:line name: lines` of functions whose body is too long.

    The body runs from the first statement after the docstring to the function's end, blank lines apart. What a function
    defines within itself is part of its body.
    """
    texts = []
    for path in python_files(root, folders):
        source = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, Function):
                lines = _body_lines(node, source.splitlines())
                if lines > FUNCTION_LINES:
                    texts.append(f"{path.relative_to(root)}:{node.lineno} {node.name}: {lines} lines")
    return texts


def _imports_of(module: str, path: Path, modules: set[str]) -> set[str]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    targets: set[str] = set()
    for node in _run_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        # A script and a test may import a neighbour by its bare name.
        targets.update(name if name in modules else f"{package}.{name}" for name in _names(node, package, modules))
    parents = {parent for target in targets & modules for parent in parents_of(target)} - set(parents_of(module))
    return (targets | parents) & modules - {module}


def _run_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes within a node, those under TYPE_CHECKING left out."""
    children: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        children = node.orelse
    for child in children:
        yield child
        yield from _run_nodes(child)


def _names(node: ast.AST, package: str, modules: set[str]) -> list[str]:
    """The dotted names that one statement or call imports, relative ones in full."""
    match node:
        case ast.Import(names=aliases):
            return [alias.name for alias in aliases]
        case ast.ImportFrom(module=name, names=aliases, level=level):
            parts = package.split(".")[: len(package.split(".")) - level + 1] if level else []
            base = ".".join([*parts, *([name] if name else [])])
            names = [f"{base}.{alias.name}" for alias in aliases]
            return [name if name in modules else base for name in names]
        case ast.Call(func=ast.Name("import_module") | ast.Attribute(attr="import_module"), args=[argument, *_]):
            match argument:
                case ast.Constant(str(name)):
                    return [name]
                case ast.JoinedStr([ast.Constant(str(prefix)), *_]):
                    return [name for name in modules if name.startswith(prefix)]
    return []


def _way_back(graph: Mapping[str, set[str]], start: str) -> list[str]:
    """The shortest chain of imports from a module to itself, both ends included; empty where there is none."""
    importer: dict[str, str] = {}
    waiting = deque([start])
    while waiting:
        module = waiting.popleft()
        for target in sorted(graph[module] - importer.keys()):
            importer[target] = module
            waiting.append(target)
    if start not in importer:
        return []
    chain = [start, importer[start]]
    while chain[-1] != start:
        chain.append(importer[chain[-1]])
    return chain[::-1]


def _body_lines(node: Function, lines: list[str]) -> int:
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    if not body:
        return 0
    first = min([body[0].lineno, *(decorator.lineno for decorator in getattr(body[0], "decorator_list", []))])
    return sum(bool(line.strip()) for line in lines[first - 1 : node.end_lineno])
