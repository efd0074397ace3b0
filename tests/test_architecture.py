"""The direction of imports: runner → tasks → domains → ground floor."""

import ast
from pathlib import Path

import decathlon

ROOT = Path(decathlon.__file__).parent
GROUND = {"errors", "files", "build"}
RUNNER = {path.stem for path in ROOT.glob("*.py")} - GROUND - {"__init__"}
DOMAINS = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"tasks", "configs", "__pycache__"}


def imported(path: Path) -> set[str]:
    """First parts below ``decathlon`` of a file's imports; ``tasks.<task>`` for tasks."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "decathlon" and len(parts) > 1:
                found.add(".".join(parts[1:3]) if parts[1] == "tasks" else parts[1])
    return found


def test_the_ground_floor_imports_nothing_above() -> None:
    for name in GROUND:
        assert imported(ROOT / f"{name}.py") <= GROUND


def test_domains_know_neither_tasks_nor_runner() -> None:
    for domain in DOMAINS:
        for path in (ROOT / domain).rglob("*.py"):
            assert imported(path) <= GROUND | DOMAINS, path


def test_a_task_knows_no_other_task_and_no_runner() -> None:
    for path in (ROOT / "tasks").glob("*/**/*.py"):
        task = path.relative_to(ROOT / "tasks").parts[0]
        assert imported(path) <= GROUND | DOMAINS | {f"tasks.{task}"}, path


def test_the_runner_names_no_paper() -> None:
    for name in RUNNER:
        assert not imported(ROOT / f"{name}.py") & DOMAINS
        assert not any(part.startswith("tasks") for part in imported(ROOT / f"{name}.py"))
