"""How the C library is to keep memory for a process that decodes pictures in many threads."""

import ctypes
from contextlib import suppress

MB = 2**20
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h


def configure() -> None:
    """Set it for this process; does nothing where the C library is another than glibc.

    What a large decoded picture took goes back to the system at once, else up to 64 MB stay with
    each thread that ever decoded one. Pieces of a megabyte, three or four for each request, are
    used again: fetching each anew took as long as all other work.
    """
    with suppress(AttributeError, OSError):  # other C libraries have no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 4 * MB)
        mallopt(M_TRIM_THRESHOLD, 16 * MB)
        mallopt(M_ARENA_MAX, 2)
