"""How nbval compares: what a cell prints to stderr (warnings, progress bars) may differ."""


def pytest_collection_modifyitems(items):
    """Leave stderr out of the comparison."""
    for notebook in {item.parent for item in items}:
        notebook.skip_compare += ("stderr",)
