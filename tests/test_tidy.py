"""The rules of the house that a machine can check: who may import whom, what the pure parts may touch, and the size of things.

Each rule reads the sources with `ast`; nothing of the project is imported. A rule that needs an exception names the file and why.
"""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_FUNCTION_LINES = 75
MAX_FILE_LINES = 700

VALUES = {"errors", "raft", "kv", "storage", "codec"}
REPLICA = {"divergence", "ports", "repair", "replica", "space", "startup", "transfer"}
"""The replica and its pieces."""
OURS: dict[str, set[str]] = {
    "__init__": {"connecting", "errors"},
    "errors": set(),
    "raft": {"errors"},
    "kv": {"errors"},
    "codec": {"errors", "raft", "kv"},
    "storage": {"errors", "raft.types", "kv.store", "codec"},
    "router": VALUES,
    **dict.fromkeys(REPLICA, VALUES | REPLICA),
    "turns": {*VALUES, *REPLICA, "router"},
    "server": {*VALUES, *REPLICA, "router", "turns"},
    "sim": {*VALUES, *REPLICA, "router", "turns", "client"},
    "client": {"errors", "codec"},
    "connecting": {"client"},
    "objects": {"errors", "server", "client"},
}
"""What a part may import of the package, besides itself. `kv.store` is the interface that storage implements."""

PURE: dict[str, set[str]] = {
    "raft": {"msgspec"},
    "kv": {"msgspec", "xxhash"},
    "codec": {"msgspec", "xxhash", "google_crc32c", "hiredis"},
    "router": {"msgspec"},
}
"""Parts that decide and never act, and the packages of others that they may import. What they do is a function of what they are
told: no clock, no disk, no socket, no thread, no randomness of their own, no log."""

PURE_STANDARD = {
    "__future__", "abc", "binascii", "bisect", "collections", "contextlib", "dataclasses", "decimal", "enum", "fnmatch", "functools",
    "hashlib", "heapq", "hmac", "itertools", "math", "operator", "re", "string", "struct", "traceback", "types", "typing",
    "typing_extensions",
}  # fmt: skip
PURE_NAMES = {"random": {"Random"}, "pathlib": {"PurePath", "PurePosixPath"}}
"""Modules that a pure part may take exactly these names from: `Random` is the type of what it is handed."""

OS_WITHOUT_FILES = {"PathLike", "cpu_count", "environ", "fspath", "getpid", "register_at_fork", "sysconf", "times", "urandom"}
FILE_MODULES = {"os", "io", "shutil", "tempfile", "glob", "fcntl", "mmap", "msvcrt"}
FILES_ALLOWED: dict[str, str] = {
    "raftkv/storage/disk.py": "it is the only module that calls os for files",
    "raftkv/storage/store.py": "RocksDB opens its files by itself, below a path that it is given",
    "raftkv/server/input.py": "it reads standard input to its end",
    "raftkv/server/status.py": "it reads the memory of its own process from /proc",
}
BROAD = {"Exception", "BaseException"}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}


@dataclass(frozen=True)
class Source:
    """One Python file: its path from the root, its text, its tree."""

    path: str
    text: str
    tree: ast.Module

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """Every node of the tree."""
        return list(ast.walk(self.tree))

    def at(self, node: ast.AST, what: str) -> str:
        """A finding, as an editor can jump to."""
        return f"{self.path}:{getattr(node, 'lineno', 1)}: {what}"

    @property
    def part(self) -> str:
        """The part of the package that the file belongs to: ``raft`` for raftkv/raft/log.py, ``replica`` for raftkv/replica.py."""
        return Path(self.path).parts[1].removesuffix(".py")

    @property
    def package(self) -> str:
        """The dotted path below raftkv: ``raft.types``."""
        return ".".join(Path(self.path).with_suffix("").parts[1:])


@cache
def below(top: str) -> tuple[Source, ...]:
    """Every Python file below the directory `top`."""
    found = []
    for path in sorted((ROOT / top).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        found.append(Source(path.relative_to(ROOT).as_posix(), text, ast.parse(text, str(path))))
    return tuple(found)


def sources(*tops: str) -> list[Source]:
    """Every Python file below the directories `tops`."""
    return [source for top in tops for source in below(top)]


def everything() -> list[Source]:
    """All Python files of the project."""
    return sources("raftkv", "cli", "benchmarks", "tests", *(["examples"] if (ROOT / "examples").is_dir() else []))


def imports(source: Source) -> Iterator[tuple[ast.stmt, str, str | None]]:
    """Each import of `source` as (statement, module, name or None), those under TYPE_CHECKING too."""
    for node in source.nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name, None
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node, node.module or "", alias.name


def functions(source: Source) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Each function of `source`, nested ones and methods included."""
    for node in source.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def dotted(node: ast.AST) -> str:
    """The name that `node` is, such as ``time.sleep``, or the empty string if it is no plain name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := dotted(node.value)):
        return f"{owner}.{node.attr}"
    return ""


