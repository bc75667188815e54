"""Writes a web shop's product pictures and customers' sessions, and two small untrained models to start from.

A picture is a drawing of one of six products with random rotation, colour, position and light, on a cluttered
background and with noise. A session lists what a customer did, in order. The intent makes some events likelier after
others, but every intent can lead to every event. Some sessions are too short to determine the intent.

    python make_data.py --workspace DIR
"""

from __future__ import annotations

import argparse
import csv
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

SEED = 17
PICTURES_PER_PRODUCT = 200
SESSIONS = 2500
SIDE = 32
"""The width and height of a picture in pixels. It is drawn at twice the size and scaled down."""

Colour = tuple[int, int, int]


# ---- pictures -------------------------------------------------------------------------------------------------------


def mug(draw: ImageDraw.ImageDraw, colour: Colour, chance: random.Random) -> None:
    right, top = chance.randint(36, 42), chance.randint(18, 26)
    draw.ellipse((right - 6, top + 4, right + 12, 42), outline=colour, width=3)
    draw.rectangle((18, top, right, 48), fill=colour)


def bottle(draw: ImageDraw.ImageDraw, colour: Colour, chance: random.Random) -> None:
    half, shoulder = chance.randint(6, 10), chance.randint(22, 30)
    draw.rectangle((29, 8, 35, shoulder), fill=colour)
    draw.rounded_rectangle((32 - half, shoulder - 2, 32 + half, 56), 5, fill=colour)


def shirt(draw: ImageDraw.ImageDraw, colour: Colour, chance: random.Random) -> None:
    sleeve, hem = chance.randint(26, 40), chance.randint(48, 55)
    outline = [(24, 14), (40, 14), (56, sleeve), (50, sleeve + 5), (43, 26), (43, hem), (21, hem), (21, 26)]
    draw.polygon([*outline, (14, sleeve + 5), (8, sleeve)], fill=colour)


def lamp(draw: ImageDraw.ImageDraw, colour: Colour, chance: random.Random) -> None:
    wide, foot = chance.randint(12, 18), chance.randint(8, 13)
    draw.polygon([(26, 10), (38, 10), (32 + wide, 30), (32 - wide, 30)], fill=colour)
    draw.rectangle((30, 30, 34, 54), fill=colour)
    draw.rectangle((32 - foot, 52, 32 + foot, 56), fill=colour)


def bag(draw: ImageDraw.ImageDraw, colour: Colour, chance: random.Random) -> None:
    top, half = chance.randint(26, 32), chance.randint(13, 18)
    draw.arc((22, top - 14, 42, top + 12), 180, 360, fill=colour, width=3)
    draw.rectangle((32 - half, top, 32 + half, 54), fill=colour)


def shoe(draw: ImageDraw.ImageDraw, colour: Colour, chance: random.Random) -> None:
    ankle, toe = chance.randint(18, 28), chance.randint(50, 57)
    draw.polygon([(14, ankle), (28, ankle), (34, 36), (toe, 42), (toe, 50), (14, 50)], fill=colour)


PRODUCTS: dict[str, Callable[[ImageDraw.ImageDraw, Colour, random.Random], None]] = {
    "bag": bag,
    "bottle": bottle,
    "lamp": lamp,
    "mug": mug,
    "shirt": shirt,
    "shoe": shoe,
}


def picture(product: str, chance: random.Random) -> Image.Image:
    """Draw a picture of 32 x 32 pixels."""
    from PIL import Image, ImageDraw

    def colour(low: int, high: int) -> Colour:
        return chance.randint(low, high), chance.randint(low, high), chance.randint(low, high)

    size = 2 * SIDE
    background = Image.new("RGB", (size, size), colour(150, 255))
    clutter = ImageDraw.Draw(background)
    for _ in range(chance.randint(0, 3)):
        x, y = chance.randint(0, size), chance.randint(0, size)
        clutter.rectangle((x, y, x + chance.randint(4, 16), y + chance.randint(4, 16)), fill=colour(60, 255))
    layer = Image.new("RGBA", (size, size))
    PRODUCTS[product](ImageDraw.Draw(layer), colour(0, 130), chance)
    scale = chance.uniform(0.8, 1.0)
    small = layer.rotate(chance.gauss(0, 10), Image.Resampling.BILINEAR).resize((int(size * scale), int(size * scale)))
    middle = (size - small.width) // 2
    background.paste(small, (middle + chance.randint(-3, 3), middle + chance.randint(-3, 3)), small)
    result = background.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    noise = Image.frombytes("RGB", result.size, chance.randbytes(3 * SIDE * SIDE))
    return Image.blend(result, noise, chance.uniform(0.02, 0.25))


