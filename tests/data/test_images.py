"""The datasets of image files: CelebA, Waterbirds and domain folders, on small copies of their layouts."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from lowland.data import (
    DATASETS,
    DOMAIN_FOLDERS,
    GroupedDataset,
    Split,
    fetch,
    load,
    load_celeba,
    load_domains,
    load_waterbirds,
    status,
    verify,
)
from lowland.errors import DataError, SettingError

from .layouts import COLOURS, draw, draw_celeba, draw_domains, draw_waterbirds, labels, pixels


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWLAND_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def refused(call, *says, error=DataError):
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for text in says:
        assert text in message
    return message


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def assert_as_drawn(split, number):
    """The labels of the split, and images of their colours."""
    wanted = [(target, attribute) for target, attribute, part in labels(12) if part == number]
    assert list(zip(split.targets.tolist(), split.attributes.tolist(), strict=True)) == wanted
    for image, (target, attribute) in zip(split.inputs, wanted, strict=True):
        colour = torch.tensor(COLOURS[target]) // (1 + attribute)
        assert (image.float().mean((1, 2)) - colour).abs().max() < 12


ATTRIBUTES, PARTITION = "list_attr_celeba.txt", "list_eval_partition.txt"
SPLITS = ("train", "validation", "test")
LOADERS = {"celeba": (draw_celeba, load_celeba), "waterbirds": (draw_waterbirds, load_waterbirds)}


@pytest.mark.parametrize("name", LOADERS)
def test_read(root, name):
    draw, read = LOADERS[name]
    draw(root)
    data = read(size=16)
    for number, split in enumerate(SPLITS):
        part = getattr(data, split)
        assert part.inputs.shape == (4, 3, 16, 16)
        assert part.inputs.dtype == torch.uint8
        assert part.targets.dtype == part.attributes.dtype == torch.int64
        assert_as_drawn(part, number)
        assert sorted(data.groups(part).tolist()) == [0, 1, 2, 3]
    assert data.groups(data.test).tolist() == (2 * data.test.targets + data.test.attributes).tolist()
    assert data.groups(data.test.take(torch.tensor([2]))).shape == (1,)
    assert len(data.group_names) == 4
    assert data.to("meta").validation.attributes.is_meta
    assert verify(name) == []
    assert {entry.name: entry.state for entry in status()}[name] == "ready"
    assert fetch(name) == []
    assert read(root, size=16).train.inputs.equal(data.train.inputs)


def test_names_of_groups(root):
    draw_celeba(root)
    draw_waterbirds(root)
    data = load_celeba(size=8)
    assert data.classes == ("not Blond_Hair", "Blond_Hair")
    assert data.group_names[1] == "not Blond_Hair, Male"
    assert load_waterbirds(size=8).group_names[2] == "waterbird, land background"


def test_celeba_of_mirrors(root):
    """Tables as .csv with the ends of lines of Windows, and the folder of images in another of its name."""
    folder = draw_celeba(root, csv=True)
    folder.joinpath("img_align_celeba").rename(folder / "inner")
    (folder / "img_align_celeba").mkdir()
    (folder / "inner").rename(folder / "img_align_celeba" / "img_align_celeba")
    data = load_celeba(size=8)
    for number, split in enumerate(SPLITS):
        assert_as_drawn(getattr(data, split), number)


def test_celeba_in_the_publishers_folders_and_with_blanks(root):
    folder = draw_celeba(root)
    for place, file in (
        ("Anno", "list_attr_celeba.txt"),
        ("Eval", "list_eval_partition.txt"),
        ("Img", "img_align_celeba"),
    ):
        (folder / place).mkdir()
        (folder / file).rename(folder / place / file)
    table = folder / "Anno" / "list_attr_celeba.txt"
    table.write_text("\ufeff" + table.read_text().replace(" ", "   ") + "\n  \n", encoding="utf-8")
    assert_as_drawn(load_celeba(size=8).test, 2)


def test_other_attributes(root):
    draw_celeba(root)
    data = load_celeba(size=8, target="Male", attribute="5_o_Clock_Shadow")
    wanted = [(attribute, i % 3 == 0) for i, (_, attribute, part) in enumerate(labels(12)) if part == 0]
    assert list(zip(data.train.targets.tolist(), data.train.attributes.bool().tolist(), strict=True)) == wanted
    refused(lambda: load_celeba(target="Blond"), "no attribute Blond", "Did you mean Blond_Hair?")
    refused(lambda: load_celeba(target="Male"), "both Male", error=SettingError)


def test_celeba_keeps_the_central_square(root):
    folder = draw_celeba(root)
    image = Image.new("RGB", (44, 54), (255, 0, 0))
    image.paste((0, 0, 255), (0, 5, 44, 49))
    image.save(folder / "img_align_celeba" / "000001.jpg", quality=100, subsampling=0)
    (first, *_) = load_celeba(size=44).train.inputs
    assert (first.float() - torch.tensor([0.0, 0, 255]).view(3, 1, 1)).abs().max() < 12  # no red left, not resized


def test_waterbirds_are_resized_to_eight_sevenths_and_cropped(root):
    folder = draw_waterbirds(root)
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    image = Image.fromarray(noise).resize((128, 128), Image.Resampling.BICUBIC)
    image.save(folder / "noise.png")
    edit(folder / "metadata.csv", "001.Some_Bird/Some_Bird_0000.jpg", "noise.png")
    wanted = np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR).crop((4, 4, 60, 60))).transpose(2, 0, 1)
    (first, *_) = load_waterbirds(size=56).train.inputs
    assert np.abs(first.numpy().astype(int) - wanted).max() <= 1


def test_any_kind_of_image(root):
    """Grey, CMYK, palette and transparent images, extensions in capitals: all become RGB."""
    folder = draw_domains(root, n=1)
    where = folder / "photo" / "house"
    for file in where.iterdir():
        file.unlink()
    grey = Image.new("L", (9, 7), 100)
    draw(where / "a.JPG", grey)
    draw(where / "b.jpeg", grey.convert("CMYK"))
    draw(where / "c.png", grey.convert("P"))
    draw(where / "d.PNG", Image.new("RGBA", (7, 9), (100, 100, 100, 50)))
    draw(where / "e.png", Image.new("1", (7, 9), 1))
    (where / "Thumbs.db").write_bytes(b"no image, and none of ours")
    (where / "._a.JPG").write_bytes(b"what another system leaves behind")
    photo = load_domains("pacs", size=8).splits["photo"]
    assert photo.targets.tolist() == [0, 1] + [2] * 5
    assert (photo.inputs[2:6].float() - 100).abs().max() <= 2
    assert (photo.inputs[6] == 255).all()


@pytest.mark.parametrize("name", DOMAIN_FOLDERS)
def test_domains(root, name):
    domains = [places[0] for places in DATASETS[name].placed]
    folder = draw_domains(root, name, domains, n=2)
    (folder / ".hidden").mkdir()
    (folder / domains[0] / "README.txt").write_text("not a class")
    data = load_domains(name, size=8)
    assert list(data.splits) == domains
    assert data.classes == ("dog", "elephant", "house")
    for d, split in enumerate(data.splits.values()):
        assert split.targets.tolist() == [0, 0, 1, 1, 2, 2]
        colours = torch.tensor(COLOURS[:3]).repeat_interleave(2, 0) // (1 + d % 2)
        assert (split.inputs.float().mean((2, 3)) - colours).abs().max() < 12
    assert data.to("meta").splits[domains[1]].inputs.is_meta
    assert verify(name) == []


def test_a_cache_that_fits_is_used_and_no_other(root):
    folder = draw_domains(root, n=1)

    def files():
        return {path: path.stat().st_ino for path in (root / "cache" / "pacs").rglob("*.npy")}

    first = load_domains("pacs", size=8)
    before = files()
    assert len(before) == 4
    assert {path.parent.parent.name for path in before} == set(first.splits)
    load_domains("pacs", size=8)
    assert files() == before
    load_domains("pacs", size=12)
    assert len(files()) == 8
    draw(folder / "photo" / "dog" / "pic_000.jpg", pixels(4))  # another image in its place
    again = load_domains("pacs", size=8)
    changed = set(before.items()) - set(files().items())
    assert [path.parent.parent.name for path, _ in changed] == ["photo"]
    assert len(files()) == 8  # the old one is gone
    assert not again.splits["photo"].inputs[0].equal(first.splits["photo"].inputs[0])
    assert again.splits["photo"].inputs[1].equal(first.splits["photo"].inputs[1])
    draw(folder / "photo" / "dog" / "pic_001.jpg", pixels(0))
    assert len(load_domains("pacs", size=8).splits["photo"]) == 4


@pytest.mark.parametrize("damage", [
    lambda data: data[:-1], lambda data: data + b"x", lambda data: b"", lambda data: b"no array" * 50,
    lambda data: data.replace(b"(3, 3", b"(9, 3"), lambda data: data.replace(b"|u1", b"|i1"),
    lambda data: data.replace(b"descr", b"\xff\xff\xff\xff\xff"), lambda data: data[:5],
])  # fmt: skip
def test_a_damaged_cache_is_made_anew(root, damage):
    draw_domains(root, n=1)
    wanted = load_domains("pacs", size=8).splits["photo"].inputs.clone()
    (path,) = (root / "cache" / "pacs" / "photo" / "8").glob("*.npy")
    path.write_bytes(damage(path.read_bytes()))
    assert load_domains("pacs", size=8).splits["photo"].inputs.equal(wanted)
    assert not list(path.parent.glob("*.part"))


def test_what_is_written_to_the_images_stays_in_memory(root):
    draw_domains(root, n=1)
    inputs = load_domains("pacs", size=8).splits["photo"].inputs
    wanted = inputs.clone()
    inputs.zero_()
    assert load_domains("pacs", size=8).splits["photo"].inputs.equal(wanted)


def test_more_images_than_are_decoded_at_once_stay_in_order(root, monkeypatch):
    monkeypatch.setattr("lowland.data.decode._AT_ONCE", 3)
    draw_waterbirds(root)
    assert_as_drawn(load_waterbirds(size=8).test, 2)


def test_a_cache_that_cant_be_written(root):
    draw_domains(root, n=1)
    (root / "cache").write_text("in the way")
    refused(lambda: load_domains("pacs", size=8), "can't be written", "$LOWLAND_DATA")


def truncated(path):
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize(("damage", "says"), [
    (truncated, "image file is truncated"),
    (lambda path: path.write_bytes(b""), "no image"),
    (lambda path: path.write_bytes(b"<html>not found</html>"), "no image"),
    (lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
])  # fmt: skip
def test_unreadable_images_are_named_and_counted(root, damage, says):
    folder = draw_waterbirds(root)
    files = sorted(folder.glob("*/*.jpg"))
    for number in (0, 5, 6, 9, 11):  # of all three splits
        damage(files[number])
    says = f"{folder}: 5 of 12 images can't be read: 001.Some_Bird/Some_Bird_0000.jpg ({says}"
    message = refused(lambda: load_waterbirds(size=8), says, "and 2 more")
    assert verify("waterbirds") == [message]
    assert message.count("Some_Bird_") == 3
    assert not list(root.rglob("*.part"))
    for number in (0, 5, 6, 9, 11):
        shutil.rmtree(files[number], ignore_errors=True)
        draw(files[number], pixels(0))
    assert len(load_waterbirds(size=8).test) == 4


def test_missing_images_are_named_and_counted(root):
    folder = draw_celeba(root)
    for number in (2, 3, 7, 11):
        (folder / "img_align_celeba" / f"{number:06d}.jpg").unlink()
    says = ("4 of 12 images are missing", "000002.jpg", "and 1 more")
    refused(load_celeba, *says)
    (problem,) = verify("celeba")
    assert all(text in problem for text in says)


def rewrite(file, old, new):
    return lambda folder: edit(folder / file, old, new)


@pytest.mark.parametrize(("damage", "says"), [
    (lambda folder: (folder / ATTRIBUTES).unlink(), ("place the publisher's files at", f"missing: {ATTRIBUTES}")),
    (lambda folder: shutil.rmtree(folder), ("img_align_celeba", ATTRIBUTES, PARTITION)),
    (lambda folder: (folder / ATTRIBUTES).write_text(""), (ATTRIBUTES, "doesn't start with the number of images")),
    (rewrite(ATTRIBUTES, "12\n", ""), ("doesn't start with the number of images", "Blond_Hair")),
    (rewrite(ATTRIBUTES, "12\n", "13\n"), ("has 12 images, though it starts with 13",)),
    (rewrite(ATTRIBUTES, "Blond_Hair", "Brown_Hair"), ("no attribute Blond_Hair", "Did you mean Brown_Hair?")),
    (rewrite(ATTRIBUTES, " Male", ""), ("no attribute Male",)),
    (rewrite(ATTRIBUTES, "Young", ""), ("line 3: 6 fields, not 5",)),
    (rewrite(ATTRIBUTES, "000002.jpg -1  1", "000002.jpg -1  0"), ("line 4", "1 or -1, not 0 and -1")),
    (rewrite(ATTRIBUTES, "000002.jpg", "000001.jpg"), ("line 4", "000001.jpg comes twice")),
    (rewrite(ATTRIBUTES, "000002.jpg", "99.jpg"), (f"{ATTRIBUTES} lacks 1 images that {PARTITION} has: 000002.jpg",)),
    (rewrite(PARTITION, "000002.jpg 0\n", ""), (f"{PARTITION} lacks 1 images that {ATTRIBUTES} has: 000002.jpg",)),
    (rewrite(PARTITION, "000002.jpg 0", "000002.jpg 3"), (PARTITION, "line 2", "0, 1 or 2")),
    (rewrite(PARTITION, "000002.jpg 0", "000002.jpg"), (PARTITION, "line 2")),
    (rewrite(PARTITION, "000002.jpg", "000001.jpg"), (PARTITION, "000001.jpg comes twice")),
    (lambda folder: (folder / PARTITION).write_text((folder / PARTITION).read_text().replace(" 1\n", " 0\n")),
     (PARTITION, "no image of the validation split (number 1)")),
    (lambda folder: ((folder / PARTITION).unlink(), (folder / PARTITION).mkdir()), (PARTITION, "can't be read")),
])  # fmt: skip
def test_damaged_tables_of_celeba(root, damage, says):
    damage(draw_celeba(root))
    refused(load_celeba, *says)
    assert all(text in verify("celeba")[0] for text in says)


@pytest.mark.parametrize(("damage", "says"), [
    (lambda folder: (folder / "metadata.csv").unlink(), ("place the publisher's files at", "missing: metadata.csv")),
    (lambda folder: (folder / "metadata.csv").write_text(""), ("no column img_filename, y, place, split",)),
    (rewrite("metadata.csv", "y,split,place,", "y,split,"), ("no column place",)),
    (rewrite("metadata.csv", "0000.jpg,0,", "0000.jpg,2,"), ("line 2: y is 0 or 1, not '2'",)),
    (rewrite("metadata.csv", "0000.jpg,0,0,0", "0000.jpg,0,0"), ("line 2: place is 0 or 1",)),
    (rewrite("metadata.csv", "0000.jpg,0,0,0,/o/ocean/00000000.jpg", "0000.jpg,0"), ("line 2", "not ''")),
    (rewrite("metadata.csv", "0000.jpg,0,0", "0000.jpg,0,train"), ("split is 0 or 1 or 2, not 'train'",)),
    (rewrite("metadata.csv", "001.Some_Bird/Some_Bird_0000.jpg", " "), ("line 2: img_filename is empty",)),
    (rewrite("metadata.csv", "001.Some_Bird/Some_Bird_0000.jpg", "002.Some_Bird/Some_Bird_0001.jpg"), ("twice",)),
    (rewrite("metadata.csv", "001.Some_Bird", "01.Some_Bird"), ("1 of 12 images are missing: 01.Some_Bird",)),
    (lambda folder: (folder / "metadata.csv").write_text("".join((folder / "metadata.csv").open().readlines()[:9])),
     ("no image of the test split (number 2)",)),
])  # fmt: skip
def test_damaged_table_of_waterbirds(root, damage, says):
    damage(draw_waterbirds(root))
    refused(load_waterbirds, *says)
    assert all(text in verify("waterbirds")[0] for text in says)


def test_waterbirds_unpacked_as_they_come_with_blanks_in_the_table(root):
    folder = draw_waterbirds(root)
    table = folder / "metadata.csv"
    table.write_text("\ufeff" + table.read_text().replace(",", " , "), encoding="utf-8")
    (root / "unpacked").mkdir()
    folder.rename(root / "unpacked" / "waterbird_complete95_forest2water2")
    (root / "unpacked").rename(folder)
    assert_as_drawn(load_waterbirds(size=8).train, 0)


def test_a_group_without_examples_is_read_and_reported(root):
    """Training sets have such groups on purpose; without them in test there is no worst group."""
    folder = draw_waterbirds(root)
    edit(folder / "metadata.csv", "0011.jpg,1,2,1", "0011.jpg,1,2,0")
    edit(folder / "metadata.csv", "0003.jpg,1,0,1", "0003.jpg,1,0,0")
    data = load_waterbirds(size=8)
    assert data.groups(data.test).bincount(minlength=4).tolist() == [1, 1, 2, 0]
    assert verify("waterbirds") == [f"{folder}: no test image is of the group waterbird, water background"]


@pytest.mark.parametrize(("damage", "says"), [
    (lambda folder: shutil.rmtree(folder / "photo"), ("place the publisher's files at", "missing: photo")),
    (lambda folder: shutil.rmtree(folder / "photo" / "dog"), ("photo lacks the class folders dog",)),
    (lambda folder: (folder / "photo" / "cat").mkdir(), ("art_painting lacks the class folders cat",)),
    (lambda folder: shutil.move(folder / "photo" / "dog" / "pic_000.jpg", folder), ("dog has no images",)),
    (lambda folder: [shutil.rmtree(path) for path in folder.glob("*/*")], ("no class folders",)),
    (lambda folder: truncated(folder / "photo" / "dog" / "pic_000.jpg"), ("1 of 12 images", "photo/dog/pic_000.jpg")),
    (lambda folder: (shutil.rmtree(folder / "photo"), (folder / "photo").write_text("")), ("photo can't be read",)),
])  # fmt: skip
def test_damaged_domains(root, damage, says):
    damage(draw_domains(root, n=1))
    refused(lambda: load_domains("pacs", size=8), *says)
    assert all(text in verify("pacs")[0] for text in says)


def test_wrong_names_and_sizes(root):
    draw_domains(root, n=1)
    refused(lambda: load_domains("pcas"), "Did you mean pacs?")
    refused(lambda: load_domains("mnist"), "no domain folders", "pacs", error=SettingError)
    refused(lambda: load_domains("pacs", size=0), "not 0", error=SettingError)
    refused(lambda: load("celeba"), "load_celeba", error=SettingError)
    refused(lambda: fetch("celeba"), "can't be fetched", str(root / "celeba"))
    nobody = GroupedDataset("", *[Split(torch.zeros(1))] * 3, (), ())
    refused(lambda: nobody.groups(nobody.train), "no groups", error=ValueError)


def test_status_and_commands(root, lowland):
    folder = draw_domains(root, n=1)
    assert {entry.name: (entry.state, entry.bytes, entry.fetchable) for entry in status()} | {
        "pacs": ("ready", None, False), "celeba": ("missing", None, False), "mnist": ("missing", 0, True)
    } == {entry.name: (entry.state, entry.bytes, entry.fetchable) for entry in status()}  # fmt: skip
    shown = " ".join(lowland("data", "status").out.split())
    assert "can't be fetched: place the publisher's files at" in shown
    assert lowland("data", "verify", "pacs").out == "pacs: fine\n"
    shutil.rmtree(folder / "photo")
    outcome = lowland("data", "verify")
    assert "photo" in outcome.out
    assert "celeba" not in outcome.out  # nobody has asked for it
    assert "celeba" in lowland("data", "verify", "celeba").out
    fetched = lowland("data", "fetch", "celeba")
    assert fetched.code == 2
    assert "place the publisher's files at" in fetched.err
