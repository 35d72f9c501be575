"""The calls of an epoll server one by one, and its interest list after each."""

from look import kernel

from . import show


class Steps:
    """What an epoll server called, in order, with the interest list where it changed.

    Descriptors have names: listener, and the clients' own. A poll that found nothing and a call
    that failed are left out. `calls` are the calls in words, `lists` the interest list after each.
    """

    def __init__(self, recording):
        self.calls, self.lists = ["epoll()"], ["empty"]
        for call, names in recording.named():
            if call.name == "listen":
                names[call.fd] = "listener"
            if call.name in WORDS and call.got != [] and not call.error:
                kept = [f"{names[fd]}: {mask}" for fd, mask in sorted(call.watched.items())]
                self.calls.append(WORDS[call.name](call, names))
                self.lists.append(", ".join(kept) or "empty")

    def of(self, name):
        """Return the calls that begin with a name: `poll`, `register`."""
        return [call for call in self.calls if call.split()[0] == name]

    def after(self, call):
        """Return the interest list after a call, given in words; of equal ones, the first.

        Raises ValueError if there is no such call.
        """
        return self.lists[self.calls.index(call)]

    def _rows(self):
        """Each call with the interest list, where it has changed."""
        before = ["", *self.lists[:-1]]
        changed = [new if new != old else "" for old, new in zip(before, self.lists, strict=True)]
        return list(zip(self.calls, changed, strict=True))

    def _repr_html_(self):
        return show.table(["the server calls", "the interest list is now"], self._rows()).data

    def __repr__(self):
        return "\n".join(" | ".join(row).rstrip(" |") for row in self._rows())


def _changed(call, names):
    fd, mask = (each["fd"] if isinstance(each, dict) else each for each in call.given)
    return f"{call.name} {names[fd]}, {kernel.mask_names(mask)}"


def _polled(call, names):
    return "poll → " + ", ".join(f"{names[fd]}: {kernel.mask_names(m)}" for fd, m in call.got)


def _on_socket(call, names):
    return f"{names.get(call.fd, 'epoll')}.{call.name}"


def _moved(call, names):
    return f"{_on_socket(call, names)} → {call.moved} bytes"


WORDS = {
    "register": _changed, "modify": _changed, "poll": _polled, "recv": _moved, "send": _moved,
    "unregister": lambda call, names: f"unregister {names[call.given[0]]}",
    "accept": _on_socket, "shutdown": _on_socket, "close": _on_socket,
}  # fmt: skip
