"""What is asked of the practice functions, and how the answers are worded."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

Draw = Callable[[random.Random], dict[str, Any]]
WORDS = (
    "committee", "banana", "elephant", "window", "mountain", "yellow", "telephone", "kitchen",
    "september", "harvest", "parallel", "coffee", "umbrella", "difference", "butterfly",
    "address", "village", "notebook",
)  # fmt: skip
PHRASES = (
    "the quick brown fox", "see you next week", "life is good", "a walk in the park at night",
    "nothing ventured nothing gained", "please close the door", "rain is coming today",
    "once upon a time", "we will meet at the station", "hello world",
)  # fmt: skip
NAMES = ("Anna", "Ben", "Clara", "David", "Elif", "Farid", "Grace", "Hugo", "Ines", "Jonas")
PRODUCTS = (
    "umbrella", "coffee maker", "tennis racket", "blue jacket", "headphones", "wall clock",
    "office chair", "water bottle", "toaster", "rug", "pillow", "ladder",
)  # fmt: skip
PLACES = ("library", "city museum", "swimming pool", "post office", "bakery", "zoo", "old theatre")
DEVICES = ("phone", "tablet", "drone", "door sensor", "camera", "laptop", "speaker")
BOOKS = ("Silent River", "The Last Orchard", "Night Train", "Glass", "Northern Lights", "Oak Hill")
ERRANDS = ("call the dentist", "water the plants", "pay the rent", "buy stamps", "feed the cat")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True, kw_only=True, slots=True)
class Drill:
    """One practice function: requests and answers with gaps for arguments and `value`."""

    name: str
    draw: Draw
    """Arguments of a call."""
    asks: tuple[str, ...]
    says: tuple[str, ...]
    key: str | None = None
    """Argument under which a look-up finds its value."""
    find: Callable[[random.Random], Any] | None = None
    """A value to find."""


def amount(r: random.Random, low: int = 2, high: int = 400) -> float | int:
    """A whole number, or one with one or two decimals."""
    number = r.randint(low, high)
    return number if r.random() < 0.5 else round(number + r.random(), r.choice((1, 2)))


def day(r: random.Random) -> str:
    return str(date(1950, 1, 1) + timedelta(days=r.randint(0, 36000)))


def numbers(r: random.Random) -> list[int]:
    return [r.randint(1, 99) for _ in range(r.randint(3, 6))]


def code(r: random.Random) -> str:
    return f"{r.choice('ABCDEFGHJKLMNPRSTUVW')}{r.randint(1, 40)}"


def clock(r: random.Random) -> str:
    return f"{r.choice(DAYS)} at {r.randint(8, 21)}:{r.choice(('00', '15', '30', '45'))}"


def listed(values: list[int]) -> str:
    """Numbers as one says them."""
    *first, last = map(str, values)
    return f"{', '.join(first)} and {last}"


DRILLS = (
    Drill(
        name="litres_to_gallons",
        draw=lambda r: {"litres": amount(r)},
        asks=("How many gallons are {litres} litres?", "Convert {litres} litres to gallons.",
              "The tank holds {litres} litres. What is that in gallons?"),
        says=("{litres} litres are {value} gallons.", "That is {value} gallons."),
    ),
    Drill(
        name="inches_to_cm",
        draw=lambda r: {"inches": amount(r, 1, 90)},
        asks=("What are {inches} inches in centimetres?", "Convert {inches} inches to cm, please.",
              "My screen measures {inches} inches. How many cm is that?"),
        says=("{inches} inches are {value} cm.", "That is {value} centimetres."),
    ),
    Drill(
        name="hours_to_minutes",
        draw=lambda r: {"hours": amount(r, 1, 48)},
        asks=("How many minutes are {hours} hours?", "The flight takes {hours} hours. "
              "What is that in minutes?"),
        says=("{hours} hours are {value} minutes.", "That is {value} minutes."),
    ),
    Drill(
        name="remainder",
        draw=lambda r: {"number": r.randint(20, 900), "divisor": r.randint(3, 19)},
        asks=("What is left over when {number} is divided by {divisor}?",
              "Divide {number} by {divisor} and tell me the remainder."),
        says=("The remainder is {value}.", "{value} is left over."),
    ),
    Drill(
        name="tip_amount",
        draw=lambda r: {"bill": amount(r, 10, 200), "percent": r.randint(5, 25)},
        asks=("The bill is {bill}. How much is a tip of {percent} percent?",
              "We paid {bill} for lunch. What tip is {percent}%?",
              "How much is {percent} percent tip on {bill} dollars?"),
        says=("The tip is {value}.", "A tip of {percent} percent is {value}."),
    ),
    Drill(
        name="monthly_rate",
        draw=lambda r: {"total": amount(r, 100, 5000), "months": r.randint(3, 36)},
        asks=("I pay {total} over {months} months. How much is that each month?",
              "Spread {total} evenly over {months} months."),
        says=("It is {value} each month.", "Each month costs {value}."),
    ),
    Drill(
        name="wall_paint",
        draw=lambda r: {"width": amount(r, 2, 15), "height": amount(r, 2, 6),
                        "coats": r.randint(1, 4)},
        asks=("A wall is {width} wide and {height} high and gets {coats} coats. "
              "What area is painted?",
              "What area do I paint with {coats} coats on a wall of width {width} and "
              "height {height}?"),
        says=("The painted area is {value}.", "You paint an area of {value}."),
    ),
    Drill(
        name="largest_of",
        draw=lambda r: {"numbers": numbers(r)},
        asks=("Which is the largest of {numbers}?", "Find the largest number: {numbers}.",
              "The results were {numbers}. Which was the largest?"),
        says=("The largest is {value}.", "The largest number is {value}."),
    ),
    Drill(
        name="total_of",
        draw=lambda r: {"numbers": numbers(r)},
        asks=("Add up {numbers}.", "What is the total of {numbers}?",
              "I spent {numbers}. What is that together?"),
        says=("The total is {value}.", "Together that is {value}."),
    ),
    Drill(
        name="count_words",
        draw=lambda r: {"text": r.choice(PHRASES)},
        asks=('How many words are in "{text}"?', 'Count the words of "{text}".'),
        says=("There are {value} words.", "The text has {value} words."),
    ),
    Drill(
        name="upper_case",
        draw=lambda r: {"text": r.choice(PHRASES)},
        asks=('Write "{text}" in capital letters.', 'Put the phrase "{text}" in upper case.'),
        says=("Here it is: {value}", "In capital letters it is {value}."),
    ),
    Drill(
        name="repeat_word",
        draw=lambda r: {"word": r.choice(WORDS), "times": r.randint(2, 5)},
        asks=("Write the word {word} {times} times.", 'Repeat "{word}" {times} times.'),
        says=("Here it is: {value}", "{value}"),
    ),
    Drill(
        name="letter_at",
        draw=lambda r: {"word": r.choice(WORDS), "position": r.randint(1, 6)},
        asks=("Which letter is number {position} in {word}?",
              'What letter stands at position {position} of the word "{word}"?'),
        says=("It is the letter {value}.", "Letter {position} of {word} is {value}."),
    ),
    Drill(
        name="to_binary",
        draw=lambda r: {"number": r.randint(3, 2000)},
        asks=("Write {number} in binary.", "What is {number} as a binary number?"),
        says=("{number} in binary is {value}.", "It is {value}."),
    ),
    Drill(
        name="add_days",
        draw=lambda r: {"start": day(r), "days": r.randint(3, 200)},
        asks=("Which date is {days} days after {start}?",
              "The visa starts on {start} and lasts {days} days. When does it end?"),
        says=("It is {value}.", "The date is {value}."),
    ),
    Drill(
        name="day_of_year",
        draw=lambda r: {"when": day(r)},
        asks=("Which day of the year is {when}?", "What number within its year has {when}?"),
        says=("It is day {value} of the year.", "{when} is day {value} of its year."),
    ),
    Drill(
        name="month_length",
        draw=lambda r: {"year": r.randint(1950, 2049), "month": r.randint(1, 12)},
        asks=("How many days does month {month} of {year} have?",
              "Tell me the number of days in month {month} of the year {year}."),
        says=("It has {value} days.", "That month has {value} days."),
    ),
)  # fmt: skip

LOOKUPS = (
    Drill(
        name="price_of", key="product", find=lambda r: round(r.uniform(2, 300), 2),
        draw=lambda r: {"product": r.choice(PRODUCTS)},
        asks=("How much is the {product}?", "What does the {product} cost?",
              'Check the price of "{product}".'),
        says=("The {product} costs {value}.", "It costs {value}."),
    ),
    Drill(
        name="ticket_seat", key="ticket_number", find=code,
        draw=lambda r: {"ticket_number": r.randint(100, 9999)},
        asks=("Which seat belongs to ticket {ticket_number}?",
              "My ticket has the number {ticket_number}. Where do I sit?"),
        says=("Ticket {ticket_number} has seat {value}.", "Your seat is {value}."),
    ),
    Drill(
        name="email_of", key="name",
        find=lambda r: f"{r.choice(WORDS)}{r.randint(1, 99)}@example.org",
        draw=lambda r: {"name": r.choice(NAMES)},
        asks=("What is the email address of {name}?", "I want to write to {name}. "
              "Which address do I use?"),
        says=("The address of {name} is {value}.", "You can write to {value}."),
    ),
    Drill(
        name="closing_time", key="place", find=clock,
        draw=lambda r: {"place": r.choice(PLACES)},
        asks=("When does the {place} close?", "Until when is the {place} open?"),
        says=("The {place} closes {value}.", "It closes {value}."),
    ),
    Drill(
        name="train_platform", key="train", find=lambda r: r.randint(1, 24),
        draw=lambda r: {"train": f"{r.choice(('IC', 'RE', 'S', 'TGV'))}{r.randint(1, 999)}"},
        asks=("From which platform does train {train} leave?",
              "I take {train}. Which platform is it?"),
        says=("Train {train} leaves from platform {value}.", "It is platform {value}."),
    ),
    Drill(
        name="battery_level", key="device", find=lambda r: r.randint(1, 100),
        draw=lambda r: {"device": r.choice(DEVICES)},
        asks=("How full is the battery of the {device}?", "What is the {device}'s battery at?"),
        says=("The battery of the {device} is at {value} percent.", "It is at {value} percent."),
    ),
    Drill(
        name="author_of", key="book",
        find=lambda r: f"{r.choice(NAMES)} {r.choice(WORDS).capitalize()}",
        draw=lambda r: {"book": r.choice(BOOKS)},
        asks=('Who wrote "{book}"?', "Who is the author of the book {book}?"),
        says=('"{book}" was written by {value}.', "The author is {value}."),
    ),
    Drill(
        name="reserve_court", key="court", find=code,
        draw=lambda r: {"court": r.choice(("North", "South", "C1", "C2", "Lake")),
                        "hour": r.randint(7, 21)},
        asks=("Reserve court {court} at {hour}, please.",
              "I want to play on court {court} at {hour}. Reserve it and tell me the code."),
        says=("Court {court} is reserved, the code is {value}-{hour}.",
              "Done, your code is {value}-{hour}."),
    ),
    Drill(
        name="set_reminder", key="text", find=code,
        draw=lambda r: {"text": r.choice(ERRANDS), "weekday": r.choice(DAYS)},
        asks=("Remind me on {weekday} to {text}.", "Set a reminder for {weekday}: {text}."),
        says=("The reminder is set, its id is {value}.", "Done, the reminder has the id {value}."),
    ),
    Drill(
        name="synonym_of", key="word", find=lambda r: r.choice(WORDS),
        draw=lambda r: {"word": r.choice(("quick", "happy", "brave", "tired", "large", "begin"))},
        asks=("What is a synonym of {word}?", 'Find a word that means the same as "{word}".'),
        says=("A synonym of {word} is {value}.", "{value} means the same."),
    ),
    Drill(
        name="member_since", key="card_number", find=day,
        draw=lambda r: {"card_number": r.randint(1000, 99999)},
        asks=("Since when is the holder of card {card_number} a member?",
              "Look up card {card_number}: when did the membership begin?"),
        says=("A member since {value}.", "The membership began on {value}."),
    ),
)  # fmt: skip
