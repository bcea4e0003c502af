"""An ASGI app for uvicorn."""
import asyncio


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    received, more = 0, True
    while more:
        message = await receive()
        received += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = b"hello\n"
    if scope["method"] == "POST":
        body = str(received).encode()
    elif scope["path"] == "/slow":
        await asyncio.sleep(0.2)
        body = b"slow\n"
    head = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": body})
