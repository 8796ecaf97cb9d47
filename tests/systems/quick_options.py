"""The options with which systems are tried."""

from itemic.registry import find
from itemic.training import TrainingConfig

BRIEF = TrainingConfig(lr=0.01, batch_size=1024, epochs=12)
QUICK = {
    "alpharec": {"vectors": "words-for-tests", "dim": 16, "hidden": 32, "n_negatives": 16}
    | {"training": {"lr": 0.01, "batch_size": 1024, "epochs": 5, "patience": None}},
    "bert4rec": {
        "dim": 16,
        "layers": 1,
        "mask_share": 0.5,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "training": {"lr": 0.01, "batch_size": 32, "epochs": 60},
    },
    "bpr": {"dim": 16, "training": {"lr": 0.02, "batch_size": 1024, "epochs": 12}},
    "buir": {"dim": 16, "training": {"lr": 0.01, "batch_size": 256, "epochs": 12}},
    "directau": {"dim": 16, "gamma": 0.5, "training": {"lr": 0.01, "batch_size": 256, "epochs": 8}},
    "fmrlrec": {"vectors": "words-for-tests", "dim": 16, "layers": 1, "dropout": 0.0, "ring": 0.9}
    | {"training": {"lr": 0.01, "batch_size": 25, "epochs": 5, "warmup": 0}},
    "ilm": {"lm": "language-model-for-tests", "behaviour": {"dim": 16}, "answer": "geometry", "aligned": ["users"]}
    | {"dim": 32, "layers": 1, "heads": 2, "n_queries": 2, "vocabulary": 300, "dropout": 0.0}
    | {"phase1": {"lr": 5e-3, "batch_size": 64, "epochs": 8, "warmup": 0}},
    "lightgcn": {"dim": 16, "training": BRIEF},
    "m2trec": {"dim": 16, "layers": 1, "heads": 2, "all_positions": True, "max_length": 60}
    | {"training": {"lr": 0.01, "batch_size": 16, "epochs": 12}},
    "ngcf": {"dim": 16, "layers": (16, 16), "training": BRIEF},
    "recgpt": {
        "codes": {"vectors": "words-for-tests", "slots": 2, "scalars": (4, 4), "heads": 2, "layers": 1, "dropout": 0.0}
        | {"training": {"lr": 3e-3, "batch_size": 64, "epochs": 5, "metric": "explained"}},
        "dim": 32,
        "layers": 1,
        "heads": 2,
        "dropout": 0.0,
        "max_length": 60,
        "training": {"lr": 5e-3, "batch_size": 16, "epochs": 6, "precision": "float32"},
    },
    "recformer": {
        "start": None,
        "dim": 16,
        "layers": 1,
        "max_length": 10,
        "max_tokens": 64,
        "vocabulary": 500,
        "fixed_epochs": 2,
        "training": {"lr": 3e-3, "batch_size": 50, "epochs": 8, "warmup": 0, "precision": "float32"},
    },
    "sasrec": {"dim": 16, "training": {"lr": 0.01, "batch_size": 25, "epochs": 10}},
    "tiger": {"codes": {"vectors": "words-for-tests", "levels": 2, "size": 16}, "dim": 48, "layers": 1, "heads": 2}
    | {"head_dim": 24, "hidden": 192, "dropout": 0.0, "beam": 40, "max_length": 5}
    | {"training": {"lr": 0.01, "batch_size": 256, "epochs": 3, "warmup": 0, "precision": "float32"}},
}
"""Options with which a trained system is done with the planted groups in a second or two; others keep the defaults."""


def quick(name):
    return find(name)(**QUICK.get(name, {}))
