"""Writes data/trajectories.jsonl: requests, thoughts, calls, results and answers, all of our own.

Every call is made for real, and every tool is described as AgentScope describes it to the model.
No function of small_llms.py is among them.

    python examples/small_llms/make_trajectories.py
"""

import asyncio
import json
import random
from pathlib import Path

from agentscope.tool import FunctionTool, Toolkit

DATA = Path(__file__).parent / "data" / "trajectories.jsonl"
EACH = 8
"""Trajectories of each function with a call."""
REFUSALS = 48
"""Trajectories in which no function helps."""
UNFIT = "None of the functions offered does what is asked."
PLACES = ("Lima", "Oslo", "Cairo", "Kyoto", "Porto", "Quito", "Turin", "Accra")
PEOPLE = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gita", "Hugo")


def area_of_room(length: float, width: float) -> float:
    """Calculate the area of a room in square metres.

    Args:
        length: Length in metres.
        width: Width in metres.
    """
    return round(length * width, 2)


def temperature_at(place: str) -> str:
    """Look up the temperature of a place today.

    Args:
        place: Name of the place.
    """
    return f"{8 + 3 * PLACES.index(place)} degrees"


def telephone_of(person: str) -> str:
    """Look up the telephone number of a person.

    Args:
        person: First name of the person.
    """
    return f"555-01{10 + 7 * PEOPLE.index(person)}"


def tip_for(bill: float, percent: int) -> float:
    """Calculate the tip for a bill.

    Args:
        bill: Amount of the bill.
        percent: Percent of the bill that the tip is.
    """
    return round(bill * percent / 100, 2)


def open_until(shop: str, day: str) -> str:
    """Look up when a shop closes.

    Args:
        shop: Kind of shop.
        day: Day of the week.
    """
    return f"{17 + (len(shop) + len(day)) % 5} o'clock"


def miles_to_kilometres(miles: float) -> float:
    """Convert miles to kilometres.

    Args:
        miles: Distance in miles.
    """
    return round(miles * 1.609344, 2)


def platform_of(train: str) -> str:
    """Look up the platform that a train leaves from.

    Args:
        train: Number of the train.
    """
    return f"platform {1 + int(train[2:]) % 12}"


def square_root(number: float) -> float:
    """Calculate the square root of a number.

    Args:
        number: The number.
    """
    return round(number**0.5, 3)


def stock_of(item: str) -> int:
    """Look up how many pieces of an item are in stock.

    Args:
        item: Name of the item.
    """
    return 11 * len(item) - 7


def speed_of(kilometres: float, hours: float) -> float:
    """Calculate a speed in kilometres per hour.

    Args:
        kilometres: Distance that was covered.
        hours: Time that it took.
    """
    return round(kilometres / hours, 1)


def capital_of(country: str) -> str:
    """Look up the capital of a country.

    Args:
        country: Name of the country.
    """
    return CAPITALS[country]


def words_in(text: str) -> int:
    """Count the words of a text.

    Args:
        text: The text.
    """
    return len(text.split())


