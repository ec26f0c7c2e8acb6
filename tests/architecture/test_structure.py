"""The rules of CONTRIBUTING that a program can check."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("shared", "edge_agent", "cloud_hub")
MODULES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
BANNED_NAMES = {"utils", "helpers", "common", "misc", "base", "core", "manager"}
# A file that imports the library must say so in its name, or be one of the places named here.
TECHNOLOGIES = {
    "paho": ("paho_", "mosquitto_"),
    "cv2": ("opencv_",),
    "onnxruntime": ("onnx_",),
    "onnx": ("onnx_",),
    "torch": ("torch_",),
    "flwr": ("flwr_",),
    "zeroconf": ("zeroconf_",),
    "sqlite3": ("sql_",),
    "tuf": ("tuf_",),
    "obstore": ("object_store",),
    "optuna": ("optuna_",),
    "ray": ("ray_",),
    "matplotlib": ("matplotlib_",),
    "sklearn": ("sklearn_",),
    "amqtt": ("amqtt_",),
    "openvino": ("openvino_",),
    "pymodbus": ("modbus_",),
    "tokenizers": ("tokenizers_",),
}


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_module_says_what_lives_there(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), "no module docstring"


@pytest.mark.parametrize("path", [p for p in MODULES if p.name == "__init__.py"], ids=_name)
def test_an_init_holds_a_docstring_and_nothing_else(path: Path) -> None:
    assert len(ast.parse(path.read_text()).body) == 1


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_no_module_is_named_for_nothing(path: Path) -> None:
    assert path.stem not in BANNED_NAMES
    assert path.parent.name not in BANNED_NAMES


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_own_modules_are_never_imported_inside_a_function(path: Path) -> None:
    for function in ast.walk(ast.parse(path.read_text())):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in ast.walk(function):
            match node:
                case ast.ImportFrom(module=str(module)):
                    assert module.split(".")[0] not in PACKAGES
                case ast.Import(names=names):
                    assert not {alias.name.split(".")[0] for alias in names} & set(PACKAGES)
                case _:
                    pass


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_file_that_touches_a_technology_is_named_for_it(path: Path) -> None:
    for module in _imported(path):
        allowed = TECHNOLOGIES.get(module.split(".")[0])
        if allowed is not None:
            assert path.stem.startswith(allowed), f"imports {module}"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_only_the_worker_catches_everything(path: Path) -> None:
    if _name(path) == "shared/worker.py":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"bare except in line {node.lineno}"
            caught = ast.unparse(node.type)
            assert not re.search(r"\b(Base)?Exception\b", caught), f"line {node.lineno}"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_work_left_undone_has_an_issue_number(path: Path) -> None:
    for line in path.read_text().splitlines():
        assert not re.search(r"\b(TODO|FIXME|XXX)\b(?! #\d)", line), line


def _imported(path: Path) -> list[str]:
    modules = []
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.ImportFrom(module=str(module)):
                modules.append(module)
            case ast.Import(names=names):
                modules.extend(alias.name for alias in names)
            case _:
                pass
    return modules
