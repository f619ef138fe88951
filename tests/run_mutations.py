"""Take each guarded thing out, one at a time, and demand that the test which guards it falls.

    python tests/run_mutations.py                   # every entry of tests/mutations/*.toml
    python tests/run_mutations.py --only surface    # the entries of one list, or one of them: surface.3
    python tests/run_mutations.py --jobs 2

An entry says what must hold, and how the source looks without what makes it hold:

    [[mutation]]
    law = "one plain sentence"
    file = "packages/.../x.py"                       # relative to the root
    before = '''source text that occurs once'''
    after = '''the same without the guarded thing'''
    test = "tests/.../test_x.py::test_name[id]"      # or "tests/.../test_x.py::test_name -k EXPRESSION"

Nothing here is touched: the mutations are made in a copy of the tracked and the new files.
"""

from __future__ import annotations

import ast
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
FIELDS = {"law", "file", "before", "after", "test"}
PASSED, FAILED = 0, 1  # exit codes of pytest; the others say that it could not run what was asked for


@dataclass(frozen=True)
class Mutation:
    """One entry; `name` is its list and its place there, "surface.3"."""

    name: str
    law: str
    file: str
    before: str
    after: str
    test: str

    @property
    def arguments(self) -> list[str]:
        """What pytest is told to run."""
        node, _, expression = self.test.partition(" -k ")
        return [node, "-k", expression.strip("'\"")] if expression else [node]


def read_mutations(folder: Path) -> list[Mutation]:
    """Every entry of the lists in a folder.

    Raises:
        ValueError: a list cannot be parsed, or an entry lacks a field or has one too many.
    """
    found = []
    for path in sorted(folder.glob("*.toml")):
        try:
            entries = tomllib.loads(path.read_text(encoding="utf-8")).get("mutation", [])
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{path} is not TOML: {error}") from error
        for number, entry in enumerate(entries, 1):
            if wrong := FIELDS ^ entry.keys():
                raise ValueError(f"{path}, entry {number} lacks or has too many: {', '.join(sorted(wrong))}")
            found.append(Mutation(f"{path.stem}.{number}", **entry))
    return found


def fault(mutation: Mutation, root: Path) -> str | None:
    """What keeps an entry from being tried in this tree: its text is gone, or its test is."""
    source, test = root / mutation.file, root / mutation.test.partition("::")[0]
    if not source.is_file():
        return f"there is no file {mutation.file}"
    if (count := source.read_text(encoding="utf-8").count(mutation.before)) != 1:
        return f"`before` occurs {count} times in {mutation.file}, not once"
    if mutation.before == mutation.after:
        return "`after` is `before`: nothing is taken out"
    names = mutation.test.partition(" -k ")[0].partition("[")[0].split("::")[1:]
    if not names or not test.is_file() or not _defines(ast.parse(test.read_text(encoding="utf-8")), names):
        return f"there is no test {mutation.test}"
    return None


def _defines(tree: ast.Module | ast.ClassDef, names: list[str]) -> bool:
    """Whether a function, or a class and its method, is defined there."""
    first, *rest = names
    kinds = ast.ClassDef if rest else ast.FunctionDef | ast.AsyncFunctionDef
    found = [node for node in tree.body if isinstance(node, kinds) and node.name == first]
    return bool(found) and (not rest or _defines(found[-1], rest))


