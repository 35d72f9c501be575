"""What a server survives: the awkward clients, and the instrument that plays and judges them.

    python3 book/survive                says which clients there are, with Python alone

server    a server in the background, with all of its processes
console   what it prints
lifeline  how it dies with us
waiting   wait for what has happened, with a deadline
clients   a plain client, and a conversation led by hand
awkward   the awkward clients
rows      each of them with what it should get
scene     one of them against one server, played and judged
command   the command line
"""
