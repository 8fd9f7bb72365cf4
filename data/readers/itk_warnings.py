"""ITK's warnings, collected. A module of its own: its class needs SimpleITK to be imported."""

from __future__ import annotations

import SimpleITK as sitk


class ItkWarnings(sitk.LoggerBase):
    """Collects ITK's warnings, which would be printed."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def DisplayWarningText(self, text: str) -> None:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        self.texts.append(lines[-1] if lines else "a warning without words")