def check(findings: list[str]) -> None:
    """Fail with one finding a line."""
    if findings:
        pytest.fail("\n".join(["", *findings]), pytrace=False)


def inside(target: str, allowed: set[str]) -> bool:
    """Whether the dotted path `target` is one of `allowed` or below one."""
    return any(target == one or target.startswith(one + ".") for one in allowed)


def test_parts_import_only_what_lies_below_them() -> None:
    """Inside the package, imports point downwards only, as the table of the architecture says."""
    findings = []
    for source in sources("raftkv"):
        if source.part not in OURS:
            findings.append(f"{source.path}: {source.part} has no row in the table of import directions")
            continue
        for node, module, name in imports(source):
            if module == "raftkv" and name is not None and name != "__version__":
                module = f"raftkv.{name}"
            if not module.startswith("raftkv."):
                continue
            target = module.removeprefix("raftkv.")
            if target.split(".")[0] != source.part and not inside(target, OURS[source.part]):
                findings.append(source.at(node, f"{source.part} may not import raftkv.{target}"))
    check(findings)


def test_nothing_imports_the_command_line_or_the_benchmarks() -> None:
    """The package does not know of its command line nor of its benchmarks, and these two not of each other."""
    outside = {"cli", "benchmarks", "raftkv_cli", "raftkv_bench", "tests"}
    own = {"raftkv": set(), "cli": {"raftkv_cli"}, "benchmarks": {"raftkv_bench"}}
    check(
        [
            source.at(node, f"may not import {module}")
            for top, permitted in own.items()
            for source in sources(top)
            for node, module, _ in imports(source)
            if module.split(".")[0] in outside - permitted
        ]
    )


def test_pure_parts_import_nothing_that_acts() -> None:
    """The core, the state machine, the codecs and the router import no clock, disk, socket, thread, randomness or log."""
    findings = []
    for source in sources("raftkv"):
        if source.part not in PURE:
            continue
        for node, module, name in imports(source):
            top = module.split(".")[0]
            named = top in PURE_NAMES and (name is None or name in PURE_NAMES[top])
            if not named and top not in {"raftkv", *PURE_STANDARD, *PURE[source.part]}:
                findings.append(source.at(node, f"{source.part} is pure and may not import {module} ({name or module})"))
        for used in source.nodes:
            module, _, name = dotted(used).partition(".") if isinstance(used, ast.Attribute) else ("", "", "")
            if module in PURE_NAMES and name not in PURE_NAMES[module]:
                findings.append(source.at(used, f"{source.part} is pure and may not use {module}.{name}"))
    check(findings)


def test_pure_parts_do_not_depend_on_the_process() -> None:
    """The core, the state machine and the router call neither hash() nor id(), which differ from process to process."""
    check(
        [
            source.at(node, f"{node.func.id}() differs between processes")
            for source in sources("raftkv")
            if source.part in {"raft", "kv", "router"}
            for node in source.nodes
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"hash", "id"}
        ]
    )


def test_only_the_disk_module_touches_files() -> None:
    """Within the package, one module calls the operating system for files, so that the simulator can stand in for it."""
    findings = []
    for source in sources("raftkv"):
        if source.path in FILES_ALLOWED:
            continue
        for node, module, name in imports(source):
            if module in FILE_MODULES and not (module == "os" and (name is None or name in OS_WITHOUT_FILES)):
                findings.append(source.at(node, f"only storage/disk.py uses {module} for files"))
        for found in source.nodes:
            if isinstance(found, ast.Attribute) and isinstance(found.value, ast.Name) and found.value.id == "os":
                if found.attr not in OS_WITHOUT_FILES:
                    findings.append(source.at(found, f"only storage/disk.py calls os.{found.attr}"))
            elif isinstance(found, ast.Call) and isinstance(found.func, ast.Name) and found.func.id == "open":
                findings.append(source.at(found, "only storage/disk.py opens files"))
            elif isinstance(found, ast.Call) and isinstance(found.func, ast.Attribute) and found.func.attr in {
                "read_text", "write_text", "read_bytes", "write_bytes", "iterdir", "rglob", "hardlink_to", "symlink_to",
            }:  # fmt: skip
                findings.append(source.at(found, f"only storage/disk.py uses Path.{found.func.attr}"))
    check(findings)


