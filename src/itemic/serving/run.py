"""Serving: the checks before a port is opened, and the loop."""

import ipaddress
import signal
from collections.abc import Callable
from contextlib import suppress

from itemic import threads
from itemic.errors import ConfigError
from itemic.serving.config import Config
from itemic.serving.current import set_aside
from itemic.serving.service import Service
from itemic.serving.stores import open_store


def check_door(config: Config, has_keys: bool) -> None:
    """Passes if whoever can reach the address may ask, or needs a key.

    Raises:
        ConfigError: the address is not this machine's own, and there is no key.
    """
    try:
        own = config.host == "localhost" or ipaddress.ip_address(config.host).is_loopback
    except ValueError:
        own = False
    if not own and not has_keys:
        raise ConfigError(
            f"{config.host} can be reached by others, and there is no key. Make one: "
            f"itemic serve key add NAME --store {config.store}"
        )


def serve(config: Config, say: Callable[[str], None]) -> None:
    """Serves until it is told to end.

    Raises:
        ItemicError: a model, the store or the config is not as it must be; nothing was opened then.
    """
    import socket

    import uvicorn

    from itemic.serving.app import make_app

    store = open_store(config.store)
    try:
        check_door(config, bool(store.keys()))
        service = Service.open(config, store)
        service.warm()
        settings = uvicorn.Config(
            make_app(service),
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=30,
        )
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        try:
            door = socket.create_server((config.host, config.port), family=family, backlog=2048)
        except OSError as error:
            raise ConfigError(
                f"cannot listen at {config.host}:{config.port}: {error.strerror}. Give another --port."
            ) from None
        say(
            f"serving {', '.join(service.pipelines)}: {service.items.n_there:,} items, {len(service.histories):,} users"
        )
        say(f"http://{config.host}:{door.getsockname()[1]}      (its API: /docs; stop: Ctrl-C)")
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # for what follows the loop
        set_aside()
        # Products of single requests are small: threads of a library would only wait for each other.
        with suppress(KeyboardInterrupt), threads.single():  # the server has let its requests end, and raises it again
            uvicorn.Server(settings).run(sockets=[door])
        service.close()
    finally:
        store.close()