CAPITALS = {
    "Chad": "N'Djamena", "Chile": "Santiago", "Fiji": "Suva", "Ghana": "Accra", "Laos": "Vientiane",
    "Malta": "Valletta", "Nepal": "Kathmandu", "Peru": "Lima",
}  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
SHOPS = ("bakery", "book shop", "pharmacy", "toy shop", "florist", "butcher")
ITEMS = ("lamp", "chair", "teapot", "blanket", "mirror", "bucket", "ladder", "candle")
TEXTS = ("rain falls on the roof", "we met at noon", "the old red boat", "no news is good news")
LESSONS = {
    area_of_room: (
        lambda r: {"length": r.randint(3, 9) + 0.5, "width": r.randint(2, 8)},
        ("What is the area of a room of {length} by {width} metres?",
         "A room is {length} m long and {width} m wide. How large is it?"),
        "The room has {result} square metres.",
    ),
    temperature_at: (
        lambda r: {"place": r.choice(PLACES)},
        ("How warm is it in {place} today?", "Tell me the temperature in {place}."),
        "In {place} it has {result} today.",
    ),
    telephone_of: (
        lambda r: {"person": r.choice(PEOPLE)},
        ("What is {person}'s telephone number?", "I want to call {person}. Which number?"),
        "The number of {person} is {result}.",
    ),
    tip_for: (
        lambda r: {"bill": r.randint(12, 90), "percent": r.choice((5, 10, 15, 20))},
        ("The bill is {bill} dollars. How much is a tip of {percent} percent?",
         "How much is {percent} percent tip on {bill} dollars?"),
        "A tip of {percent} percent is {result} dollars.",
    ),
    open_until: (
        lambda r: {"shop": r.choice(SHOPS), "day": r.choice(DAYS)},
        ("When does the {shop} close on {day}?", "Until when is the {shop} open on {day}?"),
        "On {day} the {shop} closes at {result}.",
    ),
    miles_to_kilometres: (
        lambda r: {"miles": r.randint(3, 400)},
        ("How many kilometres are {miles} miles?", "Convert {miles} miles to kilometres."),
        "{miles} miles are {result} kilometres.",
    ),
    platform_of: (
        lambda r: {"train": f"IC{r.randint(100, 999)}"},
        ("Which platform does train {train} leave from?", "Where does {train} leave?"),
        "Train {train} leaves from {result}.",
    ),
    square_root: (
        lambda r: {"number": r.randint(5, 900)},
        ("What is the square root of {number}?", "Give me the square root of {number}."),
        "The square root of {number} is {result}.",
    ),
    stock_of: (
        lambda r: {"item": r.choice(ITEMS)},
        ("How many pieces of the {item} do we have?", "Is the {item} in stock, and how often?"),
        "There are {result} pieces of the {item}.",
    ),
    speed_of: (
        lambda r: {"kilometres": r.randint(20, 500), "hours": r.randint(2, 9)},
        ("I drove {kilometres} kilometres in {hours} hours. How fast was I?",
         "How fast is {kilometres} km in {hours} hours?"),
        "That is {result} kilometres per hour.",
    ),
    capital_of: (
        lambda r: {"country": r.choice([*CAPITALS])},
        ("What is the capital of {country}?", "Which city is the capital of {country}?"),
        "The capital of {country} is {result}.",
    ),
    words_in: (
        lambda r: {"text": r.choice(TEXTS)},
        ('How many words are in "{text}"?', 'Count the words of "{text}".'),
        "The text has {result} words.",
    ),
}  # fmt: skip
"""For each function: its arguments, ways to ask for it, and what the answer says."""


def summary(function):
    """The first sentence of what a function is for."""
    return function.__doc__.splitlines()[0]


async def tools_of(functions):
    """The tools as the model sees them, described by AgentScope."""
    kit = Toolkit(tools=[FunctionTool(function) for function in functions])
    return await kit.get_tool_schemas([])


def draw(function, r):
    """A request that a function serves, with its arguments and the answer."""
    arguments_of, requests, answer = LESSONS[function]
    arguments = arguments_of(r)
    result = function(**arguments)
    return (
        r.choice(requests).format(**arguments),
        arguments,
        str(result),
        answer.format(**arguments, result=result),
    )


def solved(function, r):
    """The messages of a request that is served."""
    request, arguments, result, answer = draw(function, r)
    name = function.__name__
    call = {"name": name, "arguments": json.dumps(arguments)}
    return [
        {"role": "user", "content": request},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": f"{name} fits: {summary(function)}",
            "tool_calls": [{"id": "call00001", "type": "function", "function": call}],
        },
        {"role": "tool", "content": result, "tool_call_id": "call00001", "name": name},
        {"role": "assistant", "content": answer, "reasoning_content": f"{name} gave the result."},
    ]


def refused(function, r):
    """The messages of a request that no function serves, because this one is not offered."""
    request, *_ = draw(function, r)
    return [
        {"role": "user", "content": request},
        {"role": "assistant", "content": "give up", "reasoning_content": UNFIT},
    ]


async def make():
    """All trajectories, always the same, in an order of chance."""
    r = random.Random(0)
    plan = [(function, solved) for function in LESSONS for _ in range(EACH)]
    plan += [(function, refused) for function in LESSONS for _ in range(REFUSALS // len(LESSONS))]
    r.shuffle(plan)
    rows = []
    for place, (function, made) in enumerate(plan, start=1):
        others = r.sample([each for each in LESSONS if each is not function], r.randint(1, 3))
        offered = [*others, function] if made is solved else others
        r.shuffle(offered)
        tools = await tools_of(offered)
        rows.append({"id": f"own-{place:03d}", "messages": made(function, r), "tools": tools})
    return rows


if __name__ == "__main__":
    lines = (json.dumps(row) + "\n" for row in asyncio.run(make()))
    DATA.write_text("".join(lines), encoding="utf-8")
