"""The public data sets that `itemic data get` knows: where each is published, its terms, size and checksum."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from itemic.data.download import download
from itemic.data.unpack import unpack
from itemic.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class PublicFile:
    """One file of a public set; `checksum` only where the publisher prints one (see `download`)."""

    address: str
    checksum: str | None = None

    @property
    def name(self) -> str:
        return self.address.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class PublicSet:
    """A data set that others publish. We hold its address, never its data."""

    name: str
    title: str
    files: tuple[PublicFile, ...]
    size: int
    """Bytes to download, about: where the publisher prints no size it is estimated from the number of rows."""
    terms: str
    reader: str
    """Form of the raw folder: movielens, lightgcn, json or csv."""
    citation: str
    homepage: str
    columns: Mapping[str, str] = field(default_factory=dict)
    """Our column names to theirs, where the reader needs to be told."""


def public_sets() -> tuple[PublicSet, ...]:
    """All known public sets, MovieLens first.

    >>> [s.name for s in public_sets()][:4]
    ['ml-100k', 'ml-1m', 'ml-25m', 'ml-latest-small']
    """
    return tuple(_sets().values())


def public_set(name: str) -> PublicSet:
    """The set of this name.

    >>> public_set("ml-1m").size
    5917549

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    sets = _sets()
    if name not in sets:
        plain = ", ".join(n for n in sets if sets[n].reader in {"movielens", "lightgcn"})
        raise ConfigError(
            f"there is no public set {name!r}.{did_you_mean(name, sets)} Known: {plain}, amazon-CATEGORY and "
            f"amazon-2023-CATEGORY; all {len(sets)}: itemic data get --list."
        )
    return sets[name]


def local(name: str) -> Path | None:
    """The folder $ITEMIC_DATA/NAME, if the variable is set and the folder is there."""
    root = os.environ.get("ITEMIC_DATA")
    folder = Path(root) / name if root and re.fullmatch(r"[\w-]+", name) else None
    return folder if folder is not None and folder.is_dir() else None


def get(name: str, out: str | Path) -> Path:
    """The folder with the raw files of a public set: $ITEMIC_DATA/NAME where that exists, else `out`, downloaded.

    A folder of $ITEMIC_DATA may have another form than the publisher's files, and sets that are in no list.

    Raises:
        ConfigError: no such set.
        DataError: a file cannot be fetched or is not what its checksum says.
        SaveError: `out` cannot be written.
    """
    if (folder := local(name)) is not None:
        return folder
    out = Path(out)
    for file in public_set(name).files:
        path = download(file.address, out / file.name, file.checksum)
        if path.suffix == ".zip":
            unpack(path, out)
    return out


_GROUPLENS = "https://files.grouplens.org/datasets/movielens/"
_NO_COPIES = "research use with acknowledgement; no redistribution, no commercial use without permission (GroupLens)"
_SAME_TERMS = "research use with acknowledgement; redistribution under the same terms, no commercial use (GroupLens)"

_MOVIELENS = {  # name: (title, bytes, checksum, terms)
    "ml-100k": ("MovieLens 100K", 4_924_029, "md5:0e33842e24a9c977be4e0107933c0723", _NO_COPIES),
    "ml-1m": ("MovieLens 1M", 5_917_549, "md5:c4d9eecfca2ab87c1945afe126590906", _NO_COPIES),
    "ml-25m": ("MovieLens 25M", 261_978_986, "md5:6b51fb2759a8657d3bfcbfc42b592ada", _SAME_TERMS),
    # this one changes over time, so its checksum is read from the publisher's file
    "ml-latest-small": ("MovieLens latest, small", 978_202, f"{_GROUPLENS}ml-latest-small.zip.md5", _SAME_TERMS),
}

_LIGHTGCN = (
    "https://raw.githubusercontent.com/gusye1234/LightGCN-PyTorch/947ca2b3b1d2d3545b114145710cb06c4e57b3d2/data/"
)

_ADJACENCY = {  # name: (title, folder, bytes, blob ids of train.txt and test.txt, terms, citation of the data)
    "gowalla-ngcf": (
        "Gowalla, split of NGCF and LightGCN",
        "gowalla",
        6_005_973,
        ("a27782bd7a1d4d0744148dc0460ea94da74763f2", "9ed5af4b5d21511f33740b4e22e3852f45671800"),
        "check-ins published by SNAP for research; the repository states no licence",
        "Cho et al., Friendship and Mobility, KDD 2011",
    ),
    "yelp2018-ngcf": (
        "Yelp2018, split of NGCF and LightGCN",
        "yelp2018",
        9_000_000,
        ("cda12361055ba448ae4bd1070f6000c16dea8f22", "30dfbc3437b27b74cb2970b435a5ec93ad9f2468"),
        "Yelp dataset terms: academic use, no redistribution; the repository states no licence",
        "Yelp dataset, 2018",
    ),
    "amazon-book-ngcf": (
        "Amazon-Book, split of NGCF and LightGCN",
        "amazon-book",
        18_100_000,
        ("6ef55159c5f1fd7f6d86eb9ff290d0cc2854ac99", "09e5da4e0bf46c751c4ba0f4375e414fd13512cd"),
        "Amazon reviews, offered for research; the repository states no licence",
        "He and McAuley, Ups and Downs, WWW 2016",
    ),
}

_SNAP = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/"
_AMAZON_TERMS = "offered for research, no licence stated; cite the paper"

