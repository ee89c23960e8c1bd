"""Support for the notebooks: conversion, local servers, load, plots, and the make commands."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class TutorialError(Exception):
    """An error that the reader can fix; the message says what is wrong and what to do."""
