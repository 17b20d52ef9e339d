"""Text that comes in parts: blanks at its ends left out, and cut at a stop string."""

from __future__ import annotations

from collections.abc import Sequence


class Words:
    """Text of which blanks around it do not count; they wait until it is certain where they are."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._blanks = ""
        self._begins = True
        self.begun = False
        """Whether anything but blanks came."""

    @property
    def said(self) -> str:
        """All that was said."""
        return "".join(self._parts)

    def take(self, text: str) -> str:
        """Take more, and answer what is certain now."""
        text = text.lstrip() if self._begins else text
        words = text.rstrip()
        if not words:
            self._blanks += text
            return ""
        said = self._blanks + words
        self._blanks = text[len(words) :]
        self._begins, self.begun = False, True
        self._parts.append(said)
        return said

    def divide(self) -> None:
        """What comes next is a paragraph of its own."""
        self._blanks = "\n\n" if self.begun else ""
        self._begins = True


class StopSearch:
    """Looks for stop strings in text that comes in parts.

    Of several strings, the one that is whole first counts, and of these the longest: what has
    come out by then decides, however the text was cut.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(dict.fromkeys(stop for stop in stops if stop))
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """Take more, and answer what cannot be a part of a stop string."""
        if self.found or not self._stops:
            return "" if self.found else text
        text = self._held + text
        places = ((text.find(stop), stop) for stop in self._stops)
        ends = [(place + len(stop), place) for place, stop in places if place >= 0]
        if ends:
            self.found, self._held = True, ""
            return text[: min(ends)[1]]
        held = max(_beginning(stop, text) for stop in self._stops)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def rest(self) -> str:
        """What was held back, as nothing more comes."""
        held, self._held = self._held, ""
        return held


def _beginning(stop: str, text: str) -> int:
    """With how many characters of `stop`, not all, the text ends."""
    longest = min(len(stop) - 1, len(text))
    return next((count for count in range(longest, 0, -1) if text.endswith(stop[:count])), 0)
