"""The package's own rules, read from its source: who imports whom, who may touch RecBole, and how large things are."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = "recbole_hnlm"
ROOT = Path(__file__).parents[1] / PACKAGE
FILES = sorted(ROOT.rglob("*.py"))

OURS: dict[str, set[str]] = {
    "options": {"options"},
    "artefacts": {"artefacts"},
    "samplers": {"options", "samplers"},
    "run_options": {"options", "run_options", "samplers"},
    "llm": {"options", "artefacts", "llm"},
    "generators": set(),
    "graph_models": {"generators", "graph_models"},
    "trees": {"samplers", "artefacts", "trees"},
    "models": {
        *("options", "run_options", "generators", "samplers"),
        *("artefacts", "graph_models", "trees", "models"),
    },
    "training": {"options", "run_options", "samplers", "models", "training"},
    "building": {
        *("options", "run_options", "artefacts", "samplers", "trees", "llm", "models"),
        *("config", "data_source", "model_lookup", "training", "building"),
    },
    "leak": {"artefacts", "config", "quick_start", "training", "models", "samplers", "leak"},
    "compat": {"compat"},
}
"""Part of the package -> the parts that it may import; parts without an entry may import anything."""
FOREIGN: dict[str, set[str]] = {
    "options": set(),
    "run_options": set(),
    "generators": {"torch"},
    "graph_models": {"torch", "recbole"},
    "artefacts": {"numpy", "pandas", "pyarrow"},
    "samplers": {"torch", "numpy"},
    "trees": {"torch", "numpy", "scipy", "sklearn"},
    "models": {"torch", "numpy", "scipy", "recbole"},
    "compat": {"torch", "numpy", "scipy", "pandas", "ray"},
}
"""Part of the package -> the distributions that it may import."""
MAY_CHANGE_OTHERS = ("compat/", "registration.py")
"""The only files that set attributes on what is not ours."""


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _part(path: Path) -> str:
    """The part a file belongs to: its folder, or its own name."""
    return _short(path).split("/")[0].removesuffix(".py")


def _imports(path: Path) -> Iterator[tuple[str, int]]:
    """Full names of imported modules, wherever in the file, relative ones resolved, with their lines."""
    package = [PACKAGE, *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module, node.lineno
            if module == PACKAGE:  # "from recbole_hnlm import options"
                yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            name = node.args[0] if node.args else None
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield name.value, node.lineno


def _of_part(part: str) -> list[Path]:
    return [path for path in FILES if _part(path) == part]


class TestArrows:
    @pytest.mark.parametrize("part", sorted(OURS))
    def test_a_part_imports_only_what_lies_below(self, part: str) -> None:
        files = _of_part(part)
        assert files, f"{part} has gone; adapt this test"
        wrong = []
        for path in files:
            for module, line in _imports(path):
                names = module.split(".")
                if names[0] == PACKAGE and len(names) > 1 and names[1] not in OURS[part]:
                    wrong.append(f"{_short(path)}:{line} imports {module}")
        assert not wrong

    @pytest.mark.parametrize("part", sorted(FOREIGN))
    def test_a_part_imports_only_the_distributions_it_may(self, part: str) -> None:
        wrong = []
        for path in _of_part(part):
            for module, line in _imports(path):
                name = module.split(".")[0]
                if name not in {PACKAGE, *FOREIGN[part], *sys.stdlib_module_names}:
                    wrong.append(f"{_short(path)}:{line} imports {module}")
        assert not wrong

    def test_nobody_imports_transformers_but_llm(self) -> None:
        heavy = {"transformers", "sentence_transformers", "peft", "bitsandbytes", "openai"}
        wrong = [
            f"{_short(path)}:{line} imports {module}"
            for path in FILES
            if _part(path) != "llm"
            for module, line in _imports(path)
            if module.split(".")[0] in heavy
        ]
        assert not wrong

    def test_nobody_imports_compare_but_its_command(self) -> None:
        wrong = [
            f"{_short(path)}:{line} imports {module}"
            for path in FILES
            if _part(path) not in ("compare", "cli")
            for module, line in _imports(path)
            if module.startswith(f"{PACKAGE}.compare")
        ]
        assert not wrong

    def test_what_is_really_loaded(self) -> None:
        """The same from outside: nothing heavy comes in by a detour."""
        code = (
            "import sys, recbole_hnlm; heavy = {'torch', 'recbole', 'pandas', 'transformers'}\n"
            "print(sorted(heavy & set(sys.modules)))\n"
            "import recbole_hnlm.options; print(sorted(heavy & set(sys.modules)))\n"
            "import recbole_hnlm.run_options; print(sorted(heavy & set(sys.modules)))\n"
        )
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
        assert process.stdout.splitlines() == ["[]", "[]", "['torch']"]

    def test_relative_imports_are_resolved(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The checks above can fail: every way to write an import is seen."""
        monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
        path = tmp_path / "samplers" / "bad.py"
        path.parent.mkdir()
        path.write_text(
            "from . import base\nfrom ..models import view\nfrom recbole_hnlm import llm\nimport recbole.data as d\n"
            "def f():\n    import transformers\n    importlib.import_module('recbole_hnlm.building.artefacts')\n"
        )
        assert [module for module, _ in _imports(path)] == [
            *("recbole_hnlm.samplers", "recbole_hnlm.models", "recbole_hnlm", "recbole_hnlm.llm", "recbole.data"),
            *("transformers", "recbole_hnlm.building.artefacts"),
        ]


def _imported_names(tree: ast.Module) -> set[str]:
    """Names that an import of something foreign binds."""
    bound = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            bound |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and not (node.module or "").startswith(PACKAGE):
            bound |= {alias.asname or alias.name for alias in node.names}
    return bound


