"""A network between a command and a server on this host: each way takes half of a round-trip time. Bytes keep their order."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def slow_network(host: str, port: int, round_trip: float) -> Iterator[int]:
    """Forward connections in a thread; yield the port on 127.0.0.1 that leads to the server.

    Args:
        round_trip: in seconds.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, port)
        await asyncio.gather(_late(reader, back, round_trip / 2), _late(there, writer, round_trip / 2))

    server = asyncio.run_coroutine_threadsafe(asyncio.start_server(connected, "127.0.0.1", 0), loop).result()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def _late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    """Pass on what comes, to its end."""
    loop = asyncio.get_running_loop()
    on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def arrive() -> None:
        data = b"first"
        while data:
            due, data = await on_the_way.get()
            await asyncio.sleep(due - loop.time())
            writer.write(data)
        writer.close()

    arrival = asyncio.ensure_future(arrive())
    data = b"first"
    while data:
        try:
            data = await reader.read(65536)
        except OSError:
            data = b""
        on_the_way.put_nowait((loop.time() + delay, data))
    await arrival
