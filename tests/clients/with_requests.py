"""Python's `requests`: a session for each thread."""
import itertools
import os
import random
import sys
import threading
import time

import requests

url, stop = sys.argv[1:]
upload = "u" * 65536
numbers = itertools.count(1)


def send(session, n):
    """The response, and its expected body."""
    at = lambda path: f"{url}{path}?id={n}"
    match n % 10:
        case 5 | 6:
            return session.get(at("/slow/50")), "slow 50"
        case 7:
            return session.get(at("/stream")), None
        case 8 | 9:
            return session.post(at(f"/orders/{n}"), data=upload), f"order {n} of 65536"
        case _:
            return session.get(at("/")), "quick"


def ask(session, n):
    while True:
        try:
            response, wanted = send(session, n)
        except requests.exceptions.ConnectionError as error:
            if "Connection refused" not in str(error):
                return f"failed {n} {error}"
            time.sleep(0.02)
            continue
        except requests.exceptions.RequestException as error:
            return f"failed {n} {error}"
        if response.status_code != 200:
            return f"failed {n} {response.status_code}"
        body = response.content
        whole = len(body) == 65536 if wanted is None else body == wanted.encode()
        return f"ok {n}" if whole else f"failed {n} not whole"


def work():
    session = requests.Session()
    while not os.path.exists(stop):
        sys.stdout.write(ask(session, next(numbers)) + "\n")
        sys.stdout.flush()
        time.sleep(random.random() * 0.02)


threads = [threading.Thread(target=work) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
