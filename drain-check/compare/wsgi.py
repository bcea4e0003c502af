"""A WSGI app for gunicorn."""
import time


def app(environ, start_response):
    body = b"hello\n"
    if environ["REQUEST_METHOD"] == "POST":
        body = str(len(environ["wsgi.input"].read())).encode()
    elif environ["PATH_INFO"] == "/slow":
        time.sleep(0.2)
        body = b"slow\n"
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
