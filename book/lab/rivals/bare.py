"""The bare loop: epoll, httptools, and no check at all. `bare.py PORT`

It is here to be measured, not to be used. No limit, no deadline: what a client keeps, it keeps for
ever. Whatever the request is, the answer is the same, and what `send` does not take is lost.
"""

import select
import socket
import sys

import httptools

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world!"


class Client:
    def __init__(self, connection):
        self.connection, self.asked = connection, 0
        self.feed = httptools.HttpRequestParser(self).feed_data

    def on_message_complete(self):
        self.asked += 1

    def is_served(self):
        """Read, answer what has been asked; return False when the client has gone."""
        try:
            data = self.connection.recv(65536)
            self.feed(data)
            self.connection.send(ANSWER * self.asked)
        except OSError:
            return False
        self.asked = 0
        return bool(data)


def main():
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=1024)
    door, clients, epoll = listener.fileno(), {}, select.epoll()
    epoll.register(door, select.EPOLLIN)
    while True:
        for fd, _ in epoll.poll():
            if fd == door:
                connection, _ = listener.accept()
                connection.setblocking(False)
                clients[connection.fileno()] = Client(connection)
                epoll.register(connection, select.EPOLLIN)
            elif not clients[fd].is_served():
                clients.pop(fd).connection.close()


main()
