"""The data nouns: what a catalogue holds, what is asked of it, and what comes back."""

from itemic.data.dataset import TEST, TEST_HISTORY, TRAIN, UNUSED, VALID, VALID_HISTORY, Dataset, Split
from itemic.data.dialogues import Dialogues
from itemic.data.ids import Ids
from itemic.data.interactions import Interactions
from itemic.data.query import EvalSet, Query, Ranking
from itemic.data.ragged import Ragged
from itemic.data.table import Table

__all__ = [
    "TEST",
    "TEST_HISTORY",
    "TRAIN",
    "UNUSED",
    "VALID",
    "VALID_HISTORY",
    "Dataset",
    "Dialogues",
    "EvalSet",
    "Ids",
    "Interactions",
    "Query",
    "Ragged",
    "Ranking",
    "Split",
    "Table",
]
