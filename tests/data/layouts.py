"""Small copies of datasets of image files, in their publishers' layouts, drawn as JPEGs.

Each class has a colour and each second feature a brightness, so that a test can tell what it reads.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = ((220, 40, 40), (40, 220, 40), (40, 40, 220), (200, 200, 40), (40, 200, 200), (200, 40, 200), (120, 120, 120))
FILLER = ("5_o_Clock_Shadow", "Bald", "Young")
PACS = ("art_painting", "cartoon", "photo", "sketch")


def pixels(target: int, attribute: int = 0, size: tuple[int, int] = (20, 24), seed: int = 0) -> Image.Image:
    """``size`` is (width, height); some noise, and half as bright with attribute 1."""
    rng = np.random.default_rng(seed)
    colour = np.array(COLOURS[target % len(COLOURS)]) // (1 + attribute)
    noise = rng.integers(-8, 9, (size[1], size[0], 1))
    return Image.fromarray(np.clip(colour + noise, 0, 255).astype(np.uint8), "RGB")


def draw(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **({} if path.suffix.lower() == ".png" else {"format": "JPEG", "quality": 95}))


def labels(n: int) -> list[tuple[int, int, int]]:
    """(target, attribute, split) of ``n`` examples: every split has every group when ``n`` is 12 or more."""
    return [(i % 2, i // 2 % 2, i // 4 % 3) for i in range(n)]


def draw_celeba(root: Path, n: int = 12, *, csv: bool = False) -> Path:
    """``n`` faces of 178 × 218 / 4 pixels and the two tables under ``root``/celeba; returns that folder."""
    folder = root / "celeba"
    names = [*FILLER[:1], "Blond_Hair", FILLER[1], "Male", FILLER[2]]
    attributes, partition = [], []
    for i, (target, attribute, split) in enumerate(labels(n)):
        file = f"{i + 1:06d}.jpg"
        draw(folder / "img_align_celeba" / file, pixels(target, attribute, (44, 54), i))
        attributes.append([file, *(str(2 * value - 1) for value in (i % 3 == 0, target, 0, attribute, 1))])
        partition.append([file, str(split)])
    if csv:
        tables = {
            "list_attr_celeba.csv": [["image_id", *names], *attributes],
            "list_eval_partition.csv": [["image_id", "partition"], *partition],
        }
        texts = {name: "".join(",".join(row) + "\r\n" for row in rows) for name, rows in tables.items()}
    else:
        # The publisher's file ends the names with a space, and fills values up to two characters.
        rows = [f"{row[0]} " + " ".join(f"{value:>2}" for value in row[1:]) for row in attributes]
        texts = {
            "list_attr_celeba.txt": "\n".join([str(n), " ".join(names) + " ", *rows]) + "\n",
            "list_eval_partition.txt": "\n".join(" ".join(row) for row in partition) + "\n",
        }
    for name, text in texts.items():
        (folder / name).write_text(text, newline="")
    return folder


def draw_waterbirds(root: Path, n: int = 12) -> Path:
    """``n`` birds and ``metadata.csv`` under ``root``/waterbirds; returns that folder."""
    folder = root / "waterbirds"
    lines = ["img_id,img_filename,y,split,place,place_filename"]
    for i, (target, attribute, split) in enumerate(labels(n)):
        file = f"{i + 1:03d}.Some_Bird/Some_Bird_{i:04d}.jpg"
        draw(folder / file, pixels(target, attribute, (32 + 4 * (i % 2), 28), i))
        lines.append(f"{i},{file},{target},{split},{attribute},/o/ocean/{i:08d}.jpg")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


def draw_domains(
    root: Path,
    name: str = "pacs",
    domains: Sequence[str] = PACS,
    classes: Sequence[str] = ("dog", "elephant", "house"),
    n: int = 2,
) -> Path:
    """``n`` images of each class in each domain under ``root``/``name``; returns that folder."""
    folder = root / name
    for d, domain in enumerate(domains):
        for target, label in enumerate(classes):
            for i in range(n):
                draw(folder / domain / label / f"pic_{i:03d}.jpg", pixels(target, d % 2, (20, 24), i))
    return folder