@contextmanager
def copy_of(root: Path) -> Iterator[Path]:
    """A temporary copy of the files that git tracks or would add."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=root, capture_output=True, text=True, check=True).stdout.split("\0")
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        for name in filter(None, names):
            if (root / name).is_file():
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root / name, Path(folder) / name)
        yield Path(folder)


def run_tests(tree: Path, arguments: Iterable[str], timeout: float) -> tuple[int | None, str]:
    """pytest's exit code (None: it did not end in time), and what it wrote."""
    folders = ("tests", "examples/duplex_world", "benchmarks")
    paths = [*sorted((tree / "packages").glob("*/src")), *(tree / name for name in folders)]
    # No bytecode: a file that is changed twice in a second could be taken for its older self.
    own = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *arguments]
    try:
        done = subprocess.run(
            command, cwd=tree, env=os.environ | own, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return None, f"did not end in {timeout:.0f} s"
    return done.returncode, done.stdout + done.stderr


def try_mutation(mutation: Mutation, tree: Path, timeout: float) -> str | None:
    """None if the test falls without the guarded thing, else what happened in place of that. The tree is restored."""
    if (reason := fault(mutation, tree)) is not None:
        return reason
    source = tree / mutation.file
    text = source.read_text(encoding="utf-8")
    source.write_text(text.replace(mutation.before, mutation.after), encoding="utf-8")
    try:
        code, output = run_tests(tree, mutation.arguments, timeout)
    finally:
        source.write_text(text, encoding="utf-8")
    if code == FAILED:
        return None
    last = next((line for line in reversed(output.splitlines()) if line.strip()), "")
    return "the test still passes" if code == PASSED else f"pytest could not run it (exit code {code}): {last}"


def try_unmutated(mutations: list[Mutation], tree: Path, timeout: float) -> str | None:
    """None if every named test passes as things are, else what pytest wrote last."""
    plain = {tuple(m.arguments) for m in mutations if len(m.arguments) == 1}
    runs = [[node for (node,) in sorted(plain)]] if plain else []
    runs += map(list, sorted({tuple(m.arguments) for m in mutations if len(m.arguments) > 1}))
    for arguments in runs:
        code, output = run_tests(tree, arguments, timeout * len(arguments))
        if code != PASSED:
            return "\n".join(output.splitlines()[-15:])
    return None


def main(
    only: Annotated[str | None, typer.Option(help="a list (surface) or one entry of it (surface.3)")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="mutations tried at once")] = 1,
    timeout: Annotated[float, typer.Option(min=1, help="seconds that one test may take")] = 600.0,
) -> None:
    """Exit with 1 if a test still passes without what it guards."""
    console = Console()
    mutations = read_mutations(ROOT / "tests" / "mutations")
    if only is not None:
        mutations = [mutation for mutation in mutations if only in (mutation.name, mutation.name.partition(".")[0])]
    if not mutations:
        console.print(f"no entry is called {only}" if only else "there are no entries", highlight=False)
        raise typer.Exit(1)
    with copy_of(ROOT) as tree:
        console.print(f"{len(mutations)} entries; first their tests as things are", highlight=False)
        sound = [mutation for mutation in mutations if fault(mutation, tree) is None]
        if (output := try_unmutated(sound, tree, timeout)) is not None:
            console.print(f"a named test fails without any mutation:\n{escape(output)}", highlight=False)
            raise typer.Exit(1)
    table = Table("entry", "law", "test", "found", "s", title="What falls when the guarded thing is taken out")
    num_wrong = 0
    for mutation, reason, seconds in _try_all(mutations, jobs, timeout):
        num_wrong += reason is not None
        found = "[green]falls[/green]" if reason is None else f"[red]{escape(reason)}[/red]"
        console.print(f"{mutation.name}: {found}", highlight=False, soft_wrap=True)
        table.add_row(mutation.name, escape(mutation.law), escape(mutation.test), found, f"{seconds:.0f}")
    console.print(table)
    console.print(f"{len(mutations) - num_wrong} of {len(mutations)} fall as they should", highlight=False)
    if num_wrong:
        raise typer.Exit(1)


def _try_all(mutations: list[Mutation], jobs: int, timeout: float) -> Iterator[tuple[Mutation, str | None, float]]:
    """(entry, what went wrong, seconds) in the order of the list; every job has a tree of its own."""
    trees: queue.SimpleQueue[Path] = queue.SimpleQueue()

    def attempt(mutation: Mutation) -> tuple[Mutation, str | None, float]:
        tree, start = trees.get(), time.monotonic()
        try:
            return mutation, try_mutation(mutation, tree, timeout), time.monotonic() - start
        finally:
            trees.put(tree)

    with ExitStack() as stack:
        for _ in range(jobs):
            trees.put(stack.enter_context(copy_of(ROOT)))
        yield from stack.enter_context(ThreadPoolExecutor(jobs)).map(attempt, mutations)


if __name__ == "__main__":
    typer.run(main)