_REVIEWS_2014 = {  # category: reviews in its 5-core file, as printed
    "Beauty": 198_502,
    "Sports_and_Outdoors": 296_337,
    "Toys_and_Games": 167_597,
    "Amazon_Instant_Video": 37_126,
    "Apps_for_Android": 752_937,
    "Automotive": 20_473,
    "Baby": 160_792,
    "Books": 8_898_041,
    "CDs_and_Vinyl": 1_097_592,
    "Cell_Phones_and_Accessories": 194_439,
    "Clothing_Shoes_and_Jewelry": 278_677,
    "Digital_Music": 64_706,
    "Electronics": 1_689_188,
    "Grocery_and_Gourmet_Food": 151_254,
    "Health_and_Personal_Care": 346_355,
    "Home_and_Kitchen": 551_682,
    "Kindle_Store": 982_619,
    "Movies_and_TV": 1_697_533,
    "Musical_Instruments": 10_261,
    "Office_Products": 53_258,
    "Patio_Lawn_and_Garden": 13_272,
    "Pet_Supplies": 157_836,
    "Tools_and_Home_Improvement": 134_476,
    "Video_Games": 231_780,
}
_BYTES_A_REVIEW = 220  # compressed, text included
_SHORT = {"Sports_and_Outdoors": "sports", "Toys_and_Games": "toys"}  # as the papers call them

_UCSD = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/benchmark/5core/rating_only/"

_RATINGS_2023 = {  # category: ratings in its 5-core file, as printed (rounded)
    "All_Beauty": 2_500,
    "Arts_Crafts_and_Sewing": 1_800_000,
    "Automotive": 6_100_000,
    "Baby_Products": 1_200_000,
    "Beauty_and_Personal_Care": 6_600_000,
    "Books": 9_500_000,
    "CDs_and_Vinyl": 1_600_000,
    "Cell_Phones_and_Accessories": 2_800_000,
    "Clothing_Shoes_and_Jewelry": 23_100_000,
    "Electronics": 15_500_000,
    "Gift_Cards": 2_400,
    "Grocery_and_Gourmet_Food": 3_900_000,
    "Health_and_Household": 7_200_000,
    "Home_and_Kitchen": 28_200_000,
    "Industrial_and_Scientific": 412_900,
    "Kindle_Store": 16_100_000,
    "Magazine_Subscriptions": 176,
    "Movies_and_TV": 7_400_000,
    "Musical_Instruments": 511_800,
    "Office_Products": 1_800_000,
    "Patio_Lawn_and_Garden": 3_400_000,
    "Pet_Supplies": 5_300_000,
    "Software": 1_300_000,
    "Sports_and_Outdoors": 3_500_000,
    "Tools_and_Home_Improvement": 7_900_000,
    "Toys_and_Games": 3_900_000,
    "Video_Games": 814_600,
}
_BYTES_A_RATING = 25  # compressed


def _sets() -> dict[str, PublicSet]:
    sets = [*_movielens(), *_adjacency(), *_reviews_2014(), *_ratings_2023()]
    return {s.name: s for s in sets}


def _movielens() -> Iterator[PublicSet]:
    for name, (title, size, checksum, terms) in _MOVIELENS.items():
        yield PublicSet(
            name=name,
            title=title,
            files=(PublicFile(f"{_GROUPLENS}{name}.zip", checksum),),
            size=size,
            terms=terms,
            reader="movielens",
            citation="Harper and Konstan, The MovieLens Datasets, ACM TiiS 5(4), 2015",
            homepage="https://grouplens.org/datasets/movielens/",
        )


def _adjacency() -> Iterator[PublicSet]:
    for name, (title, folder, size, blobs, terms, citation) in _ADJACENCY.items():
        parts = zip(("train.txt", "test.txt"), blobs)
        yield PublicSet(
            name=name,
            title=title,
            files=tuple(PublicFile(f"{_LIGHTGCN}{folder}/{part}", f"git:{blob}") for part, blob in parts),
            size=size,
            terms=terms,
            reader="lightgcn",
            citation=f"{citation}; split: Wang et al., Neural Graph Collaborative Filtering, SIGIR 2019",
            homepage="https://github.com/gusye1234/LightGCN-PyTorch",
        )


def _reviews_2014() -> Iterator[PublicSet]:
    for category, reviews in _REVIEWS_2014.items():
        yield PublicSet(
            name=f"amazon-{_SHORT.get(category, _dashed(category))}",
            title=f"Amazon reviews 2014, {category.replace('_', ' ')}, 5-core",
            files=(PublicFile(f"{_SNAP}reviews_{category}_5.json.gz"),),
            size=reviews * _BYTES_A_REVIEW,
            terms=_AMAZON_TERMS,
            reader="json",
            citation="He and McAuley, Ups and Downs, WWW 2016",
            homepage="https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html",
            columns={"user": "reviewerID", "item": "asin", "rating": "overall", "time": "unixReviewTime"},
        )


def _ratings_2023() -> Iterator[PublicSet]:
    for category, ratings in _RATINGS_2023.items():
        yield PublicSet(
            name=f"amazon-2023-{_dashed(category)}",
            title=f"Amazon reviews 2023, {category.replace('_', ' ')}, ratings, 5-core",
            files=(PublicFile(f"{_UCSD}{category}.csv.gz"),),
            size=ratings * _BYTES_A_RATING,
            terms=_AMAZON_TERMS,
            reader="csv",
            citation="Hou et al., Bridging Language and Items for Retrieval and Recommendation, arXiv:2403.03952",
            homepage="https://amazon-reviews-2023.github.io/",
            columns={"user": "user_id", "item": "parent_asin", "rating": "rating", "time": "timestamp"},
        )


def _dashed(category: str) -> str:
    return category.lower().replace("_", "-")
