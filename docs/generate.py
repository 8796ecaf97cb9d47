"""Pages made when the documentation is built: one a system, the results, the benchmarks, the list of decisions."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from itemic import registry
from itemic.evaluation.tables import results_table, systems_table

ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: Any) -> Files:
    """Adds the generated pages to those of the folder; MkDocs calls it."""
    pages = {"results.md": _results(), "systems.md": _systems(), "decisions.md": _decisions()}
    pages["benchmarks.md"] = (ROOT / "benchmarks" / "README.md").read_text()
    pages |= {f"systems/{name}.md": _system(name) for name in registry.entries()}
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def _results() -> str:
    return (
        f"# Results\n\nMade by `itemic reproduce`, beside the published numbers.\n\n{results_table(ROOT / 'results')}\n"
    )


def _systems() -> str:
    return f"# Systems\n\n{systems_table(ROOT / 'results', link='systems/{}.md')}\n"


def _system(name: str) -> str:
    model = registry.find(name)
    entry = registry.entries()[name]
    docstring = (__import__(entry.module, fromlist=["__doc__"]).__doc__ or "").strip()
    options = ["| option | default | meaning |", "| --- | --- | --- |"]
    for option, field in model.Config.model_fields.items():
        meaning = (field.description or "").replace("\n", " ").replace("|", "\\|")
        options.append(f"| `{option}` | `{field.default}` | {meaning} |")
    facts = [
        f"- needs: {', '.join(entry.needs)}",
        f"- answers queries with: {', '.join(entry.answers)}",
        f"- items never trained on: {'yes' if entry.cold_items else 'no'}",
    ]
    facts += [f"- paper: {entry.paper}"] if entry.paper else []
    has_results = any((ROOT / "results").glob(f"{name}__*.json"))
    measured = results_table(ROOT / "results", system=name) if has_results else "Not measured yet."
    parts = [f"# {name}", docstring, "\n".join(facts), "## Options", "\n".join(options), "## Measured", measured]
    return "\n\n".join(parts) + "\n"


def _decisions() -> str:
    lines = [
        "# Decisions",
        "",
        "What was asked, what was measured, what was chosen, and what would change our mind.",
        "",
    ]
    for path in sorted((ROOT / "docs" / "decisions").glob("*.md")):
        title = path.read_text().splitlines()[0].lstrip("# ")
        lines.append(f"- [{title}](decisions/{path.name})")
    return "\n".join(lines) + "\n"
