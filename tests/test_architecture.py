"""Who may import whom, one version for all, and every streaming class under the contract."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "causal_vae": ("causal-vae", set()),
    "causal_codec": ("causal-codec", {"causal_vae"}),
    "streamer_core": ("streamer-core", {"causal_vae"}),
    "streamer_pipeline": ("streamer-pipeline", {"causal_vae", "causal_codec", "streamer_core"}),
}
# streamer_core takes streaming primitives and the loading guard only: it meets the codec and the VAEs as tensors.
PRIMITIVES = {
    "ModelCardMixin",
    "State",
    "StreamingModule",
    "CheckedLoading",
    "flatten_state",
    "map_state",
    "clone_state",
}
PRIMITIVES |= {"check_fields", "take_dtype", "LOADING_OPTIONS", "refuse_unknown"}
PRIMITIVES |= {"CheckedFiles", "StreamSpec", "execution_device"}
WORLD = ROOT / "examples" / "duplex_world" / "duplex_world"
SCRIPTS = sorted(path for path in (ROOT / "examples").rglob("*.py") if WORLD not in path.parents)
LONGEST_EXAMPLE = 120  # lines


def imports(path: Path) -> list[tuple[str, list[str]]]:
    """(module, imported names) of every absolute import in a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.append((node.module, [alias.name for alias in node.names]))
    return found


def sources(package: str) -> list[Path]:
    return sorted((ROOT / "packages" / PACKAGES[package][0] / "src" / package).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package):
    allowed = PACKAGES[package][1] | {package}
    assert sources(package)
    for path in sources(package):
        for module, names in imports(path):
            top = module.split(".")[0]
            assert top not in PACKAGES or top in allowed, f"{path.relative_to(ROOT)} imports {module}"
            if package == "streamer_core" and top == "causal_vae":
                assert set(names) <= PRIMITIVES, f"{path.relative_to(ROOT)} takes {names} from causal_vae"


# Which folder of a package imports which of its others, also inside of functions; every folder may import the modules
# beside the folders, and of these only those that hand a package's names on may import a folder.
FOLDERS = {
    "causal_vae": {"adapters": {"hub"}, "certification": set(), "hub": {"certification"}},
    "causal_codec": {"adapters": set()},
    "streamer_core": {"families": set()},
    "streamer_pipeline": {
        "checkpoints": set(),
        "media": set(),
        "runtime": set(),
        "hub": {"checkpoints", "checks", "evaluation"},
        "checks": {"checkpoints", "hub"},
        "data": {"hub", "media"},
        "training": {"checkpoints", "data", "hub", "media"},
        "evaluation": {"data", "hub", "media"},
        "serve": {"hub", "media", "runtime"},
        "cli": {"checkpoints", "checks", "data", "evaluation", "hub", "media", "runtime", "serve", "training"},
    },
}


def folder_imports(package: str) -> set[tuple[str, str]]:
    """(folder, folder that a module of it imports) by relative imports; "" is the package's own."""
    root, found = ROOT / "packages" / PACKAGES[package][0] / "src" / package, set()
    for path in sources(package):
        inside = path.relative_to(root).parts[:-1]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = inside[: len(inside) - node.level + 1]
                named = [node.module] if node.module else [alias.name for alias in node.names]
                for target in ((*base, *name.split("."))[0] for name in named):
                    found.add(("".join(inside[:1]), target if (root / target).is_dir() else ""))
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_folders_import_one_way(package):
    allowed, found = FOLDERS[package], folder_imports(package)
    assert {folder for folder, _ in found if folder} <= set(allowed)
    for folder, target in found:
        assert not folder or target in {"", folder} | allowed[folder], f"{package}.{folder} imports {target}"
    assert not {("", "serve"), ("", "training"), ("", "evaluation"), ("", "data")} & found


def test_torchaudio_is_the_codecs_alone_and_lazy():
    for package in PACKAGES:
        for path in sources(package):
            tree = ast.parse(path.read_text())
            top_level = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
            modules = [
                name
                for node in top_level
                for name in ([node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
            ]
            assert not any((name or "").startswith("torchaudio") for name in modules), path
            if package != "causal_codec":
                assert not any(module.startswith("torchaudio") for module, _ in imports(path)), path


def test_examples_and_tests_import_public_names_only():
    for path in [*(ROOT / "examples").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        for module, names in imports(path):
            if module.split(".")[0] in PACKAGES:
                assert not any(name.startswith("_") for name in names), f"{path} imports private names from {module}"


def test_no_example_imports_another():
    """A script can be read and copied alone: what two of them need is in a package."""
    assert {path.parent.name for path in SCRIPTS} == {"talk", "train", "swap", "scale", "serve", "duplex_world"}
    names = {path.stem for path in SCRIPTS}
    for path in [*SCRIPTS, *WORLD.rglob("*.py")]:
        found = {module.split(".")[0] for module, _ in imports(path)} & names
        assert not found, f"{path.relative_to(ROOT)} imports the script {', '.join(found)}"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_an_example_opens_with_its_command_and_is_short(path):
    """A sentence, then a block that runs this very file; nothing else comes before."""
    text = path.read_text()
    docstring = ast.get_docstring(ast.parse(text), clean=True) or ""
    summary, _, rest = docstring.partition("\n\n")
    block = rest.partition("\n\n")[0]
    assert "\n" not in summary and summary.endswith((".", "?", "!"))
    assert all(line.startswith("    ") for line in block.splitlines()), "the docstring's first block is the command"
    assert str(path.relative_to(ROOT)) in block
    assert len(text.splitlines()) <= LONGEST_EXAMPLE


def test_packages_know_no_example():
    for package in PACKAGES:
        for path in sources(package):
            assert "duplex_world" not in {module.split(".")[0] for module, _ in imports(path)}, path


def test_one_version_and_exact_pins_between_siblings():
    projects = {
        name: tomllib.loads((ROOT / "packages" / folder / "pyproject.toml").read_text())["project"]
        for name, (folder, _) in PACKAGES.items()
    }
    versions = {project["version"] for project in projects.values()}
    assert len(versions) == 1
    for name, project in projects.items():
        source = (ROOT / "packages" / PACKAGES[name][0] / "src" / name / "__init__.py").read_text()
        assert f'__version__ = "{project["version"]}"' in source
        pins = {line for line in project["dependencies"] if line.startswith("wan-")}
        expected = {f"wan-{PACKAGES[sibling][0].removeprefix('wan-')}" for sibling in PACKAGES[name][1]}
        assert pins == {f"{sibling}=={project['version']}" for sibling in expected}


def test_the_hf_libraries_import_together():
    """A torchaudio that does not match torch breaks diffusers at import: say so here rather than everywhere."""
    import diffusers  # noqa: F401
    import torchaudio  # noqa: F401
    import transformers  # noqa: F401
