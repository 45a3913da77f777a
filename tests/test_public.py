"""The package as a Python user meets it."""

import re
import subprocess
import sys

import pytest
from repository import DOCS

import auditor
from auditor import registry


@pytest.mark.parametrize("name", auditor._HOME)
def test_every_public_name_is_there(name):
    assert getattr(auditor, name).__name__ == name
    assert name in dir(auditor)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        auditor.nonsense  # noqa: B018


def test_importing_the_package_imports_nothing_heavy():
    heavy = "numpy", "pandas", "torch", "scipy"
    code = f"import auditor, sys; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_page_on_formats_says_what_the_code_says_of_every_format():
    """Remade by ``python docs/generate.py``."""
    sys.path.insert(0, str(DOCS))
    try:
        from generate import formats_page
    finally:
        sys.path.remove(str(DOCS))
    page = (DOCS / "formats.md").read_text()
    assert formats_page(page) == page
    assert all(f"## `{name}`" in page for name in registry.FORMATS)


def test_every_command_on_the_page_on_formats_names_options_that_there_are(audit):
    blocks = (DOCS / "formats.md").read_text().replace("\\\n", "").split("```")[1::2]
    commands = [line for block in blocks for line in block.splitlines() if line.startswith("audit run")]
    assert len(commands) >= len(registry.FORMATS)
    known = set(re.findall(r"--[a-z0-9-]+", audit("run", "--help").out))
    given = {option for command in commands for option in re.findall(r" (--[a-z0-9-]+)", command)}
    assert given <= known, given - known


def test_the_page_on_the_architecture_names_every_room_as_its_own_docstring_does():
    """Remade by ``python docs/generate.py``."""
    sys.path.insert(0, str(DOCS))
    try:
        from generate import architecture_page
    finally:
        sys.path.remove(str(DOCS))
    page = (DOCS / "architecture.md").read_text()
    assert architecture_page(page) == page
    assert all(f"| `{room.parent.name}/` |" in page for room in (DOCS.parent / "auditor").glob("*/__init__.py"))


def test_the_page_on_metrics_is_what_the_code_says():
    """Remade by ``python docs/generate.py``."""
    sys.path.insert(0, str(DOCS))
    try:
        from generate import page
    finally:
        sys.path.remove(str(DOCS))
    assert (DOCS / "metrics.md").read_text() == page()
    assert all(f"## `{name}`" in page() for name in registry.METRICS)
