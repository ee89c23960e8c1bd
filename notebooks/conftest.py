"""How nbval compares: what a cell prints to stderr (warnings, progress bars) may differ."""

from nbval.plugin import IPyNbCell

IPyNbCell.skip_compare += ("stderr",)
