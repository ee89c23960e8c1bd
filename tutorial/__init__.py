"""What the notebooks lean on: downloads, local processes, plots, and the commands behind make."""


class TutorialError(Exception):
    """Something the reader can mend; the message says what is wrong and what to do."""
