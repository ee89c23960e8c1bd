"""Make the website with Sphinx: `make docs`. The source folder is the repository's root."""

import ast
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "build/stubs")]  # to read the gateway's docstrings

project = "From Keras to Kubernetes"
root_doc = "docs/index"
include_patterns = ["docs/**", "notebooks/**", "k8s/**", "starter/*", "C*.md"]
exclude_patterns = ["**/.ipynb_checkpoints"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]

myst_heading_anchors = 3  # links to headings work as on GitHub
nb_execution_mode = "off"  # the stored outputs are tested already
nb_ipywidgets_js = {}  # scripts from another server
nb_render_image_options = {"alt": "What the code above draws"}
copybutton_selector = "div.highlight-sh pre, div.highlight-bash pre, div.input_area pre"

default_role = "literal"  # `name` in a docstring
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
add_module_names = False
maximum_signature_line_length = 110

templates_path = ["_templates"]
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "../gateway/static/icon.svg"
html_theme = "sphinx_book_theme"
html_title = project
html_show_copyright = html_show_sphinx = False
html_use_index = html_domain_indices = False
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system
html_additional_pages = {"index": "redirect.html"}
html_theme_options = {
    "show_toc_level": 2,
    "footer_content_items": [],
    "navbar_persistent": [],  # its hidden buttons would take the clicks of the article's
    "use_fullscreen_button": False,
}
if repository := os.environ.get("GITHUB_REPOSITORY"):
    html_theme_options |= {
        "repository_url": f"https://github.com/{repository}",
        "use_repository_button": True,
    }


def prepare(app, docname, source):
    """Begin with the README; list in the sidebar the pages that a folder's README links to."""
    [text] = source
    if docname == root_doc:
        app.env.note_dependency(ROOT / "README.md")
        text = re.sub(r"\]\((?!http|#)", "](../", (ROOT / "README.md").read_text()) + text
    if docname == "docs/error-messages":
        text = re.sub(r"<!-- (\w+) -->", lambda found: list_messages(ROOT / found[1]), text)
    text = re.sub(r"\.svg#step\d", ".svg", text)  # Sphinx copies the file
    if docname.endswith("/README"):
        below = re.findall(r"\]\((\w[^):#]*)\.(?:ipynb|md)\)", text)
        if below:
            text += "\n".join(["\n```{toctree}", ":hidden:", "", *dict.fromkeys(below), "```\n"])
    source[0] = text


def list_messages(package):
    """Return a list of the messages with which the modules of a package raise errors."""
    calls = [
        call
        for path in sorted(package.rglob("*.py"))
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and re.search(r"(Error|^fail|^errors\.\w+)$", ast.unparse(call.func))
    ]
    texts = {text_of(argument) for call in calls for argument in call.args}
    return "\n".join(f"- ``{text}``" for text in sorted(texts) if len(re.findall(r"\w+", text)) > 2)


def text_of(node):
    """Return a string of the source code, with … for each value in it."""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(text_of, node.values))
    if isinstance(node, ast.Constant):
        return re.sub(r"\s+", " ", str(node.value))
    return "…" if isinstance(node, ast.FormattedValue) else ""


def mark_step(app, pagename, templatename, context, doctree):
    """Mark a lesson's step in the diagram of the course."""
    if step := re.match(r"notebooks/0(\d)-", pagename):
        context["body"] = context["body"].replace('course.svg"', f'course.svg#step{step[1]}"')


def skip_field(app, what, name, obj, skip, options):
    """Leave out fields of named tuples: a class's docstring explains them."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app):
    """Connect the functions above."""
    app.connect("source-read", prepare)
    app.connect("html-page-context", mark_step)
    app.connect("autodoc-skip-member", skip_field)
