"""A look at any running server: where it sleeps, what it watches, whose queue is full.

    python3 book/look PID               from a checkout, with Python alone

kernel    what the kernel says of processes and sockets, without privileges
strace    the system calls that one thread makes during a moment
sockets   the sockets of a process, of every protocol and namespace
view      what was seen of a process: look_at(pid) makes a View
calls     system calls in words
waits     what waits for a process, and who could take it
findings  what is wrong with it: the table of rules
report    a View as text: report(view)
command   the command line
"""
