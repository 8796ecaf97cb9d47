"""What the simulated shop sells and how it talks about it: a small grammar of made-up brands and plain words."""

import numpy as np
import pyarrow as pa
from jaxtyping import Int
from pyarrow.compute import call_function

# Department: its materials, what it is for, and three shelves of three kinds of things (plural = singular).
# The second kind on a shelf goes with the first: who buys a grinder needs a pot.
SHELVES = {
    "Kitchen": (
        ("steel", "copper", "enamel", "stoneware"),
        "for a kitchen that is used every day",
        {
            "Coffee": ("Grinders = coffee grinder", "Pots = coffee pot", "Mugs = coffee mug"),
            "Baking": ("Mixers = hand mixer", "Bowls = mixing bowl", "Tins = cake tin"),
            "Tea": ("Kettles = tea kettle", "Teapots = teapot", "Cups = tea cup"),
        },
    ),
    "Garden": (
        ("cedar", "zinc", "bamboo", "willow"),
        "for long days outside",
        {
            "Planting": ("Planters = planter", "Trowels = trowel", "Trellises = trellis"),
            "Watering": ("Rain barrels = rain barrel", "Watering cans = watering can", "Sprinklers = sprinkler"),
            "Evenings": ("Lanterns = garden lantern", "Hooks = lantern hook", "Benches = garden bench"),
        },
    ),
    "Sport": (
        ("nylon", "cork", "aluminium", "cotton"),
        "for people who would rather move",
        {
            "Yoga": ("Mats = yoga mat", "Blocks = yoga block", "Straps = yoga strap"),
            "Hiking": ("Backpacks = backpack", "Flasks = hiking flask", "Poles = trekking pole"),
            "Cycling": ("Panniers = bike pannier", "Locks = bike lock", "Lights = bike light"),
        },
    ),
    "Home": (
        ("linen", "oak", "wool", "rattan"),
        "for rooms that feel lived in",
        {
            "Lighting": ("Table lamps = table lamp", "Shades = lamp shade", "Candle holders = candle holder"),
            "Bedroom": ("Duvet covers = duvet cover", "Pillowcases = pillowcase", "Bedspreads = bedspread"),
            "Storage": ("Shelves = wall shelf", "Baskets = shelf basket", "Boxes = storage box"),
        },
    ),
    "Office": (
        ("walnut", "leather", "felt", "brass"),
        "for work that deserves good tools",
        {
            "Writing": ("Pens = fountain pen", "Pen cases = pen case", "Notebooks = notebook"),
            "Desk": ("Monitor stands = monitor stand", "Desk mats = desk mat", "Trays = letter tray"),
            "Carry": ("Laptop sleeves = laptop sleeve", "Pouches = cable pouch", "Briefcases = briefcase"),
        },
    ),
    "Music": (
        ("maple", "rosewood", "birch", "mahogany"),
        "for players and for listeners",
        {
            "Guitars": ("Guitars = guitar", "Guitar stands = guitar stand", "Footrests = guitar footrest"),
            "Keys": ("Pianos = stage piano", "Stools = piano stool", "Metronomes = metronome"),
            "Listening": ("Turntables = turntable", "Crates = record crate", "Speakers = shelf speaker"),
        },
    ),
    "Pets": (
        ("jute", "sheepskin", "fleece", "wicker"),
        "for those with four legs or two wings",
        {
            "Dogs": ("Dog beds = dog bed", "Dog blankets = dog blanket", "Leads = dog lead"),
            "Cats": ("Cat trees = cat tree", "Cat toys = cat toy", "Cat caves = cat cave"),
            "Birds": ("Bird houses = bird house", "Feeders = bird feeder", "Bird baths = bird bath"),
        },
    ),
    "Play": (
        ("beech", "pine", "velvet", "cardboard"),
        "for rainy afternoons of any age",
        {
            "Building": ("Block sets = block set", "Block boxes = block box", "Marble runs = marble run"),
            "Puzzles": ("Puzzles = puzzle", "Puzzle mats = puzzle mat", "Board games = board game"),
            "Dolls": ("Doll houses = doll house", "Doll beds = doll bed", "Dolls = rag doll"),
        },
    ),
}
BRANDS = (
    *("Torvane", "Lumbrik", "Ostrelle", "Vekkado", "Quillmar", "Sandrove", "Pelmiro", "Nordhask"),
    *("Pallione", "Mirvallen", "Tessaloo", "Corrowin", "Hadlinge", "Fennorre", "Juniqua", "Raveltin"),
    *("Ombrixa", "Zelvinor", "Kestovar", "Wrenlowe", "Dorrickel", "Ilmorane", "Greyfenn", "Yarrowby"),
)
SERIES = (
    *("Alto", "Brook", "Cinder", "Delta", "Ember", "Fjord", "Grove", "Harbour", "Isle", "Juno", "Kite", "Lark"),
    *("Mesa", "North", "Opal", "Pine", "Quarry", "Ridge", "Sable", "Tide", "Umbra", "Vale", "Willow", "Zephyr"),
)
TRAITS = ("compact", "large", "light", "sturdy", "classic", "folding", "hand-made", "slim")
COLOURS = ("black", "white", "grey", "red", "blue", "green", "yellow", "sand", "navy", "plum")
COUNTRIES = ("AT", "BE", "DE", "DK", "ES", "FI", "FR", "IE", "IT", "NL", "PL", "PT", "SE")
SEGMENTS = ("students", "families", "professionals", "makers", "retired", "travellers")

