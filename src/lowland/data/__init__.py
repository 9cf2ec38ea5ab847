"""Datasets as tensors: their publishers' files read and checked, fetched when missing, made into batches."""

from lowland.data.augment import random_view
from lowland.data.batches import Shuffled, WholeBatch, seeded, shuffled_batches
from lowland.data.celeba import load_celeba
from lowland.data.dataset import Dataset, load
from lowland.data.domains import DOMAIN_FOLDERS, Domains, load_domains
from lowland.data.download import fetch
from lowland.data.files import data_root
from lowland.data.grouped import GroupedDataset
from lowland.data.inventory import Status, status, verify
from lowland.data.mnist_domains import colored_mnist, rotated_mnist
from lowland.data.noise import flip_labels
from lowland.data.pieces import TextPieces, consecutive
from lowland.data.registry import DATASETS, Download, Part, Source
from lowland.data.split import Split, split_validation
from lowland.data.stacked import stacked_images
from lowland.data.transforms import center, one_hot, random_crop_flip, scale
from lowland.data.waterbirds import load_waterbirds

__all__ = [
    "DATASETS",
    "DOMAIN_FOLDERS",
    "Dataset",
    "Domains",
    "Download",
    "GroupedDataset",
    "Part",
    "Shuffled",
    "Source",
    "Split",
    "Status",
    "TextPieces",
    "WholeBatch",
    "center",
    "colored_mnist",
    "consecutive",
    "data_root",
    "fetch",
    "flip_labels",
    "load",
    "load_celeba",
    "load_domains",
    "load_waterbirds",
    "one_hot",
    "random_crop_flip",
    "random_view",
    "rotated_mnist",
    "scale",
    "seeded",
    "shuffled_batches",
    "split_validation",
    "stacked_images",
    "status",
    "verify",
]
