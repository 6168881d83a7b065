"""The embedded default task: aspect-level sentiment of generated reviews.

A review makes one or two remarks on aspects of a restaurant, a hotel, a phone or a film; the
question is what it says of one aspect:

    text   "Although the dumplings were far from bland, the waitress let us down."
    pair   "food"
    label  "positive"

The remarks negate, compare and contrast, so that single words do not tell; and each choice of a
noun, an adjective or a turn of phrase in `dev` is with probability `UNSEEN` one that `train` cannot
make, so that a model needs word meanings it learned before.

All text was written for this library and is generated the same on every machine: only
`random.Random.random` is used, the one method whose sequence Python promises to keep.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Value

from prunella.tasks.base import Splits, TaskError
from prunella.tasks.classification import Classification

SEED = 20240229
TRAIN_ROWS = 6000
DEV_ROWS = 999  # a multiple of the number of classes
UNSEEN = 0.2  # how often a choice in dev is one that train cannot make
LABELS = ("negative", "positive", "not mentioned")

# domain -> aspect -> (nouns, praise, blame); what follows a slash is for dev only. Nouns belong to
# one aspect alone, so that an aspect asked for is mentioned or it is not.
_DOMAINS: dict[str, dict[str, tuple[str, str, str]]] = {
    "restaurant": {
        "food": (
            "soup, steak, pasta, salad, curry, chicken, noodles / dumplings, lamb, stew, dessert",
            "delicious, tasty, flavourful, fresh, appetising / mouth-watering, scrumptious",
            "bland, overcooked, greasy, stale, tasteless / inedible, burnt, soggy, rancid",
        ),
        "service": (
            "waiters, waitress, staff, host, servers, manager / bartender, hostess, waiter, team",
            "friendly, attentive, polite, helpful, kind / courteous, gracious, welcoming, cheerful",
            "rude, careless, slow, unhelpful, impatient / dismissive, surly, arrogant, hostile",
        ),
        "atmosphere": (
            "decor, lighting, ambience, mood / atmosphere, candlelight, interior, vibe",
            "pleasant, charming, relaxing, lovely, inviting / enchanting, soothing, delightful",
            "gloomy, unpleasant, depressing, dull, tacky / dreary, grim, dismal",
        ),
        "price": (
            "bill, prices, cost, charges, total / price, check, expense, rates",
            "reasonable, fair, low, affordable, modest / sensible, moderate",
            "excessive, outrageous, high, unfair, steep / exorbitant, extortionate, absurd",
        ),
        "location": (
            "neighbourhood, street, area, district / location, square, surroundings, suburb",
            "convenient, central, safe, easy to reach / handy, accessible, peaceful",
            "remote, unsafe, hard to find, inconvenient / isolated, sketchy, run-down",
        ),
    },
    "hotel": {
        "bed": (
            "mattress, pillows, blankets, duvet / bed, cushions, bunk, quilt",
            "comfortable, soft, warm, cosy, comfy / restful, plush, snug",
            "lumpy, uncomfortable, hard, scratchy, saggy / creaky, worn out, itchy",
        ),
        "bathroom": (
            "shower, toilet, towels, sink, bathtub / bathroom, tiles, washbasin, taps",
            "clean, spotless, tidy, immaculate / sparkling, pristine, hygienic",
            "dirty, stained, filthy, smelly, mouldy / grimy, disgusting, foul",
        ),
        "internet": (
            "wi-fi, internet connection, network, broadband / internet, wireless signal, router",
            "fast, reliable, stable, quick / speedy, dependable, flawless",
            "slow, unreliable, unstable, useless / sluggish, patchy, erratic",
        ),
        "parking": (
            "car park, garage, parking spaces / parking, parking lot, driveway",
            "spacious, secure, convenient, well lit / roomy, orderly, handy",
            "cramped, unsafe, crowded, narrow / tight, chaotic, inadequate",
        ),
        "view": (
            "view, sea view, panorama, skyline / balcony view, vista, outlook",
            "beautiful, stunning, impressive, magnificent / breathtaking, gorgeous, glorious",
            "ugly, boring, depressing, uninspiring / bleak, drab, dreary",
        ),
    },
    "phone": {
        "battery": (
            "battery, battery life, charger, power supply / charging, standby time, power pack",
            "reliable, impressive, strong, dependable / durable, long-lasting, trustworthy",
            "weak, useless, unreliable, feeble / pathetic, hopeless, short-lived",
        ),
        "screen": (
            "display, touchscreen, screen colours, resolution / screen, panel, monitor",
            "sharp, bright, clear, vivid / crisp, gorgeous, brilliant",
            "dim, blurry, dark, fuzzy / washed out, dull, grainy",
        ),
        "sound": (
            "speakers, headphones, ringtone, audio / sound, earphones, bass, loudspeaker",
            "rich, clear, pleasant, full, balanced / crisp, powerful, pure",
            "tinny, muffled, distorted, weak, harsh / crackly, hollow, shrill",
        ),
        "build quality": (
            "case, body, buttons, shape, hinge / build, casing, frame, edges",
            "sturdy, elegant, solid, stylish, attractive / sleek, robust, handsome",
            "flimsy, ugly, cheap, clumsy, fragile / clunky, shoddy, hideous",
        ),
        "camera": (
            "photos, portraits, pictures, zoom / camera, snapshots, selfies, flash",
            "sharp, impressive, clear, beautiful / crisp, superb, stunning",
            "blurry, disappointing, weak, dark / grainy, useless, fuzzy",
        ),
    },
    "film": {
        "acting": (
            "actors, lead actress, cast, performances / acting, leading man, extras",
            "convincing, brilliant, believable, superb / compelling, mesmerising, outstanding",
            "wooden, unconvincing, awkward, stiff / stilted, lifeless, amateurish",
        ),
        "story": (
            "plot, script, ending, storyline / story, screenplay, narrative, finale",
            "gripping, clever, original, exciting / ingenious, riveting, captivating",
            "predictable, confusing, boring, silly / tedious, incoherent, far-fetched",
        ),
        "visuals": (
            "special effects, cinematography, sets, costumes / visuals, animation, camerawork",
            "stunning, impressive, beautiful, amazing / breathtaking, dazzling, spectacular",
            "cheap, ugly, fake, unimpressive / shoddy, drab, crude",
        ),
        "humour": (
            "jokes, comedy, gags, one-liners / humour, slapstick, banter, punchlines",
            "funny, hilarious, clever, entertaining / witty, amusing, side-splitting",
            "lame, unfunny, childish, stupid / cringeworthy, tiresome, crass",
        ),
    },
}

# praise and blame of anything
_GOOD = (
    "good, great, excellent, wonderful, perfect, fantastic / superb, terrific, amazing, splendid"
)
_BAD = "bad, poor, terrible, awful, horrible, disappointing / dreadful, lousy, appalling, miserable"

# What a remark may look like, in train and in dev: {n} noun, {v} was or were, {a} adjective. Steady
# ones say what the adjective says, turned ones the opposite; the rest judge by themselves.
_STEADY = (
    (
        "the {n} {v} {a}",
        "the {n} {v} so {a}",
        "the {n} {v} really {a}",
        "we found the {n} {a}",
        "I thought the {n} {v} {a}",
        "the {n} {v} every bit as {a} as we had heard",
        "the {n} turned out to be {a}",
    ),
    (
        "the {n} struck me as {a}",
        "I must admit that the {n} {v} {a}",
        "it was striking how {a} the {n} {v}",
    ),
)
_TURNED = (
    (
        "the {n} {v} not {a}",
        "the {n} {v} never {a}",
        "the {n} {v} not at all {a}",
        "I would not call the {n} {a}",
        "the {n} {v} less {a} than we expected",
        "the {n} {v} hardly {a}",
        "nobody could call the {n} {a}",
        "the {n} {v} far from {a}",
        "the {n} {v} anything but {a}",
    ),
    ("those who called the {n} {a} were wrong",),
)
_PRAISE = (
    (
        "the {n} could not have been better",
        "the {n} exceeded all our expectations",
        "we were very happy with the {n}",
        "the {n} impressed us",
        "the {n} {v} second to none",
        "I have no complaints about the {n}",
        "the {n} won me over",
    ),
    ("you cannot fault the {n}",),
)
_BLAME = (
    (
        "the {n} could have been much better",
        "the {n} {v} a disappointment",
        "we were unhappy with the {n}",
        "the {n} let us down",
        "the {n} left a lot to be desired",
        "I have nothing good to say about the {n}",
        "the {n} could hardly have been worse",
    ),
    ("the {n} {v} a disgrace",),
)
_AGREEING = ("{x} and {y}", "{x}, and {y}", "{x}; besides, {y}", "{x} and, what is more, {y}")
_CONTRASTING = ("{x} but {y}", "although {x}, {y}", "{x}, while {y}", "{x}; still, {y}")


@dataclass(frozen=True)
class _Author:
    """Draws reviews; `unseen` is the probability of each choice to be one for dev only."""

    rng: random.Random
    unseen: float

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def any(self, options: Sequence[str]) -> str:
        return options[int(self.rng.random() * len(options))]

    def shuffled(self, options: Sequence[str]) -> list[str]:
        return sorted(options, key=lambda _: self.rng.random())

    def choose(self, options: tuple[Sequence[str], Sequence[str]]) -> str:
        seen, unseen = options
        return self.any(unseen if self.chance(self.unseen) else seen)

    def remark(self, aspect: tuple[str, str, str], praise: bool) -> str:
        """Return a clause that praises or blames a thing of that aspect (an entry of the table)."""
        nouns, good, bad = map(_words, aspect)
        if self.chance(0.5):
            good, bad = _words(_GOOD), _words(_BAD)
        noun = self.choose(nouns)
        kind = self.rng.random()
        if kind < 0.15:
            form, adjective = self.choose(_PRAISE if praise else _BLAME), ""
        elif kind < 0.9:
            form, adjective = self.choose(_STEADY), self.choose(good if praise else bad)
        else:
            form, adjective = self.choose(_TURNED), self.choose(bad if praise else good)
        plural = noun.endswith("s") and not noun.endswith("ss")
        return form.format(n=noun, v="were" if plural else "was", a=adjective)

    def review(self, label: int) -> tuple[str, str]:
        """Return a text, and an aspect on which it says what the label (a `LABELS` index) says."""
        aspects = _DOMAINS[self.any(list(_DOMAINS))]
        names = self.shuffled(list(aspects))
        told = names[: 2 if self.chance(0.2) else 1]
        target = told[0]
        if LABELS[label] == "not mentioned":
            far = [name for domain in _DOMAINS.values() for name in domain if name not in told]
            target = names[-1] if self.chance(0.5) else self.any(far)
        main = self.chance(0.5) if LABELS[label] == "not mentioned" else LABELS[label] == "positive"
        praise = {name: main if name == told[0] else main ^ self.chance(0.4) for name in told}
        remarks = [self.remark(aspects[name], praise[name]) for name in self.shuffled(told)]
        text = remarks[0]
        if len(remarks) == 2:
            joints = _AGREEING if len(set(praise.values())) == 1 else _CONTRASTING
            text = self.any(joints).format(x=remarks[0], y=remarks[1])
        return f"{text[0].upper()}{text[1:]}.", target


def _words(table: str) -> tuple[list[str], list[str]]:
    """Split a table entry into the words for train and those for dev only."""
    seen, unseen = ([word.strip() for word in part.split(",")] for part in table.split("/"))
    return seen, unseen


def _write(author: _Author, rows: int, used: set[str]) -> Dataset:
    """Write that many reviews, classes in turn, none whose text is in `used`; adds them to it."""
    columns: dict[str, list[str | int]] = {"text": [], "pair": [], "label": []}
    while len(columns["text"]) < rows:
        label = len(columns["text"]) % len(LABELS)
        text, pair = author.review(label)
        if text in used:
            continue
        used.add(text)
        for name, value in (("text", text), ("pair", pair), ("label", label)):
            columns[name].append(value)
    features = Features(
        text=Value("string"), pair=Value("string"), label=ClassLabel(names=list(LABELS))
    )
    return Dataset.from_dict(columns, features=features)


def _load(folder: Path | None) -> Splits:
    """Generate the task's text; it has no files, so that a folder is a `TaskError`."""
    if folder is not None:
        raise TaskError(f"demo: the task generates its text and cannot read {folder}; drop --data.")
    rng = random.Random(SEED)
    used: set[str] = set()
    train = _write(_Author(rng, unseen=0.0), TRAIN_ROWS, used)
    return Splits(train, {"dev": _write(_Author(rng, unseen=UNSEEN), DEV_ROWS, used)})


DEMO = Classification("demo", load=_load, labels=LABELS, measures=("accuracy",), pair=True)
