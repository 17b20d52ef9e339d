"""The functions of the held-out tasks: what they are asked about is nowhere in training.

Each is a plain method with a docstring, from which AgentScope makes the tool's schema. A world is
made anew for each task, since some of them change it.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

STOCK = {"lamp": 14, "desk fan": 3, "bookcase": 27, "garden hose": 41, "mirror": 0}
SHELVES = {"lamp": "B4", "desk fan": "F12", "bookcase": "A1", "garden hose": "H7", "mirror": "C9"}
LOCKERS = {4417: "green 7", 4418: "blue 12", 5090: "red 3", 5123: "green 19"}
MEETINGS = {"Nadia": "Thursday at 14:30", "Oscar": "Monday at 9:00", "Priya": "Friday at 11:15"}
EXTENSIONS = {"Nadia": 3071, "Oscar": 2264, "Priya": 8815, "Tomas": 5540}
LOANS = {"Dracula": "2031-03-09", "Emma": "2031-04-21", "Walden": "2031-05-02"}
GATES = {"KL204": "C14", "BA77": "A3", "UA919": "F28"}
OPPOSITES = {"ancient": "modern", "shallow": "deep", "victory": "defeat"}
ROMAN = (
    (1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"),
    (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"),
)  # fmt: skip


@dataclass
class World:
    """An office with a storeroom, and some arithmetic."""

    desks: dict[tuple[str, str], str] = field(default_factory=dict)

    def ounces_to_grams(self, ounces: float) -> float:
        """Convert ounces to grams.

        Args:
            ounces: Weight in ounces.
        """
        return round(ounces * 28.3495, 2)

    def split_bill(self, total: float, people: int) -> float:
        """Share of each person when a bill is split evenly.

        Args:
            total: Amount of the bill.
            people: Number of people.
        """
        return round(total / people, 2)

    def days_between(self, start: str, end: str) -> int:
        """Count the days from one date to another.

        Args:
            start: First date, YYYY-MM-DD.
            end: Last date, YYYY-MM-DD.
        """
        return (date.fromisoformat(end) - date.fromisoformat(start)).days

    def weekday_of(self, day: str) -> str:
        """Tell the weekday of a date.

        Args:
            day: Date, YYYY-MM-DD.
        """
        return f"{date.fromisoformat(day):%A}"

    def acronym_of(self, phrase: str) -> str:
        """Shorten a phrase to its first letters.

        Args:
            phrase: Phrase to shorten.
        """
        return "".join(word[0].upper() for word in phrase.split())

    def count_letter(self, text: str, letter: str) -> int:
        """Count how often a letter occurs in a text.

        Args:
            text: Text to look in.
            letter: Letter to count.
        """
        return text.lower().count(letter.lower())

    def to_roman(self, number: int) -> str:
        """Write a number in Roman numerals.

        Args:
            number: Number from 1 to 3999.
        """
        written = ""
        for value, sign in ROMAN:
            written += sign * (number // value)
            number %= value
        return written

    def box_volume(self, length: float, width: float, height: float) -> float:
        """Compute the volume of a box.

        Args:
            length: Length of the box.
            width: Width of the box.
            height: Height of the box.
        """
        return round(length * width * height, 2)

    def sale_price(self, price: float, percent_off: float) -> float:
        """Compute a price after a discount.

        Args:
            price: Price before the discount.
            percent_off: Discount in percent.
        """
        return round(price * (1 - percent_off / 100), 2)

    def fuel_needed(self, distance: float, per_100_km: float) -> float:
        """Compute the litres of fuel for a trip.

        Args:
            distance: Length of the trip in km.
            per_100_km: Litres used per 100 km.
        """
        return round(distance * per_100_km / 100, 2)

    def median_of(self, numbers: list[float]) -> float:
        """Find the median of some numbers.

        Args:
            numbers: The numbers.
        """
        return statistics.median(numbers)

    def stock_of(self, item: str) -> int:
        """Look up how many pieces of an item are in stock.

        Args:
            item: Name of the item.
        """
        return _found(STOCK, item)

    def shelf_of(self, item: str) -> dict[str, str]:
        """Look up the shelf on which an item lies.

        Args:
            item: Name of the item.
        """
        return {"item": item, "shelf": _found(SHELVES, item)}

    def locker_of(self, parcel_number: int) -> dict[str, Any]:
        """Look up the locker in which a parcel waits.

        Args:
            parcel_number: Number of the parcel.
        """
        return {"parcel": parcel_number, "locker": _found(LOCKERS, parcel_number)}

    def next_meeting(self, person: str) -> str:
        """Look up when the next meeting with a person is.

        Args:
            person: First name of the person.
        """
        return _found(MEETINGS, person)

    def book_desk(self, desk: str, weekday: str) -> dict[str, str]:
        """Book a desk in the office for a day.

        Args:
            desk: Name of the desk.
            weekday: Day of the week.
        """
        place = (desk.upper(), weekday.capitalize())
        if place in self.desks:
            raise ValueError(f"desk {desk} is taken on {weekday}")
        code = f"{place[0]}-{place[1][:3].upper()}-{len(self.desks) + 1}"
        self.desks[place] = code
        return {"state": "booked", "code": code}

    def extension_of(self, person: str) -> int:
        """Look up the phone extension of a person.

        Args:
            person: First name of the person.
        """
        return _found(EXTENSIONS, person)

    def loan_due(self, title: str) -> str:
        """Look up the date on which a borrowed book is due.

        Args:
            title: Title of the book.
        """
        return _found(LOANS, title)

    def flight_gate(self, flight: str) -> dict[str, str]:
        """Look up the gate of a flight.

        Args:
            flight: Flight number.
        """
        return {"flight": flight, "gate": _found(GATES, flight)}

    def opposite_of(self, word: str) -> str:
        """Find the opposite of a word.

        Args:
            word: Word to look up.
        """
        return _found(OPPOSITES, word)


def functions(world: World) -> Mapping[str, Callable[..., Any]]:
    """The functions of a world by name, in the order in which they are written."""
    return {
        name: method.__get__(world)
        for name, method in vars(World).items()
        if not name.startswith("_")
    }


def _found(table: Mapping[Any, Any], key: Any) -> Any:
    """Look up without regard to case, punctuation and plural.

    Raises:
        LookupError: It is not there; what there is, is named.
    """
    plain = {_plain(known): value for known, value in table.items()}
    if _plain(key) not in plain:
        raise LookupError(f"{key!r} is not known; known are {', '.join(map(str, table))}")
    return plain[_plain(key)]


def _plain(key: Any) -> str:
    return re.sub(r"[^a-z0-9]|s$", "", str(key).lower())
