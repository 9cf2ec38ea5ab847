"""The datasets the experiments use: what each holds, where it may lie on disk, and where it comes from.

Sizes and checksums of the downloads are those of the publishers' files. They are held against a file only if
we downloaded it: another copy of the same data (a different gzip stream, another order of the examples) is
as good if its headers, counts, shapes and label ranges are right.
"""

from dataclasses import dataclass
from math import prod
from typing import Any, Literal

from lowland.errors import DataError, suggestion


@dataclass(frozen=True)
class Part:
    """One array of a dataset, in the file its publisher cut for it.

    ``member`` is the unpacked file, relative to the dataset's folder, and also the name inside an archive.
    ``packed`` is the compressed file that may stand in for it: ``.gz`` of this part alone, or a ``.tar.gz``
    of several. ``shape`` is that of the uint8 array after ``header`` bytes.
    """

    member: str
    packed: str | None
    shape: tuple[int, ...]
    header: int = 0

    @property
    def size(self) -> int:
        """The bytes of the unpacked file."""
        return self.header + prod(self.shape)

    @property
    def places(self) -> tuple[str, ...]:
        """Where to look, in this order, relative to the dataset's folder."""
        return (self.member,) if self.packed is None else (self.member, self.packed)


@dataclass(frozen=True)
class Download:
    """One file to fetch: its name in the dataset's folder, mirrors in order, bytes, MD5 in hexadecimal."""

    filename: str
    urls: tuple[str, ...]
    size: int
    md5: str


@dataclass(frozen=True)
class Source:
    """Everything known about a dataset before it is read.

    ``shape`` is that of one example, channels first; empty for text, and for image files, whose size is a setting.
    ``counts`` are the training and test examples; for text, lines. ``classes`` are empty where folders or columns name
    them. ``coarse_classes`` are the groups of CIFAR-100's classes, else empty. ``placed`` are the files and folders of
    a dataset that can't be fetched, each with the places where it may lie in the dataset's folder, the usual one first.
    """

    name: str
    title: str
    format: Literal["idx", "cifar", "text", "scikit-learn", "images"]
    shape: tuple[int, ...]
    counts: tuple[int, int]
    classes: tuple[str, ...]
    licence: str
    citation: str
    parts: tuple[Part, ...] = ()
    downloads: tuple[Download, ...] = ()
    coarse_classes: tuple[str, ...] = ()
    placed: tuple[tuple[str, ...], ...] = ()


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _mnist_like(mirrors: tuple[str, ...], sums: tuple[tuple[int, str], ...], **about: Any) -> Source:
    """A dataset in MNIST's four files; ``sums`` are the size and MD5 of each, compressed."""
    files = {
        "train-images-idx3-ubyte": (60_000, 28, 28),
        "train-labels-idx1-ubyte": (60_000,),
        "t10k-images-idx3-ubyte": (10_000, 28, 28),
        "t10k-labels-idx1-ubyte": (10_000,),
    }
    return Source(
        **about,
        format="idx",
        shape=(1, 28, 28),
        counts=(60_000, 10_000),
        parts=tuple(Part(file, f"{file}.gz", shape, 4 + 4 * len(shape)) for file, shape in files.items()),
        downloads=tuple(
            Download(f"{file}.gz", tuple(f"{mirror}{file}.gz" for mirror in mirrors), size, md5)
            for file, (size, md5) in zip(files, sums, strict=True)
        ),
    )


def _cifar_like(archive: str, size: int, md5: str, files: dict[str, int], label_bytes: int, **about: Any) -> Source:
    """A dataset in binary records; ``files`` are the paths in the archive and how many records each has."""
    return Source(
        **about,
        format="cifar",
        shape=(3, 32, 32),
        counts=(50_000, 10_000),
        licence="free for research, with the citation",
        citation="Krizhevsky, Learning multiple layers of features from tiny images, 2009",
        parts=tuple(Part(file, archive, (n, label_bytes + 3 * 32 * 32)) for file, n in files.items()),
        downloads=(Download(archive, (f"https://www.cs.toronto.edu/~kriz/{archive}",), size, md5),),
    )


def _domain_folders(name: str, title: str, count: int, domains: str, licence: str, citation: str) -> Source:
    """A dataset of one folder a domain, with one folder a class inside; ``domains`` are separated by commas."""
    return Source(
        name, title, "images", (), (count, 0), (), licence, citation,
        placed=tuple((domain,) for domain in domains.split(", ")),
    )  # fmt: skip


