"""Python's `aiohttp`."""
import asyncio
import errno
import itertools
import os
import random
import sys

import aiohttp

url, stop = sys.argv[1:]
upload = "u" * 65536
numbers = itertools.count(1)


def choose(n):
    """The method, the path, the options, and the answer."""
    match n % 10:
        case 5 | 6:
            return "GET", "/slow/50", {}, "slow 50"
        case 7:
            return "GET", "/stream", {}, None
        case 8 | 9:
            return "POST", f"/orders/{n}", {"data": upload}, f"order {n} of 65536"
        case _:
            return "GET", "/", {}, "quick"


async def ask(session, n):
    method, path, options, wanted = choose(n)
    while True:
        try:
            async with session.request(method, f"{url}{path}?id={n}", **options) as response:
                body = await response.read()
                if response.status != 200:
                    return f"failed {n} {response.status}"
                whole = len(body) == 65536 if wanted is None else body == wanted.encode()
                return f"ok {n}" if whole else f"failed {n} not whole"
        except aiohttp.ClientConnectorError as error:
            if error.os_error.errno != errno.ECONNREFUSED:
                return f"failed {n} {error!r}"
            await asyncio.sleep(0.02)
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            return f"failed {n} {error!r}"


async def work(session):
    while not os.path.exists(stop):
        print(await ask(session, next(numbers)), flush=True)
        await asyncio.sleep(random.random() * 0.02)


async def main():
    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(work(session) for _ in range(16)))


asyncio.run(main())
