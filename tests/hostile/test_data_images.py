"""Images that are none, or too much, and tables that lie about them."""

import io
import os
import random
import struct
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from lowland.data import decode, load_celeba, load_domains, load_waterbirds, verify
from lowland.errors import DataError
from tests.data.layouts import draw_celeba, draw_domains, draw_waterbirds, pixels
from tests.hostile.data_tools import refused, within
from tests.hostile.test_data_archives import growth, spoiled

FILE = "photo/dog/pic_001.jpg"


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWLAND_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def encoded(kind, image=None, **options):
    buffer = io.BytesIO()
    (image or pixels(1)).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *chunks, pixels=b""):
    """A PNG of one bit a pixel, whatever stands in it."""
    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + b"".join(chunks) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def blank(width, height):
    """A whole image, of bytes that compress well."""
    return png(width, height, pixels=zlib.compress(bytes(height * (1 + (width + 7) // 8)), 9))


def program_starts(folder, monkeypatch):
    """Programs that imaging libraries are known to start, in the search path; what they leave if they were."""
    mark = folder / "started"
    (folder / "bin").mkdir(parents=True)
    for name in ("gs", "gswin32c", "gswin64c", "convert", "magick", "ffmpeg", "xv", "display"):
        program = folder / "bin" / name
        program.write_text(f"#!{sys.executable}\nopen({str(mark)!r}, 'w')\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    return mark


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(/tmp/x) (w) file\n%%EOF\n"

#: Formats that Pillow reads and we don't.
OTHERS = {
    "PostScript": lambda: POSTSCRIPT,
    "PostScript from DOS": lambda: (
        b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 30, len(POSTSCRIPT)) + bytes(18) + POSTSCRIPT
    ),
    "GIF": lambda: encoded("GIF"),
    "PPM": lambda: encoded("PPM"),
    "plain PPM": lambda: b"P3 2 2 255 " + b"1 " * 12,
    "TGA": lambda: encoded("TGA"),
    "ICO": lambda: encoded("ICO"),
    "ICNS": lambda: encoded("ICNS", pixels(1, size=(16, 16))),
    "PCX": lambda: encoded("PCX"),
    "SGI": lambda: encoded("SGI"),
    "JPEG 2000": lambda: encoded("JPEG2000"),
    "DDS": lambda: encoded("DDS"),
    "MSP": lambda: encoded("MSP", pixels(1).convert("1")),
    "SPIDER": lambda: encoded("SPIDER", pixels(1).convert("F")),
    "XBM": lambda: encoded("XBM", pixels(1).convert("1")),
    "PDF": lambda: encoded("PDF"),
    "AVIF": lambda: b"\0\0\0\x1cftypavif" + bytes(100),
    "FITS": lambda: b"SIMPLE  =                    T" + b" " * 2850,
    "Photoshop": lambda: b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 10, 10, 8, 3) + bytes(1000),
    "WMF": lambda: b"\xd7\xcd\xc6\x9a" + bytes(100),
    "SVG": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "nothing": lambda: b"",
    "zeros": lambda: bytes(5000),
}


@pytest.mark.parametrize("name", ["pic_001.png", "pic_001.TIFF"])
def test_formats_that_arent_ours_are_never_opened(root, tmp_path, monkeypatch, name):
    mark = program_starts(tmp_path / "programs", monkeypatch)
    folder = draw_domains(root, n=1) / "photo" / "dog"
    for what, make in OTHERS.items():
        try:
            content = make()
        except (OSError, KeyError):  # of a format that this Pillow doesn't write
            continue
        (folder / name).write_bytes(content)
        message = refused(lambda: load_domains("pacs", size=8), "1 of 13 images", f"photo/dog/{name}", "no image")
        assert "BMP, JPEG, PNG, TIFF, WEBP" in message, what
        assert not mark.exists(), what


@pytest.mark.parametrize("kind", decode.FORMATS)
def test_formats_that_are_ours_are_opened_by_any_of_their_names(root, kind):
    folder = draw_domains(root, n=1)
    (folder / FILE).write_bytes(encoded(kind))
    assert (load_domains("pacs", size=8).splits["photo"].inputs[1].float().mean((1, 2))[1] - 220).abs() < 12
    assert verify("pacs") == []


def test_a_photograph_with_a_second_one_in_it_is_a_photograph(root):
    """As cameras write them: a JPEG, for Pillow a format of its own."""
    folder = draw_domains(root, n=1)
    (folder / FILE).write_bytes(encoded("MPO", save_all=True, append_images=[pixels(2)]))
    assert len(load_domains("pacs", size=8).splits["photo"]) == 4


def huge_tiff(width, height):
    """The directory of a TIFF that promises so much."""
    entries = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: 2**32 - 1}
    body = struct.pack("<H", len(entries))
    for tag, value in sorted(entries.items()):
        body += struct.pack("<HHII", tag, 4, 1, value)
    return b"II*\0" + struct.pack("<I", 8) + body + bytes(4)


def huge_bmp(width, height):
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info


def huge_jpeg(width, height):
    data = bytearray(encoded("JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


#: Images that promise more than there is, or more than there may be.
PROMISES = {
    "png 2^31": lambda: png(2**31 - 1, 2**31 - 1),
    "png 2^31 by 1": lambda: png(2**31 - 1, 1),
    "png 0": lambda: png(0, 0),
    "png 100 million pixels": lambda: png(10_000, 10_000),
    "png 30,000 by 30,000, whole": lambda: blank(30_000, 30_000),
    "png 89 million pixels, none there": lambda: png(8_900, 10_000),
    "tiff 2^32": lambda: huge_tiff(2**32 - 1, 2**32 - 1),
    "tiff 60,000": lambda: huge_tiff(60_000, 60_000),
    "tiff 9,000, none there": lambda: huge_tiff(9_000, 9_000),
    "tiff that is its own next": lambda: huge_tiff(10, 10)[:-4] + struct.pack("<I", 8),
    "bmp 2^31": lambda: huge_bmp(2**31 - 1, 2**31 - 1),
    "bmp negative": lambda: huge_bmp(-5, -(2**31)),
    "bmp 9,000, none there": lambda: huge_bmp(9_000, 9_000),
    "jpeg 65,535": lambda: huge_jpeg(65_535, 65_535),
    "jpeg 0": lambda: huge_jpeg(0, 0),
    "webp 16,383": lambda: b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X" + bytes((10, *[0] * 7)) + b"\xfe\x3f\0" * 2,
    "png with a text of a bomb": lambda: png(1, 1, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8)))),
    "png with a profile of a bomb": lambda: png(1, 1, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(10**8)))),
    "png with a chunk of 2^31": lambda: png(1, 1)[:33] + struct.pack(">I", 2**31 - 1) + b"eXIfxx",
    "png whose pixels are a bomb": lambda: png(8, 8, pixels=zlib.compress(bytes(10**8)))[:-30],
}  # fmt: skip