LEAVES = tuple(
    (department, shelf, *(part.strip() for part in kind.split("=")))
    for department, (_, _, shelves) in SHELVES.items()
    for shelf, kinds in shelves.items()
    for kind in kinds
)
"""(department, shelf, plural, singular) of the 72 leaves: three of a shelf and nine of a department in a row."""


def category_paths(leaf: Int[np.ndarray, " items"]) -> pa.Array:
    """The category of each item, its three levels joined.

    >>> category_paths(np.array([0, 71])).to_pylist()
    ['Kitchen > Coffee > Grinders', 'Play > Dolls > Dolls']
    """
    return _pick([" > ".join(path[:3]) for path in LEAVES], leaf)


def titles_and_descriptions(
    leaf: Int[np.ndarray, " items"],
    brand: Int[np.ndarray, " items"],
    colour: Int[np.ndarray, " items"],
    rng: np.random.Generator,
) -> tuple[pa.Array, pa.Array]:
    """A title and two sentences for each item, made from its attributes and drawn details.

    >>> codes = np.zeros(1, np.int64)
    >>> title, description = titles_and_descriptions(codes, codes, codes, np.random.default_rng(0))
    >>> title[0].as_py(), description[0].as_py()[:57]
    ('Torvane Umbra enamel coffee grinder, folding, black', 'The Umbra by Torvane is a folding coffee grinder in black')
    """
    n = len(leaf)
    materials = [word for words, _, _ in SHELVES.values() for word in words]
    series, trait = _pick(SERIES, rng.integers(len(SERIES), size=n)), _pick(TRAITS, rng.integers(len(TRAITS), size=n))
    material = _pick(materials, leaf // 9 * 4 + rng.integers(4, size=n))
    noun, maker, shade = _pick([path[3] for path in LEAVES], leaf), _pick(BRANDS, brand), _pick(COLOURS, colour)
    goes_with = [_companion(i) for i in range(len(LEAVES))]
    purpose = _pick([why for _, why, _ in SHELVES.values()], leaf // 9)
    title = _join(maker, " ", series, " ", material, " ", noun, ", ", trait, ", ", shade)
    description = _join(
        *("The ", series, " by ", maker, " is a ", trait, " ", noun, " in ", shade, " ", material, ", ", purpose, ". "),
        _pick(goes_with, leaf),
    )
    return title, description


def _companion(leaf: int) -> str:
    first = leaf - leaf % 3
    if leaf % 3 == 2:
        return f"One of the finds on our {LEAVES[leaf][1].lower()} shelf."
    other = LEAVES[first + 1 - leaf % 3][3]
    return f"It goes with a matching {other}."


def _pick(words: "list[str] | tuple[str, ...]", codes: np.ndarray) -> pa.Array:
    return pa.array(words).take(pa.array(codes))


def _join(*parts: "str | pa.Array") -> pa.Array:
    return call_function("binary_join_element_wise", [*parts, ""])
