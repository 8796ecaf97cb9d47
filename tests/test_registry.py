"""Names find files without importing the rest."""

import subprocess
import sys

import pytest

from itemic.errors import ConfigError
from itemic.registry import Entry, entries, find, system


def test_what_the_source_says_is_what_the_class_registers():
    for name, entry in entries().items():
        assert find(name).entry == entry
        assert entry.summary
        assert entry.module == find(name).__module__


def test_listing_imports_no_system_and_finding_imports_one():
    code = (
        "import sys; from itemic.registry import entries, find; entries()\n"
        "loaded = lambda: {m.rpartition('.')[2] for m in sys.modules if m.startswith('itemic.systems.baselines.')}\n"
        "assert not loaded(); find('popularity'); assert 'ials' not in loaded() and 'popularity' in loaded()"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_name_gets_the_nearest_and_the_list():
    with pytest.raises(
        ConfigError, match="there is no system 'popularty'. Did you mean 'popularity'. Systems: bm25, contentknn, "
    ):
        find("popularty")


def test_a_class_registered_at_run_time_is_found():
    @system("toy-for-this-test", family="toys", answers=["anyone"])
    class Toy:
        entry: Entry

    assert find("toy-for-this-test") is Toy
    assert Toy.entry.gives == ("ranking",)