#: What is wrong with these lies behind the pixels, which are there.
SOUND = ("tiff that is its own next", "png whose pixels are a bomb")


def test_images_that_promise_too_much(root):
    """A line each, no warning beside it, and little memory."""
    folder = draw_domains(root, n=1)

    def load():
        if what in SOUND:
            load_domains("pacs", size=8)
        else:
            refused(lambda: load_domains("pacs", size=8), "1 of 13 images", FILE, seconds=5)

    for what, make in PROMISES.items():
        (folder / FILE).write_bytes(make())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            limit = 6e8 if "9" in what else 1.5e8  # 90 million pixels are within bounds, as far as one can tell
            assert growth(load) < limit, what


def test_an_image_file_of_gigabytes(root):
    folder = draw_domains(root, n=1)
    with open(folder / FILE, "wb") as file:
        file.write(png(1, 1)[:33] + struct.pack(">I", 2**31 - 1) + b"eXIf")
        file.truncate(3 * 2**30)
    message = refused(lambda: load_domains("pacs", size=8), "1 of 13 images", "too large", seconds=2)
    assert "3221225472" in message


def test_large_images_are_decoded_one_at_a_time(root, monkeypatch):
    """However many processors there are: memory for one suffices."""
    under_way, most = set(), []

    def watched(image, *arguments):
        under_way.add(id(image))
        most.append(len(under_way))
        try:
            return square(image, *arguments)
        finally:
            under_way.remove(id(image))

    square = decode._square
    monkeypatch.setattr(decode, "_square", watched)
    monkeypatch.setattr(decode, "_LARGE_PIXELS", 100)
    draw_domains(root, n=3)
    load_domains("pacs", size=8)
    assert max(most) == 1