def _root(node: ast.expr) -> str | None:
    """``a`` of ``a.b["c"].d``."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "vars" and node.args:
        return _root(node.args[0])
    return node.id if isinstance(node, ast.Name) else None


def _changes_of_others(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Assignments to attributes of imported things, and ``setattr`` on anything but ``self``."""
    foreign = _imported_names(tree)
    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        if isinstance(node, (ast.Assign, ast.Delete)):
            targets = node.targets
        elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
            targets = [node.target]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "delattr"):
            target = ast.unparse(node.args[0])
            if target != "self":
                yield node.lineno, f"{ast.unparse(node.func)} on {target}"
        for assigned in targets:
            if isinstance(assigned, (ast.Attribute, ast.Subscript)) and _root(assigned) in foreign:
                yield node.lineno, ast.unparse(assigned)


class TestOnlyTwoPlacesChangeOthers:
    @pytest.mark.parametrize("path", FILES, ids=_short)
    def test_no_patching(self, path: Path) -> None:
        if _short(path).startswith(MAY_CHANGE_OTHERS):
            pytest.skip("may")
        assert not list(_changes_of_others(_tree(path)))

    @pytest.mark.parametrize(
        ("line", "seen"),
        [
            ("torch.load = f", True),
            ("recbole.data.x['y'] = 1", True),
            ("del torch.load", True),
            ("vars(torch)['load'] = f", True),
            ("torch.backends.flag |= 1", True),
            ("setattr(model, 'forward', f)", True),
            ("setattr(self, name, value)", False),
            ("self.load = torch.load", False),
            ("rows[0] = torch.zeros(3)", False),
        ],
    )
    def test_the_check_sees(self, line: str, seen: bool) -> None:
        assert bool(list(_changes_of_others(ast.parse(f"import torch, recbole.data\n{line}")))) is seen


Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(path: Path) -> Iterator[tuple[Function, str, bool]]:
    """Every function with its name for messages, and whether it is public by all names on the way to it."""

    def below(node: ast.AST, prefix: str, public: bool, within_function: bool) -> Iterator[tuple[Function, str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                shown = public and not within_function and not child.name.startswith("_")
                yield child, f"{prefix}{child.name}", shown
                yield from below(child, f"{prefix}{child.name}.", False, True)
            elif isinstance(child, ast.ClassDef):
                yield from below(child, f"{prefix}{child.name}.", public and not child.name.startswith("_"), False)
            else:
                yield from below(child, prefix, public, within_function)

    yield from below(_tree(path), f"{_short(path)}:", True, False)


def _parameters(function: Function) -> list[ast.arg]:
    """Parameters in order, without ``self`` and ``cls``."""
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    every += [extra for extra in (arguments.vararg, arguments.kwarg) if extra]
    return every[1:] if every and every[0].arg in ("self", "cls") else every


@pytest.mark.parametrize("path", FILES, ids=_short)
class TestSize:
    def test_module(self, path: Path) -> None:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 250

    def test_functions(self, path: Path) -> None:
        sizes = {name: (f.end_lineno or f.lineno) - f.lineno + 1 for f, name, _ in _functions(path)}
        assert {name: size for name, size in sizes.items() if size > 60} == {}

    def test_constructors(self, path: Path) -> None:
        counts = {name: len(_parameters(f)) for f, name, _ in _functions(path) if f.name == "__init__"}
        assert {name: count for name, count in counts.items() if count > 6} == {}


@pytest.mark.parametrize("path", FILES, ids=_short)
class TestLegibility:
    def test_no_print(self, path: Path) -> None:
        calls = [node for node in ast.walk(_tree(path)) if isinstance(node, ast.Call)]
        assert [call.lineno for call in calls if ast.unparse(call.func) == "print"] == []

    def test_parameters_and_results_are_annotated(self, path: Path) -> None:
        wrong = []
        for function, name, _ in _functions(path):
            if any(ast.unparse(decorator) == "staticmethod" for decorator in function.decorator_list) and (
                function.args.args and function.args.args[0].arg == "ctx"
            ):
                continue  # torch.autograd.Function, whose context has no public type
            wrong += [f"{name}({arg.arg})" for arg in _parameters(function) if arg.annotation is None]
            if function.returns is None:
                wrong.append(f"{name} -> ?")
        assert wrong == []

    def test_public_definitions_are_documented(self, path: Path) -> None:
        tree = _tree(path)
        wrong = [] if ast.get_docstring(tree) else [f"{_short(path)} itself"]
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node):
                wrong.append(node.name)
        wrong += [name for function, name, public in _functions(path) if public and not ast.get_docstring(function)]
        assert wrong == []


def test_every_option_is_documented_at_its_field() -> None:
    """Meaning, range and default stand below the field, in every dataclass of options."""
    wrong, seen = [], 0
    for path in FILES:
        for node in ast.walk(_tree(path)):
            if not isinstance(node, ast.ClassDef) or not node.name.endswith("Options") or node.name == "RunOptions":
                continue
            for field, after in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(field, ast.AnnAssign) and "ClassVar" not in ast.unparse(field.annotation):
                    seen += 1
                    if not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)):
                        wrong.append(f"{node.name}.{ast.unparse(field.target)}")
    assert seen > 30
    assert wrong == []


def test_every_sampler_is_one_file_one_line_one_yaml() -> None:
    from recbole_hnlm.samplers import SAMPLERS

    for name, target in SAMPLERS.items():
        assert target.startswith(f"{PACKAGE}.samplers.{name}:")
        assert (ROOT / "samplers" / f"{name}.py").is_file()
        assert (ROOT.parent / "properties" / "sampler" / f"{name}.yaml").is_file()
