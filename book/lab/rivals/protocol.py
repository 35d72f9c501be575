"""uvloop, a loop in C, and httptools under a protocol of a few lines. `protocol.py PORT`"""

import asyncio
import sys

import httptools
import uvloop

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world!"


class Client(asyncio.Protocol):
    def __init__(self):
        self.data_received = httptools.HttpRequestParser(self).feed_data

    def connection_made(self, transport):
        self.transport = transport

    def on_message_complete(self):
        self.transport.write(ANSWER)


async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Client, "127.0.0.1", int(sys.argv[1]), backlog=1024)
    await server.serve_forever()


uvloop.run(main())
