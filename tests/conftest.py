"""What all tests share: one thread, the same hypothesis examples every time, and where the real data are."""

import os
import uuid

os.environ.setdefault("ITEMIC_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("itemic", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("itemic")


@pytest.fixture
def real_data():
    """A function that gives the folder of a real data set, or skips the test with the reason."""
    root = Path(os.environ.get("ITEMIC_DATA", Path(__file__).parents[2] / "shared" / "data"))

    def folder(name: str) -> Path:
        if not (root / name).is_dir():
            pytest.skip(f"real data are not here: set ITEMIC_DATA to a folder that holds {name}")
        return root / name

    return folder


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The address of a PostgreSQL server of our own."""
    pgserver = pytest.importorskip("pgserver")
    running = pgserver.get_server(tmp_path_factory.mktemp("postgres"))
    yield running.get_uri("postgres")
    running.cleanup()


@pytest.fixture
def address(server):
    """The address of a PostgreSQL database of its own."""
    import psycopg

    name = f"d{uuid.uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.replace("/postgres?", f"/{name}?")
