"""The order of the package: what may import what."""

import ast
from pathlib import Path

import sb3_spiking

PACKAGE = Path(sb3_spiking.__file__).parent
# From the ground up; modules of one line do not import each other, but for those of a folder
FLOORS = (
    ("errors", "files"),
    ("snn",),
    ("settings", "observations", "events"),
    ("extractors",),
    ("relu",),
    ("policies",),
    ("common_mode",),
    ("sharing",),
    ("training",),
    ("evaluation",),
    ("conversion", "hub", "look"),
    ("export",),
    ("zoo",),
    ("sweep",),
    ("chip", "liu2022", "minatar"),  # names that RL Zoo takes
    ("commands",),
    ("__init__", "__main__"),
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}


def place(module):
    """The folder or module of the package that a dotted name leads to, None for other packages."""
    parts = module.split(".")
    if parts[0] != "sb3_spiking":
        return None
    return parts[1] if len(parts) > 1 else "__init__"


def imports(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            for alias in node.names:
                inside = node.module == "sb3_spiking" and alias.name in FLOOR
                yield place(f"sb3_spiking.{alias.name}" if inside else node.module)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield place(alias.name)


def test_imports_run_one_way():
    seen = set()
    for file in PACKAGE.rglob("*.py"):
        first = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        seen.add(first)
        for target in filter(None, imports(file)):
            if target != first:
                assert FLOOR[target] < FLOOR[first], f"{file.relative_to(PACKAGE)} imports {target}, which stands above it"
    assert seen == set(FLOOR)