_SOURCES = (
    _mnist_like(
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        sums=(
            (9_912_422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
            (28_881, "d53e105ee54ea40749a09fcbcd1e9432"),
            (1_648_877, "9fb629c4189551a2d022fa330f9573f3"),
            (4_542, "ec29112dd5afa0611ce80d1b7f02629c"),
        ),
        name="mnist",
        title="MNIST: handwritten digits",
        classes=tuple("0123456789"),
        licence="CC BY-SA 3.0",
        citation="LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document "
        "recognition, Proceedings of the IEEE, 1998",
    ),
    _mnist_like(
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        ),
        sums=(
            (26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            (29_515, "25c81989df183df01b3e8a0aad5dffbe"),
            (4_422_102, "bef4ecab320f06d8554ea6380940ec79"),
            (5_148, "bb300cfdad3c16e7a12a480ee83cd310"),
        ),
        name="fashion-mnist",
        title="Fashion-MNIST: clothing",
        classes=(*_words("t-shirt/top trouser pullover dress coat sandal shirt sneaker bag"), "ankle boot"),
        licence="MIT",
        citation="Xiao, Rasul and Vollgraf, Fashion-MNIST: a novel image dataset for benchmarking machine "
        "learning algorithms, arXiv:1708.07747, 2017",
    ),
    _cifar_like(
        archive="cifar-10-binary.tar.gz",
        size=170_052_171,
        md5="c32a1d4ab5d03f1284b67883e8d87530",
        files={
            **{f"cifar-10-batches-bin/data_batch_{i}.bin": 10_000 for i in range(1, 6)},
            "cifar-10-batches-bin/test_batch.bin": 10_000,
        },
        label_bytes=1,
        name="cifar-10",
        title="CIFAR-10: objects in 10 classes",
        classes=_words("airplane automobile bird cat deer dog frog horse ship truck"),
    ),
    _cifar_like(
        archive="cifar-100-binary.tar.gz",
        size=168_513_733,
        md5="03b5dce01913d631647c71ecec9e9cb8",
        files={"cifar-100-binary/train.bin": 50_000, "cifar-100-binary/test.bin": 10_000},
        label_bytes=2,
        name="cifar-100",
        title="CIFAR-100: objects in 100 classes",
        classes=_words(
            """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
            butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab
            crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard
            lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
            oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
            possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
            spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
            train trout tulip turtle wardrobe whale willow_tree wolf woman worm"""
        ),
        coarse_classes=_words(
            """aquatic_mammals fish flowers food_containers fruit_and_vegetables
            household_electrical_devices household_furniture insects large_carnivores
            large_man-made_outdoor_things large_natural_outdoor_scenes large_omnivores_and_herbivores
            medium_mammals non-insect_invertebrates people reptiles small_mammals trees vehicles_1
            vehicles_2"""
        ),
    ),
    Source(
        name="tinyshakespeare",
        title="tiny_shakespeare: lines from the plays",
        format="text",
        shape=(),
        counts=(30_000, 10_000),
        classes=(),
        licence="public domain",
        citation="Karpathy, The unreasonable effectiveness of recurrent neural networks, 2015",
        parts=(Part("input.txt", None, (1_115_394,)),),
        downloads=(
            Download(
                "input.txt",
                (
                    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
                    "https://storage.googleapis.com/download.tensorflow.org/data/shakespeare.txt",
                ),
                1_115_394,
                "6fb458f1232090904fb40fe944165e91",
            ),
        ),
    ),
    Source(
        name="digits",
        title="Handwritten digits that come with scikit-learn",
        format="scikit-learn",
        shape=(1, 8, 8),
        counts=(1_797, 0),
        classes=tuple("0123456789"),
        licence="CC BY 4.0",
        citation="Alpaydin and Kaynak, Optical recognition of handwritten digits, UCI repository, 1998",
    ),
    Source(
        name="celeba",
        title="CelebA: faces with 40 attributes",
        format="images",
        shape=(),
        counts=(162_770, 19_962),
        classes=(),
        licence="non-commercial research",
        citation="Liu, Luo, Wang and Tang, Deep learning face attributes in the wild, ICCV 2015",
        placed=(
            ("img_align_celeba", "Img/img_align_celeba"),
            ("list_attr_celeba.txt", "Anno/list_attr_celeba.txt", "list_attr_celeba.csv"),
            ("list_eval_partition.txt", "Eval/list_eval_partition.txt", "list_eval_partition.csv"),
        ),
    ),
    Source(
        name="waterbirds",
        title="Waterbirds: birds of water and land before backgrounds of water and land",
        format="images",
        shape=(),
        counts=(4_795, 5_794),
        classes=("landbird", "waterbird"),
        licence="non-commercial research",
        citation="Sagawa, Koh, Hashimoto and Liang, Distributionally robust neural networks for group shifts, ICLR "
        "2020",
        placed=(("metadata.csv", "waterbird_complete95_forest2water2/metadata.csv"),),
    ),
    _domain_folders(
        "pacs",
        "PACS: photographs, paintings, cartoons and sketches",
        9_991,
        "art_painting, cartoon, photo, sketch",
        "none stated",
        "Li, Yang, Song and Hospedales, Deeper, broader and artier domain generalization, ICCV 2017",
    ),
    _domain_folders(
        "vlcs",
        "VLCS: the photographs of four datasets",
        10_729,
        "Caltech101, LabelMe, SUN09, VOC2007",
        "none stated",
        "Fang, Xu and Rockmore, Unbiased metric learning, ICCV 2013",
    ),
    _domain_folders(
        "office-home",
        "Office-Home: everyday objects in four styles",
        15_588,
        "Art, Clipart, Product, Real World",
        "non-commercial research",
        "Venkateswara, Eusebio, Chakraborty and Panchanathan, Deep hashing network for unsupervised domain adaptation, "
        "CVPR 2017",
    ),
    _domain_folders(
        "terra-incognita",
        "TerraIncognita: animals before four camera traps",
        24_788,
        "location_38, location_43, location_46, location_100",
        "CDLA Permissive 1.0",
        "Beery, Van Horn and Perona, Recognition in terra incognita, ECCV 2018",
    ),
    _domain_folders(
        "domain-net",
        "DomainNet: 345 classes in six styles",
        586_575,
        "clipart, infograph, painting, quickdraw, real, sketch",
        "non-commercial research",
        "Peng, Bai, Xia, Huang, Saenko and Wang, Moment matching for multi-source domain adaptation, ICCV 2019",
    ),
)

#: Every dataset by name.
DATASETS: dict[str, Source] = {source.name: source for source in _SOURCES}


def source(name: str) -> Source:
    """The dataset called ``name``; a `DataError` that suggests another name if there is none."""
    if name not in DATASETS:
        raise DataError(f"There is no dataset {name!r}.{suggestion(name, DATASETS)}")
    return DATASETS[name]