def write_pictures(folder: Path) -> None:
    """Write an image folder: each product's pictures are in a folder with its name."""
    chance = random.Random(SEED)
    for product in PRODUCTS:
        (folder / product).mkdir(parents=True, exist_ok=True)
        for number in range(PICTURES_PER_PRODUCT):
            picture(product, chance).save(folder / product / f"{number:03}.png")


# ---- sessions -------------------------------------------------------------------------------------------------------

DEPARTMENTS = ["shoes", "garden", "kitchen", "toys", "books"]
ALWAYS = {"home": 2, "view": 4, "search": 2, "category": 2, "cart": 1, "help": 0.4, "orders": 0.5, "leave": 0.4}
LIKELIER: dict[str, dict[str, dict[str, float]]] = {
    "buy": {
        "view": {"cart": 4, "reviews": 2},
        "cart": {"checkout": 5, "delivery": 3},
        "": {"delivery": 1, "checkout": 1},
    },
    "compare": {
        "view": {"view": 5, "compare": 4, "reviews": 3},
        "compare": {"view": 4, "filter": 3},
        "": {"filter": 2},
    },
    "bargain": {"cart": {"coupon": 5, "remove": 3}, "": {"sale": 3, "coupon": 1}, "view": {"filter": 2, "cart": 2}},
    "return": {"orders": {"return": 4, "invoice": 2}, "": {"orders": 3, "help": 1}, "help": {"return": 3}},
    "browse": {"": {"category": 3, "home": 2}, "category": {"category": 3, "view": 3}, "view": {"leave": 1}},
}
WITH_DEPARTMENT = {"view", "cart", "category", "search", "remove"}


def session(intent: str, chance: random.Random) -> str:
    """Return events that are separated by spaces, such as `search:toys view:toys cart:toys`."""
    events, last, department = [], "", chance.choice(DEPARTMENTS)
    for _ in range(chance.randint(3, 18)):
        weights = dict(ALWAYS)
        for after in ("", last):
            for event, weight in LIKELIER[intent].get(after, {}).items():
                weights[event] = weights.get(event, 0.0) + weight
        last = chance.choices(list(weights), list(weights.values()))[0]
        if chance.random() < 0.15:
            department = chance.choice(DEPARTMENTS)
        events.append(f"{last}:{department}" if last in WITH_DEPARTMENT else last)
    return " ".join(events)


def write_sessions(file: Path) -> None:
    """Write a table with the columns events and intent."""
    chance = random.Random(SEED)
    with file.open("w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["events", "intent"])
        for _ in range(SESSIONS):
            intent = chance.choice(list(LIKELIER))
            writer.writerow([session(intent, chance), intent])


# ---- models ---------------------------------------------------------------------------------------------------------


def write_vit(folder: Path) -> None:
    """Save a ViT of three layers with random weights."""
    import torch
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

    torch.manual_seed(SEED)
    shape = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4}
    ViTModel(ViTConfig(**shape, image_size=SIDE, patch_size=8), add_pooling_layer=False).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)


def write_bert(folder: Path) -> None:
    """Save a BERT of two layers with random weights, and a tokenizer with one token for each event."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    plain = {*ALWAYS, *(event for after in LIKELIER.values() for likelier in after.values() for event in likelier)}
    events = [f"{event}:{d}" for event in WITH_DEPARTMENT for d in DEPARTMENTS] + list(plain - WITH_DEPARTMENT)
    vocabulary = {event: number for number, event in enumerate(["[PAD]", "[UNK]", "[CLS]", *sorted(events)])}
    one_by_one = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    one_by_one.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    one_by_one.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
    PreTrainedTokenizerFast(
        tokenizer_object=one_by_one, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]"
    ).save_pretrained(folder)
    torch.manual_seed(SEED)
    shape = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
    BertModel(BertConfig(**shape, vocab_size=len(vocabulary), max_position_embeddings=64)).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, required=True, metavar="DIR")
    workspace: Path = parser.parse_args().workspace
    write_pictures(workspace / "shop" / "pictures")
    write_sessions(workspace / "shop" / "sessions.csv")
    write_vit(workspace / "models" / "small-vit")
    write_bert(workspace / "models" / "small-bert")


if __name__ == "__main__":
    main()