def test_the_same_pixels_as_pillow_gives(root):
    """Opened as a stream of one of five formats, and not by its name."""
    folder = draw_domains(root, n=1)
    with Image.open(folder / "photo" / "dog" / "pic_000.jpg") as image:
        wanted = np.asarray(image.convert("RGB").resize((8, 8), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert (load_domains("pacs", size=8).splits["photo"].inputs[0].numpy() == wanted).all()


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "jpeg", "group4"])
def test_a_damaged_tiff_is_one_line(root, compression, capfd):
    """Its library prints what it finds by itself, unless it is told not to."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    content = io.BytesIO()
    image.convert("1" if compression == "group4" else "RGB").save(content, "TIFF", compression=compression)
    damaged = bytearray(content.getvalue())
    damaged[20:400] = bytes(255 - byte for byte in damaged[20:400])
    (draw_domains(root, n=1) / "photo" / "dog" / "a.tif").write_bytes(damaged)
    capfd.readouterr()
    problems = verify("pacs")
    assert capfd.readouterr().err == ""
    assert compression == "group4" or len(problems) == 1


def fuzz(root, count, seed, capfd):
    """Spoiled images of each format: decoded or named, nothing printed, no exception."""
    rng = random.Random(seed)
    folder = draw_domains(root, n=1)
    sources = [encoded(kind) for kind in decode.FORMATS]
    sources += [
        encoded("TIFF", compression=way) for way in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "raw")
    ]
    sources += [
        encoded("PNG", pixels(1).convert("P")),
        encoded("JPEG", progressive=True),
        encoded("WEBP", lossless=True),
    ]
    sources += [encoded("TIFF", save_all=True, append_images=[pixels(0)]), encoded("BMP", pixels(1).convert("1"))]
    outcomes = {"whole": 0, "refused": 0}
    capfd.readouterr()
    for _ in range(count):
        data = rng.choice(sources)
        cut = rng.choice((len(data), 100, 300))
        (folder / FILE).write_bytes(spoiled(data[:cut], rng) + data[cut:])
        with within(20):
            problems = verify("pacs")
        printed = capfd.readouterr()
        assert printed.out == ""
        assert printed.err == ""
        assert all("\n" not in problem and problem.isprintable() for problem in problems)
        outcomes["refused" if problems else "whole"] += 1
    return outcomes


def test_images_spoiled_at_random(root, capfd, count):
    count("images spoiled at random", 60)
    assert fuzz(root, 60, 0, capfd)["refused"] > 20


@pytest.mark.hostile
@pytest.mark.parametrize("seed", range(1, 6))
def test_many_images_spoiled_at_random(root, seed, capfd, count):
    count("images spoiled at random", 600)
    assert fuzz(root, 600, seed, capfd)["refused"] > 200


# Tables


def table(root):
    return draw_waterbirds(root) / "metadata.csv"


def lines_of(path):
    return path.read_text().splitlines(keepends=True)


OUTSIDE = ("../../outside.jpg", "/outside.jpg", "a/../../../outside.jpg", "..", "//outside.jpg", "./../x.jpg")
ODD = ("a\0b.jpg", "a\x1b[31m.jpg", "a\x7f.jpg", "\u202egpj.jpg", "a\x85b.jpg", "a\u2028b.jpg")


@pytest.mark.parametrize("name", [*OUTSIDE, *ODD])
@pytest.mark.parametrize("dataset", ["waterbirds", "celeba attributes", "celeba partition"])
def test_names_outside_the_folder(root, tmp_path, name, dataset):
    pixels(0).save(tmp_path / "outside.jpg")
    if dataset == "waterbirds":
        path, read, old = table(root), load_waterbirds, "001.Some_Bird/Some_Bird_0000.jpg"
        path.write_text(path.read_text().replace(old, name))
    else:
        folder, read = draw_celeba(root), load_celeba
        files = [folder / "list_attr_celeba.txt", folder / "list_eval_partition.txt"]
        for file in files:
            file.write_text(file.read_text().replace("000003.jpg", name))
        path = files[dataset.endswith("partition")]
    message = refused(read, seconds=5)
    assert any(text in message for text in ("no file in the folder", "fields", "line", "missing")), message
    assert verify(dataset.split()[0])
    if name in OUTSIDE:
        assert "no file in the folder" in message


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize("which", [0, 1, 5, -1])
@pytest.mark.parametrize("quote", ['"', '"" "', "\"'", 'x"'])
def test_a_stray_quote(root, place, which, quote):
    """In any field of any line it is named, or is part of a field that we don't read: no line is lost."""
    path = table(root)
    lines = lines_of(path)
    fields = lines[which].rstrip("\n").split(",")
    fields[place] = quote + fields[place]
    lines[which] = ",".join(fields) + "\n"
    path.write_text("".join(lines))
    try:
        data = load_waterbirds(size=8)
    except DataError:
        refused(load_waterbirds, str(path.parent))
    else:
        assert sum(map(len, (data.train, data.validation, data.test))) == 12


def test_two_stray_quotes_lose_no_lines(root):
    """Between them six birds lay in one field of another."""
    path = table(root)
    lines = lines_of(path)
    for number in (2, 8):
        lines[number] = lines[number].replace(",/o/ocean", ',"/o/ocean')
    path.write_text("".join(lines))
    refused(load_waterbirds, f"{path}, line 3", "quote")


def test_quotes_that_are_right(root):
    path = table(root)
    lines = [",".join(f'"{field}"' for field in line.rstrip("\n").split(",")) + "\r\n" for line in lines_of(path)]
    path.write_text("".join(lines), newline="")
    assert len(load_waterbirds(size=8).train) == 4