def test_names_say_what_is_inside() -> None:
    """No file or directory is called utils, helpers, common or misc."""
    check([source.path for source in everything() if FORBIDDEN_NAMES & set(Path(source.path).with_suffix("").parts)])


def test_package_files_hold_no_logic() -> None:
    """An __init__.py holds a docstring, imports, __all__ and __version__, and nothing else."""
    findings = []
    for source in everything():
        if not source.path.endswith("__init__.py"):
            continue
        for node in source.tree.body:
            allowed = isinstance(node, ast.Import | ast.ImportFrom)
            allowed |= isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            allowed |= isinstance(node, ast.Assign) and all(ast.unparse(one).startswith("__") for one in node.targets)
            if not allowed:
                findings.append(source.at(node, "an __init__.py has no logic"))
    check(findings)


def test_every_package_is_typed_and_installed() -> None:
    """Each directory of modules has an __init__.py and a py.typed, and setup.cfg installs it."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    directories = dict(line.replace(" ", "").split("=") for line in config["options"]["package_dir"].split("\n") if line)
    installed = config["options"]["packages"].split()
    findings = []
    for package, top in directories.items():
        for directory in sorted({Path(source.path).parent for source in sources(top)}):
            name = ".".join([package, *directory.parts[1:]])
            if name not in installed:
                findings.append(f"{directory}: setup.cfg does not list the package {name}")
            missing = [file for file in ("__init__.py", "py.typed") if not (ROOT / directory / file).is_file()]
            findings += [f"{directory}: no {file}" for file in missing]
    check(findings)


def test_functions_are_short() -> None:
    """No function is longer than a screen or so."""
    findings = []
    for source in everything():
        for function in functions(source):
            lines = (function.end_lineno or function.lineno) - function.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                findings.append(source.at(function, f"{function.name} has {lines} lines, over {MAX_FUNCTION_LINES}"))
    check(findings)


def test_files_have_one_concern() -> None:
    """No file is so long that it must hold several things."""
    counted = [(source.path, source.text.count("\n")) for source in everything()]
    check([f"{path}: {lines} lines, over {MAX_FILE_LINES}" for path, lines in counted if lines > MAX_FILE_LINES])


def test_modules_and_tests_say_what_they_are_for() -> None:
    """Each module opens with a docstring, and the docstring of each test is the sentence that it proves."""
    findings = []
    for source in everything():
        if not ast.get_docstring(source.tree) and source.tree.body:
            findings.append(source.at(source.tree, "a module opens with what it is"))
        if Path(source.path).name.startswith("test_"):
            findings += [
                source.at(function, f"{function.name} has no docstring")
                for function in functions(source)
                if function.name.startswith("test_") and not ast.get_docstring(function)
            ]
    check(findings)


def test_annotations_are_never_evaluated() -> None:
    """Each module with code, but for package files, begins with `from __future__ import annotations`."""
    findings = []
    for source in everything():
        if source.path.endswith("__init__.py"):
            continue
        code = [node for node in source.tree.body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
        if code and not any(module == "__future__" and name == "annotations" for _, module, name in imports(source)):
            findings.append(f"{source.path}: from __future__ import annotations is missing")
    check(findings)


def test_only_programs_print() -> None:
    """The library never writes to standard output: print is for the command line, the benchmarks and the examples."""
    check(
        [
            source.at(node, "print is for programs")
            for source in sources("raftkv", "tests")
            for node in source.nodes
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        ]
    )


def test_nothing_is_left_for_later() -> None:
    """No marker of unfinished work is in the sources. (A bare NotImplementedError marks what a subclass must say.)"""
    marker = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b|NotImplemented" + r"Error\(")
    check(
        [
            f"{source.path}:{number}: {line.strip()}"
            for source in everything()
            for number, line in enumerate(source.text.splitlines(), 1)
            if marker.search(line)
        ]
    )


def test_no_error_is_swallowed() -> None:
    """Nothing catches every error and goes on as if nothing had happened."""
    findings = []
    for source in everything():
        for node in source.nodes:
            if isinstance(node, ast.ExceptHandler):
                broad = node.type is None or dotted(node.type) in BROAD
                silent = all(isinstance(one, ast.Pass | ast.Continue) for one in node.body)
                if node.type is None or (broad and silent):
                    findings.append(source.at(node, "catches everything" + (" in silence" if silent else "")))
            elif isinstance(node, ast.Call) and dotted(node.func).endswith("suppress") and BROAD & set(map(dotted, node.args)):
                findings.append(source.at(node, "suppresses every error"))
    check(findings)


def test_nothing_is_pickled() -> None:
    """No module unpickles, marshals or evaluates text: bytes from a network or a disk are data."""
    banned = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal"}
    findings = []
    for source in everything():
        findings += [source.at(node, f"imports {module}") for node, module, _ in imports(source) if module.split(".")[0] in banned]
        findings += [
            source.at(node, f"calls {node.func.id}")
            for node in source.nodes
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"eval", "exec"}
        ]
    check(findings)


def test_safety_does_not_hang_on_assert() -> None:
    """The product checks with explicit raises, which `python -O` keeps."""
    check(
        [
            source.at(node, "assert disappears under python -O; raise an error")
            for source in sources("raftkv", "cli", "benchmarks")
            for node in source.nodes
            if isinstance(node, ast.Assert)
        ]
    )


def test_tests_do_not_sleep() -> None:
    """Unit tests wait for nothing; end-to-end tests wait for conditions, with the one function that polls and has a deadline."""
    check(
        [
            source.at(node, "sleeps")
            for source in sources("tests")
            for node in source.nodes
            if isinstance(node, ast.Call) and dotted(node.func) in {"time.sleep", "sleep"}
        ]
    )


def test_importing_the_package_loads_no_server() -> None:
    """`import raftkv` is cheap: it loads no part of the server, no database and no network library."""
    heavy = ("asyncio", "click", "hiredis", "prometheus_client", "pysyncobj", "raftkv.server", "rocksdict", "structlog", "uvloop")
    code = f"import sys, raftkv; sys.stdout.write(' '.join(m for m in {heavy!r} if m in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert loaded.stdout == ""


LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}


def events_logged(source: Source) -> tuple[set[str], list[str]]:
    """The names of the events that `source` logs, and findings about those that have no plain name. A function may be told the name in
    a parameter `event`: then its callers say it."""
    names: set[str] = set()
    findings: list[str] = []
    passing = {function.name for function in functions(source) if "event" in {one.arg for one in function.args.args}}
    for node in source.nodes:
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        logs = node.func.attr in LEVELS and dotted(node.func.value).rpartition(".")[2] in {"events", "_events"}
        if not logs and not (node.func.attr in passing and node.args):
            continue
        name = node.args[0] if node.args else None
        for one in [name.body, name.orelse] if isinstance(name, ast.IfExp) else [name]:
            if isinstance(one, ast.Constant) and isinstance(one.value, str):
                names.add(one.value)
            elif not (passing and isinstance(one, ast.Name) and one.id == "event"):
                findings.append(source.at(node, "an event has a name that can be found"))
    return names, findings


def events_documented(text: str) -> set[str]:
    """The names in the first column of the table of events."""
    section = text.partition("\n## What a node says, and what to do\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def check_events(logged: set[str], documented: set[str]) -> list[str]:
    """What is missing on either side."""
    findings = [f"docs/operations.md does not say what the event {name} means" for name in sorted(logged - documented)]
    return findings + [f"docs/operations.md explains {name}, which nothing logs" for name in sorted(documented - logged)]


def test_operators_find_every_event_explained() -> None:
    """Each event that a node can log has its row in docs/operations.md, and no row is left over."""
    logged: set[str] = set()
    findings: list[str] = []
    for source in sources("raftkv", "cli"):
        if source.part != "sim":  # its events are those of the core, and of a trace
            names, unnamed = events_logged(source)
            logged |= names
            findings += unnamed
    check(findings + check_events(logged, events_documented((ROOT / "docs/operations.md").read_text(encoding="utf-8"))))


def test_an_event_without_a_row_is_noticed_however_it_is_logged() -> None:
    """By a literal, by either of two, or through a function that is told the name; a name that is computed is a finding."""
    text = '''
def note(event): self._events.info(event)
self.events.warning("one" if low else "two", reason=1)
events.error("three")
node.note("four")
self._events.info(f"five_{n}")
'''
    names, unnamed = events_logged(Source("raftkv/x.py", text, ast.parse(text)))
    assert names == {"one", "two", "three", "four"}
    assert len(unnamed) == 1
    table = "\n## What a node says, and what to do\n\n| event |\n|---|\n| `one`, `two` | `no` |\n| `three` | |\n\n## Next\n| `four` |\n"
    assert events_documented(table) == {"one", "two", "three"}
    assert len(check_events(names, {"one", "two", "three", "five"})) == 2
