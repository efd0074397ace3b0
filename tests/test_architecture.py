"""The rooms of the house and the direction of imports: doors → runner, tables, report → tasks → domains → ground."""

import ast
from pathlib import Path

import pytest

import decathlon

ROOT = Path(decathlon.__file__).parent
DOORS = {"run", "cli"}
GROUND = {path.stem for path in ROOT.glob("*.py")} - DOORS - {"__init__"}
WINGS = {"runner", "tables", "report"}
TASKS = sorted(path.name for path in (ROOT / "tasks").iterdir() if (path / "__init__.py").is_file())
DOMAINS = {path.parent.name for path in ROOT.glob("*/__init__.py")} - WINGS
MAY_IMPORT = {"runner": {"runner"}, "tables": {"tables", "runner"}, "report": {"report", "tables", "runner"}}


def imported(path: Path) -> set[str]:
    """First parts below ``decathlon`` of a file's imports; ``tasks.<task>`` for tasks."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "decathlon" and len(parts) > 1 and not parts[1].startswith("__"):
                found.add(".".join(parts[1:3]) if parts[1] == "tasks" else parts[1])
    return found


def test_a_file_at_the_top_is_a_door_or_the_ground_floor() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == DOORS | GROUND | {"__init__"}
    for name in GROUND:
        assert imported(ROOT / f"{name}.py") <= GROUND, name


@pytest.mark.parametrize("domain", sorted(DOMAINS))
def test_domains_know_neither_tasks_nor_runner(domain: str) -> None:
    for path in (ROOT / domain).rglob("*.py"):
        assert imported(path) <= GROUND | DOMAINS, path


@pytest.mark.parametrize("task", TASKS)
def test_a_task_knows_no_other_task_and_no_runner(task: str) -> None:
    for path in (ROOT / "tasks" / task).rglob("*.py"):
        assert imported(path) <= GROUND | DOMAINS | {f"tasks.{task}"}, path


@pytest.mark.parametrize("wing", sorted(WINGS))
def test_runner_and_tables_name_no_paper(wing: str) -> None:
    for path in (ROOT / wing).rglob("*.py"):
        assert imported(path) <= GROUND | MAY_IMPORT[wing], path
        names = {node.value for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Constant)}
        assert not names & set(TASKS), path
