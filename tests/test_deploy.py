"""What is in deploy/ can be read by those it is for, and names options, paths and files that there are."""

import re
import shlex
import shutil
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from itemic.cli import main
from itemic.data.simulated import planted_groups
from itemic.registry import find
from itemic.serving.config import PREFIX, Config

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"


class Repeating(dict):
    """Of settings that are given several times all are kept, a line each."""

    def __setitem__(self, name, value):
        both = isinstance(value, list) and name in self
        super().__setitem__(name, self[name] + value if both else value)


@pytest.fixture(scope="module")
def unit():
    parser = RawConfigParser(strict=False, dict_type=Repeating, delimiters=("=",))
    parser.optionxform = str
    parser.read(DEPLOY / "itemic.service")
    return parser["Service"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder as deploy/README.md makes it."""
    train, _ = planted_groups(n_users=30, n_items=40, n_groups=4, loyalty=0.8, seed=0)
    train.save(tmp_path / "data")
    find("itemknn")().fit(train).save(tmp_path / "runs/knn")
    shutil.copy(DEPLOY / "serve.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(*args, **environment):
    done = CliRunner().invoke(main, [*args, "--check"], env=environment)
    assert done.exit_code == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_what_the_unit_starts_can_be_started(unit, home):
    program, *args = shlex.split(unit["ExecStart"])
    assert program == "/opt/itemic/bin/itemic"
    settings = dict(one.split("=", 1) for one in unit["Environment"].split())
    assert settings["ITEMIC_SERVE_STORE"] == f"{unit['WorkingDirectory']}/itemic.db"
    assert unit["WorkingDirectory"] == f"/var/lib/{unit['StateDirectory']}"
    assert settings["NUMBA_CACHE_DIR"] == f"/var/cache/{unit['CacheDirectory']}"
    args = [arg.replace("/etc/itemic/", f"{home}/") for arg in args]
    ready = check(*args, ITEMIC_SERVE_STORE=str(home / "itemic.db"))
    assert ready == "ready: 40 items, 30 users, at http://127.0.0.1:8321"


def test_the_unit_is_one_for_systemd(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze here")
    text = (DEPLOY / "itemic.service").read_text().replace("/opt/itemic/bin/itemic", sys.executable)
    (tmp_path / "itemic.service").write_text(text.replace("User=itemic", "User=root"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / "itemic.service"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    ours = [line for line in done.stderr.splitlines() if "itemic.service" in line]
    assert ours == []


def instructions():
    """The instructions of the Dockerfile, each with what follows it."""
    lines = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line]


def test_the_container_is_made_of_what_is_there_and_runs_as_nobody_special(home):
    told = instructions()
    for name, rest in told:
        if name == "COPY" and not rest.startswith("--from"):
            *sources, _ = rest.split()
            assert all((ROOT / source).exists() for source in sources)
            allowed = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
            assert all(f"!{source}" in allowed for source in sources)
    last = dict(told[[name for name, _ in told].index("FROM", 1) :])
    assert last["USER"] == "itemic"
    settings = dict(one.split("=", 1) for one in last["ENV"].split())
    served = {name.removeprefix(PREFIX).lower(): value for name, value in settings.items() if name.startswith(PREFIX)}
    assert Config.model_validate({**served, "port": int(served["port"])}).port == int(last["EXPOSE"])
    assert last["VOLUME"] == last["WORKDIR"]
    assert f"127.0.0.1:{served['port']}/v1/health" in last["HEALTHCHECK"]
    args = yaml.safe_load(last["CMD"])
    key = CliRunner().invoke(main, ["serve", "key", "add", "x", "--config", "serve.yaml"])
    assert key.exit_code == 0  # it can be reached by others, so it starts only with a key
    environment = {name: value for name, value in settings.items() if name.startswith(PREFIX)}
    assert check(*args, **environment).endswith("at http://0.0.0.0:8321")


def test_the_extras_that_are_installed_are_declared():
    declared = (ROOT / "pyproject.toml").read_text()
    for file in ("Dockerfile", "README.md"):
        (extras,) = re.findall(r"\[([a-z,]+)\]'", (DEPLOY / file).read_text())
        assert all(f"\n{extra} = [" in declared for extra in extras.split(","))


def test_the_containers_together_are_read_only_and_give_the_store_where_the_service_looks():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    ours = services["itemic"]
    assert ours["read_only"] is True
    assert (DEPLOY / ours["build"]["context"] / ours["build"]["dockerfile"]).exists()
    (store,) = [value for name, value in ours["environment"].items() if name == f"{PREFIX}STORE"]
    about = services["postgres"]["environment"]
    assert store.startswith(f"postgresql://{about['POSTGRES_USER']}:")
    assert store.endswith(f"@postgres/{about['POSTGRES_DB']}")