ANYTHING = [
    b"\0" * 5000,
    b"\xff\xfe" + "img_filename,y,split,place\n".encode("utf-16-le"),
    b"\x1f\x8b" + bytes(50),
    *(character * 10**6 for character in (b",", b'"', b"\n", b"y", b"[")),
    b"img_filename,y,split,place",
    b"img_filename,y,split,place,y\na,0,0,0,1\n",
    b"img_filename,y,split,place\n" + b"x" * 300_000 + b",0,0,0\n",
]


@pytest.mark.parametrize("content", ANYTHING, ids=range(len(ANYTHING)))
@pytest.mark.parametrize("which", ["waterbirds", "attributes", "partition", "attributes.csv", "partition.csv"])
def test_a_table_of_anything(root, content, which):
    if which == "waterbirds":
        path, read = table(root), load_waterbirds
    else:
        name = "list_attr_celeba" if which.startswith("attributes") else "list_eval_partition"
        csv = which.endswith(".csv")
        path, read = draw_celeba(root, csv=csv) / f"{name}.{'csv' if csv else 'txt'}", load_celeba
    path.write_bytes(content)
    message = refused(read, seconds=5)
    assert len(message) < 2000
    with within(5):
        assert verify("waterbirds" if which == "waterbirds" else "celeba")


@pytest.mark.parametrize("count", ["9" * 5000, "²", "1_2", "12.0", "-12", "١٢"])
def test_a_count_of_images_that_is_none(root, count):
    path = draw_celeba(root) / "list_attr_celeba.txt"
    path.write_text(path.read_text().replace("12\n", f"{count}\n", 1))
    if count == "١٢":  # twelve in other digits
        assert len(load_celeba(size=8).train) == 4
    else:
        refused(load_celeba, str(path))


def test_an_attribute_that_comes_twice(root):
    path = draw_celeba(root) / "list_attr_celeba.txt"
    path.write_text(path.read_text().replace("Bald", "Male"))
    refused(load_celeba, str(path), "Male more than once")


@pytest.mark.parametrize("name", ["dog\nhouse", "dog\x1b[31m", "\udcff\udcfe", " ", "dog" * 60])
def test_folders_of_odd_names(root, name):
    folder = draw_domains(root, n=1)
    for domain in ("art_painting", "cartoon", "photo", "sketch"):
        (folder / domain / "dog").rename(folder / domain / name)
    data = load_domains("pacs", size=8)
    assert name in data.classes
    (folder / "photo" / name / "pic_000.jpg").write_bytes(b"")
    refused(lambda: load_domains("pacs", size=8), "1 of 12 images")
    (folder / "photo" / name / "pic_000.jpg").unlink()
    refused(lambda: load_domains("pacs", size=8), "has no images")


def array_file(header, data=b"", version=b"\1\0"):
    """The beginning of a NumPy file."""
    return b"\x93NUMPY" + version + struct.pack("<H", len(header) + 1) + header + b"\n" + data


FORM = b"{'descr': '|u1', 'fortran_order': %s, 'shape': (%d, 3, 8, 8), }"
ARRAYS = [
    array_file(b"(" * 65_000),
    array_file(FORM % (b"False", 2**31)),
    array_file(FORM % (b"True", 3), bytes(576)),
    array_file(b"__import__('os').system('touch executed')", bytes(576)),
    array_file(FORM % (b"False", 3), bytes(576), version=b"\\9\0"),
    b"\x93NUMPY\2\0\xff\xff\xff\xff",
]


@pytest.mark.parametrize("content", ARRAYS, ids=range(len(ARRAYS)))
def test_a_cache_of_anything_is_made_anew(root, tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    draw_domains(root, n=1)
    wanted = load_domains("pacs", size=8).splits["photo"].inputs.clone()
    (path,) = (root / "cache" / "pacs" / "photo" / "8").glob("*.npy")
    path.write_bytes(content)
    with within(10):
        assert load_domains("pacs", size=8).splits["photo"].inputs.equal(wanted)
    assert not (tmp_path / "executed").exists()


def test_a_cache_of_a_header_of_gigabytes(root):
    draw_domains(root, n=1)
    wanted = load_domains("pacs", size=8).splits["photo"].inputs.clone()
    (path,) = (root / "cache" / "pacs" / "photo" / "8").glob("*.npy")
    with open(path, "wb") as file:
        file.write(b"\x93NUMPY\x02\x00" + struct.pack("<I", 3 * 2**30))
        file.truncate(3 * 2**30 + 12)
    again = []
    assert growth(lambda: again.append(load_domains("pacs", size=8))) < 10**8
    assert again[0].splits["photo"].inputs.equal(wanted)
