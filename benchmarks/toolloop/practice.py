"""Functions to practise on, executed for real: none of them is in a held-out task.

`known` is what the look-ups find; each conversation has its own, so that nothing can be learned by
heart.
"""

from __future__ import annotations

import calendar
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any


@dataclass
class Practice:
    """Arithmetic, words, dates, and look-ups in a shop and a town."""

    known: Mapping[str, Any] = field(default_factory=dict)

    def litres_to_gallons(self, litres: float) -> float:
        """Convert litres to gallons.

        Args:
            litres: Volume in litres.
        """
        return round(litres * 0.264172, 2)

    def inches_to_cm(self, inches: float) -> float:
        """Convert inches to centimetres.

        Args:
            inches: Length in inches.
        """
        return round(inches * 2.54, 2)

    def hours_to_minutes(self, hours: float) -> float:
        """Convert hours to minutes.

        Args:
            hours: Number of hours.
        """
        return hours * 60

    def remainder(self, number: int, divisor: int) -> int:
        """Compute what is left over in a division.

        Args:
            number: Number to divide.
            divisor: Number to divide by.
        """
        return number % divisor

    def tip_amount(self, bill: float, percent: float) -> float:
        """Compute the tip on a bill.

        Args:
            bill: Amount of the bill.
            percent: Tip in percent.
        """
        return round(bill * percent / 100, 2)

    def monthly_rate(self, total: float, months: int) -> float:
        """Compute the amount to pay each month.

        Args:
            total: Amount to pay in all.
            months: Number of months.
        """
        return round(total / months, 2)

    def wall_paint(self, width: float, height: float, coats: int) -> float:
        """Compute the area that is painted on a wall.

        Args:
            width: Width of the wall.
            height: Height of the wall.
            coats: Number of coats.
        """
        return round(width * height * coats, 2)

    def largest_of(self, numbers: list[float]) -> float:
        """Find the largest of some numbers.

        Args:
            numbers: The numbers.
        """
        return max(numbers)

    def total_of(self, numbers: list[float]) -> float:
        """Add up some numbers.

        Args:
            numbers: The numbers.
        """
        return round(sum(numbers), 2)

    def count_words(self, text: str) -> int:
        """Count the words of a text.

        Args:
            text: Text to count in.
        """
        return len(text.split())

    def upper_case(self, text: str) -> str:
        """Write a text in capital letters.

        Args:
            text: Text to write.
        """
        return text.upper()

    def repeat_word(self, word: str, times: int) -> str:
        """Write a word several times.

        Args:
            word: Word to write.
            times: How often to write it.
        """
        return " ".join([word] * times)

    def letter_at(self, word: str, position: int) -> str:
        """Tell which letter of a word stands at a position.

        Args:
            word: Word to look in.
            position: Position, from 1.
        """
        return word[position - 1]

    def to_binary(self, number: int) -> str:
        """Write a number in binary.

        Args:
            number: Number to write.
        """
        return f"{number:b}"

    def add_days(self, start: str, days: int) -> str:
        """Tell the date some days after another.

        Args:
            start: Date to begin at, YYYY-MM-DD.
            days: Number of days.
        """
        return str(date.fromisoformat(start) + timedelta(days=days))

    def day_of_year(self, when: str) -> int:
        """Tell the number of a date within its year.

        Args:
            when: Date, YYYY-MM-DD.
        """
        return date.fromisoformat(when).timetuple().tm_yday

    def month_length(self, year: int, month: int) -> int:
        """Tell how many days a month has.

        Args:
            year: Year.
            month: Number of the month.
        """
        return calendar.monthrange(year, month)[1]

    def price_of(self, product: str) -> float:
        """Look up the price of a product.

        Args:
            product: Name of the product.
        """
        return float(self.known[product])

    def ticket_seat(self, ticket_number: int) -> dict[str, Any]:
        """Look up the seat of a ticket.

        Args:
            ticket_number: Number of the ticket.
        """
        return {"ticket": ticket_number, "seat": self.known[str(ticket_number)]}

    def email_of(self, name: str) -> str:
        """Look up the email address of a person.

        Args:
            name: First name of the person.
        """
        return str(self.known[name])

    def closing_time(self, place: str) -> str:
        """Look up when a place closes.

        Args:
            place: Name of the place.
        """
        return str(self.known[place])

    def train_platform(self, train: str) -> dict[str, Any]:
        """Look up the platform of a train.

        Args:
            train: Number of the train.
        """
        return {"train": train, "platform": self.known[train]}

    def battery_level(self, device: str) -> dict[str, Any]:
        """Look up how full the battery of a device is.

        Args:
            device: Name of the device.
        """
        return {"device": device, "percent": self.known[device]}

    def author_of(self, book: str) -> str:
        """Look up who wrote a book.

        Args:
            book: Title of the book.
        """
        return str(self.known[book])

    def reserve_court(self, court: str, hour: int) -> dict[str, Any]:
        """Reserve a tennis court for an hour.

        Args:
            court: Name of the court.
            hour: Hour of the day.
        """
        return {"state": "reserved", "code": f"{self.known[court]}-{hour}"}

    def set_reminder(self, text: str, weekday: str) -> dict[str, Any]:
        """Set a reminder for a day.

        Args:
            text: What to remember.
            weekday: Day of the week.
        """
        return {"state": "set", "id": self.known[text]}

    def synonym_of(self, word: str) -> str:
        """Find a word that means the same.

        Args:
            word: Word to look up.
        """
        return str(self.known[word])

    def member_since(self, card_number: int) -> str:
        """Look up since when someone is a member.

        Args:
            card_number: Number of the member's card.
        """
        return str(self.known[str(card_number)])
