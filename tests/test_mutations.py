"""The list of mutations does not rot: every entry can still be tried, and trying tells a guard from none."""

import subprocess
from pathlib import Path

import pytest
from run_mutations import Mutation, copy_of, fault, read_mutations, try_mutation

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "mutations").glob("*.toml")), ids=lambda path: path.stem)
def test_every_entry_can_be_tried(path):
    """Its text occurs once, its test is there; `make mutations` tries them."""
    entries = [entry for entry in read_mutations(path.parent) if entry.name.startswith(f"{path.stem}.")]
    assert entries
    assert not {entry.name: reason for entry in entries if (reason := fault(entry, ROOT)) is not None}


@pytest.fixture
def tree(tmp_path):
    """A project of one function and one test, in which an ignored file lies about."""
    (tmp_path / "half.py").write_text("def half(x):\n    assert x >= 0\n    return x / 2\n")
    (tmp_path / "test_half.py").write_text("from half import half\n\n\ndef test_four():\n    assert half(4) == 2\n")
    (tmp_path / ".gitignore").write_text("ignored.txt\n")
    (tmp_path / "ignored.txt").write_text("")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    return tmp_path


def entry(before: str, after: str, test: str = "test_half.py::test_four") -> Mutation:
    return Mutation("half.1", "", "half.py", before, after, test)


def test_a_mutation_that_a_test_sees_is_told_from_one_that_it_does_not_see(tree):
    with copy_of(tree) as copy:
        assert sorted(path.name for path in copy.iterdir()) == [".gitignore", "half.py", "test_half.py"]
        assert try_mutation(entry("x / 2", "x / 3"), copy, 60) is None
        assert try_mutation(entry("x >= 0", "True"), copy, 60) == "the test still passes"
        assert "could not run" in try_mutation(entry("return x", "return return x"), copy, 60)
        assert (copy / "half.py").read_text() == (tree / "half.py").read_text()


@pytest.mark.parametrize(
    ("mutation", "reason"),
    [
        (entry("x * 2", ""), "occurs 0 times"),
        (entry("x", ""), "occurs 3 times"),
        (entry("x / 2", "x / 2"), "nothing is taken out"),
        (entry("x / 2", "x", "test_half.py::test_five"), "there is no test"),
        (entry("x / 2", "x", "test_half.py"), "there is no test"),
        (entry("x / 2", "x", "test_half.py::Case::test_four"), "there is no test"),
    ],
)
def test_an_entry_that_cannot_be_tried_says_why(tree, mutation, reason):
    assert reason in fault(mutation, tree)
