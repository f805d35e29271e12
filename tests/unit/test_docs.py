"""Docs say what the code says."""

from pathlib import Path

from backend.settings import REPOSITORY, Settings


def test_every_setting_is_documented_with_its_help_line() -> None:
    table = (REPOSITORY / "docs" / "settings.md").read_text()
    for name, field in Settings.model_fields.items():
        default = field.default.relative_to(REPOSITORY) if isinstance(field.default, Path) else field.default
        shown = f"`{default}`" if str(default) else "(empty)"
        assert f"| `EYEPIECE_{name.upper()}` | {field.annotation.__name__} | {shown} | {field.description} |" in table


def test_every_link_between_documents_leads_somewhere() -> None:
    for document in [REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md"), REPOSITORY / "demo" / "README.md"]:
        for part in document.read_text().split("](")[1:]:
            target = part.split(")")[0].split("#")[0]
            if target and "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"
