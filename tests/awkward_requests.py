"""Awkward requests, and what the RFCs want done with each: the data of test_side_by_side.py.

Sections without a name are those of RFC 9112. The general rule is 2.2: what does not match the
grammar, aside from the exceptions that it lists, SHOULD be answered with 400.
"""

from dataclasses import dataclass

MUST, SHOULD = "must accept", "should accept"
MUST_NOT, SHOULD_NOT, MAY = "must refuse", "should refuse", "may"


@dataclass(frozen=True)
class Awkward:
    """What is sent, and what is wanted.

    good: how many whole requests stand in it, which get an answer each if nothing is refused.
    then: the refusal that is wanted stands after the good ones, not in their place.
    is_last: nothing that follows may be answered. methods: of the requests in turn, if not GET.
    """

    name: str
    section: str
    wants: str
    data: bytes
    good: int = 1
    then: bool = False
    is_last: bool = False
    methods: tuple = ()


REQUESTS = []


def add(name, section, wants, data, **more):
    REQUESTS.append(Awkward(name, section, wants, data, **more))


def head(line, *fields):
    """Return a header: a request line and fields, each with its line's end, and the empty line."""
    return b"\r\n".join([line, *fields, b"", b""])


def get(*fields):
    return head(b"GET / HTTP/1.1", b"Host: x", *fields)


def post(*fields, body=b""):
    return head(b"POST / HTTP/1.1", b"Host: x", *fields) + body


def line(request_line):
    return head(request_line, b"Host: x")


def host(*hosts):
    return head(b"GET / HTTP/1.1", *(b"Host: " + each for each in hosts))


def length(value, body=b"abc"):
    return post(b"Content-Length:" + value, body=body)


def coded(coding, body=b"0\r\n\r\n"):
    return post(b"Transfer-Encoding:" + coding, body=body)


def chunked(body, *fields):
    return post(b"Transfer-Encoding: chunked", *fields, body=body)


CHUNKED, THREE = b"Transfer-Encoding: chunked", b"Content-Length: 3"
LAST = b"0\r\n\r\n"
HIDDEN = head(b"GET /hidden HTTP/1.1", b"Host: x")
HIDES = b"Content-Length: %d" % len(HIDDEN)

# The request line
add("plain", "3", MUST, get())
add("an empty line first", "2.2", SHOULD, b"\r\n" + get())
add("three empty lines first", "2.2", MAY, b"\r\n" * 3 + get())
add("a line feed first", "2.2", MAY, b"\n" + get())
add("a bare CR first", "2.2", SHOULD_NOT, b"\r" + get())
add("spaces first", "3", MAY, b"  " + get())
add("two spaces", "3", MAY, line(b"GET  / HTTP/1.1"))
add("a tab for a space", "3", MAY, line(b"GET\t/ HTTP/1.1"))
add("a space at the end", "3", MAY, line(b"GET / HTTP/1.1 "))
add("a bare CR in the line", "2.2", MAY, line(b"GET /\rx HTTP/1.1"))
add("a space in the target", "3.2", SHOULD_NOT, line(b"GET /a b HTTP/1.1"))
add("a second version", "3.2", SHOULD_NOT, line(b"GET / HTTP/1.1 HTTP/1.1"))
add("bare line feeds", "2.2", MAY, get().replace(b"\r\n", b"\n"))
add("one bare line feed", "2.2", MAY, get(b"X: a").replace(b"x\r\n", b"x\n"))
add("an empty line of LF", "2.2", MAY, get()[:-2] + b"\n")
add("method get", "9110, 9.1", SHOULD_NOT, line(b"get / HTTP/1.1"))
add("method FOO", "9110, 9.1", SHOULD_NOT, line(b"FOO / HTTP/1.1"))
add("method GET(", "2.2", SHOULD_NOT, line(b"GET( / HTTP/1.1"))
add("method of 9,000", "3", SHOULD_NOT, line(b"G" * 9000 + b" / HTTP/1.1"))
add("no method", "2.2", SHOULD_NOT, line(b" / HTTP/1.1"))
add("TLS", "2.2", SHOULD_NOT, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32))
add("SSH", "2.2", SHOULD_NOT, b"SSH-2.0-OpenSSH_9.9\r\n")
add("zeros", "2.2", SHOULD_NOT, bytes(100))
add("HTTP/2 preface", "2.2", SHOULD_NOT, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")

# The version
add("no version", "2.2", SHOULD_NOT, b"GET /\r\n\r\n")
add("no version, Host", "2.2", SHOULD_NOT, line(b"GET /"))
add("HTTP/0.9", "9110, 6.2", MAY, line(b"GET / HTTP/0.9"), is_last=True)
add("HTTP/1.0", "9.3", MUST, head(b"GET / HTTP/1.0"), is_last=True)
add("HTTP/1.2", "9110, 2.5", SHOULD, line(b"GET / HTTP/1.2"))
add("HTTP/2.0", "9110, 6.2", MAY, line(b"GET / HTTP/2.0"))
add("HTTP/3.0", "9110, 6.2", MAY, line(b"GET / HTTP/3.0"))
for version in ("http/1.1", "Http/1.1", "HTTP/1.10", "HTTP/01.1", "HTTP/1.", "HTTP/1", "HTTP/.1"):
    add(version, "2.3", SHOULD_NOT, line(b"GET / " + version.encode()))
for version in ("HTTP /1.1", "HTTP/1.1x", "HTTP/1,1", "HTTP/-1.1", "HTPP/1.1", "HTTPS/1.1", "HTTP"):
    add(version, "2.3", SHOULD_NOT, line(b"GET / " + version.encode()))
add("RTSP/1.0", "2.3", SHOULD_NOT, line(b"GET / RTSP/1.0"))
add("OPTIONS of RTSP/1.0", "2.3", SHOULD_NOT, line(b"OPTIONS / RTSP/1.0"))
add("RTSP/1.0 behind two spaces", "2.3", SHOULD_NOT, line(b"GET /  RTSP/1.0"))
add("RTSP/1.0 before two spaces", "2.3", SHOULD_NOT, line(b"GET  / RTSP/1.0"))
add("ICE/1.0", "2.3", SHOULD_NOT, line(b"GET / ICE/1.0"))
add("SOURCE of ICE/1.0", "2.3", SHOULD_NOT, line(b"SOURCE / ICE/1.0"))

# The target
add("an absolute target", "3.2.2", MUST, line(b"GET http://x/y HTTP/1.1"))
add("another Host", "3.2.2", MUST, head(b"GET http://x/ HTTP/1.1", b"Host: y"))
add("absolute, no Host", "3.2", MUST_NOT, head(b"GET http://x/ HTTP/1.1"))
for target in (b"http:///y", b"http://", b"http://?y", b"http://:80/"):
    name = f"a target without host: {target.decode()}"
    add(name, "9110, 4.2.1", MUST_NOT, line(b"GET %b HTTP/1.1" % target))
add("a target of https", "3.2.2", MUST, line(b"GET https://x:443/y?z HTTP/1.1"))
add("a target with two slashes", "3.2.1", MUST, line(b"GET //x HTTP/1.1"))
add("a query with a URL", "3.2.1", MUST, line(b"GET /?http:///x HTTP/1.1"))
add("a target without slash", "2.2", SHOULD_NOT, line(b"GET y HTTP/1.1"))
add("a fragment", "2.2", SHOULD_NOT, line(b"GET /#y HTTP/1.1"))
add("a high byte in the target", "2.2", SHOULD_NOT, line(b"GET /\xff HTTP/1.1"))
add("a control in the target", "2.2", SHOULD_NOT, line(b"GET /\x01 HTTP/1.1"))
add("a NUL in the target", "2.2", SHOULD_NOT, line(b"GET /\0 HTTP/1.1"))
add("a DEL in the target", "2.2", SHOULD_NOT, line(b"GET /\x7f HTTP/1.1"))
add("OPTIONS *", "3.2.4", MUST, line(b"OPTIONS * HTTP/1.1"), methods=("OPTIONS",))
add("GET *", "3.2.4", SHOULD_NOT, line(b"GET * HTTP/1.1"))
add("CONNECT", "3.2.3", MAY, line(b"CONNECT x:80 HTTP/1.1"))
add("CONNECT /", "3.2.3", SHOULD_NOT, line(b"CONNECT / HTTP/1.1"))
add("GET x:80", "3.2.3", SHOULD_NOT, line(b"GET x:80 HTTP/1.1"))
add("a target of 8,000", "3", SHOULD, line(b"GET /" + b"a" * 7980 + b" HTTP/1.1"))
add("a target of 100,000", "3", MUST_NOT, line(b"GET /" + b"a" * 100_000 + b" HTTP/1.1"))

# Host
add("no Host", "3.2", MUST_NOT, host())
add("two Hosts", "3.2", MUST_NOT, host(b"x", b"y"))
add("a Host twice", "3.2", MUST_NOT, host(b"x", b"x"))
add("two Hosts in 1.0", "3.2", MUST_NOT, head(b"GET / HTTP/1.0", b"Host: x", b"Host: y"))
add("a bad Host in 1.0", "3.2", MUST_NOT, head(b"GET / HTTP/1.0", b"Host: x/y"), is_last=True)
for good in (b"x:80", b"x:", b"[::1]:80", b"127.0.0.1", b" \tx\t ", b"%41.x", b"a-b_c.~x"):
    add(f"Host {ascii(good)[2:-1]}", "3.2", MUST, host(good))
add("an empty Host", "3.2", MAY, host(b""))
for bad in (b"x y", b"x/y", b"y@x", b"x#", b"x?y", b"x\\y", b"x\ty", b"<x>", b'"x"', b"http://x"):
    add(f"Host {ascii(bad)[2:-1]}", "3.2", MUST_NOT, host(bad))
for bad in (b"x\xff", b"x\x01", b"x:abc", b"x:80:80", b"[::1", b"x]", b"[x]", b"%zz"):
    add(f"Host {ascii(bad)[2:-1]}", "3.2", MUST_NOT, host(bad))

# Fields
add("a space before the colon", "5.1", MUST_NOT, get(b"X : a"))
add("a tab before the colon", "5.1", MUST_NOT, get(b"X\t: a"))
add("a space before Host's colon", "5.1", MUST_NOT, head(b"GET / HTTP/1.1", b"Host : x"))
add("a folded value", "5.2", MAY, get(b"X: a\r\n b"))
add("a folded Host", "5.2", MAY, host(b"x\r\n y"))
add("a folded length", "5.2", MAY, length(b"\r\n 3"))
add("a space before the first", "2.2", MAY, head(b"GET / HTTP/1.1", b" X: a", b"Host: x"))
add("the only Host after a space", "2.2", MUST_NOT, head(b"GET / HTTP/1.1", b" Host: x"))
add("no colon", "2.2", SHOULD_NOT, get(b"X"))
add("no name", "2.2", SHOULD_NOT, get(b": a"))
for bad in (b"X Y", b"X(", b"X\0", b"X\xff", b"X\x01", b"X/", b'"X"', b"X,Y"):
    add(f"a field named {ascii(bad)[2:-1]}", "2.2", SHOULD_NOT, get(bad + b": a"))
add("a field of all letters", "5", MUST, get(b"!#$%&'*+-.^_`|~0aZ: a"))
add("a bare CR in a value", "2.2", MAY, get(b"X: a\rb"))
add("a bare CR at its end", "2.2", MAY, get(b"X: a\r"))
add("a NUL in a value", "9110, 5.5", MAY, get(b"X: a\0b"))
add("a control in a value", "9110, 5.5", MAY, get(b"X: a\x01b"))
add("a high byte in a value", "9110, 5.5", MUST, get(b"X: a\xffb"))
add("a tab in a value", "9110, 5.5", MUST, get(b"X: a\tb"))
add("an empty value", "5", MUST, get(b"X:", b"Y: "))
add("white space about a value", "5", MUST, get(b"X:\t  a \t", b"Y:b"))
add("a field of 7,000", "9110, 5.4", MAY, get(b"X: " + b"a" * 7000))
add("a field of 100,000", "9110, 5.4", MAY, get(b"X: " + b"a" * 100_000))
add("4,000 fields", "9110, 5.4", MAY, get(*[b"X: a"] * 4000))

# Length
add("no length", "6.3", MUST, post(), methods=("POST",))
add("a body in a GET", "6.3", MUST, get(b"X: a", HIDES) + HIDDEN)
add("a chunked body in a GET", "6.3", MUST, get(CHUNKED) + b"3\r\nabc\r\n" + LAST)
add("a hidden request", "6.3", MUST, post(HIDES, body=HIDDEN))
add("length 003", "9110, 8.6", MUST, length(b" 003"))
add("white space about the length", "5", MUST, length(b"\t 3 \t"))
add("no space before the length", "5", MUST, length(b"3"))
add("two equal lengths", "6.3", MAY, post(THREE, THREE, body=b"abc"))
add("two lengths", "6.3", MUST_NOT, post(THREE, HIDES, body=b"abc" + HIDDEN))
add("two lengths, 0 first", "6.3", MUST_NOT, post(b"Content-Length: 0", HIDES, body=HIDDEN))
add("length 3, 3", "6.3", MAY, length(b" 3, 3"))
add("length 3, 4", "6.3", MUST_NOT, length(b" 3, 4"))
add("length 3,", "6.3", MAY, length(b" 3,"))
for bad in ("+3", "-3", "0x3", "3 3", "3a", "3.0", "3;", "1_0", "\uff13", '"3"', "3\0", "\x0b3"):
    name = f"length {ascii(bad)[1:-1]}"
    add(name, "6.3", MUST_NOT, length(b" " + bad.encode()))
add("an empty length", "6.3", MUST_NOT, length(b""))
add("a length of spaces", "6.3", MUST_NOT, length(b"  "))
add("length 2**64 + 3", "6.3", MUST_NOT, length(b" %d" % (2**64 + 3)))
add("a length of 5,000 digits", "6.3", MUST_NOT, length(b" " + b"9" * 5000))
add("5,000 zeros and a 3", "9110, 8.6", MAY, length(b" " + b"0" * 5000 + b"3"))
add("Content_Length", "6.3", MUST, post(b"Content_Length: 3"), methods=("POST",))
add("Content-Length : 3", "5.1", MUST_NOT, post(b"Content-Length : 3", body=b"abc"))

# Length and coding
for first, second in ((THREE, CHUNKED), (CHUNKED, THREE), (HIDES, CHUNKED), (CHUNKED, HIDES)):
    name = f"{first.decode()}, then {second.decode()}"
    body = LAST if THREE in (first, second) else LAST + HIDDEN[5:]
    add(name, "6.3", MAY, post(first, second, body=body), is_last=True)
both = post(CHUNKED, b"Content-Length: 5", body=LAST + HIDDEN)
add("TE.CL, a request behind", "6.3", MAY, both, is_last=True)
add("chunked in 1.0", "6.1", MAY, both.replace(b"1.1", b"1.0", 1), is_last=True)
for bad in (b"gzip", b"identity", b"xchunked", b"chunked, gzip", b"x chunked", b"chun ked"):
    add(f"coding {bad.decode()}", "6.3", MUST_NOT, coded(b" " + bad, LAST + HIDDEN))
for bad in (
    b'"chunked"',
    b"chunked\0",
    b"\x0bchunked",
    b"chunked\x0c",
    b"chunked;",
    b"\xa0chunked",
):
    add(f"coding {ascii(bad)[2:-1]}", "6.3", MUST_NOT, coded(b" " + bad, LAST + HIDDEN))
add(
    "coding cow, and a length", "6.3", MUST_NOT, post(b"Transfer-Encoding: cow", HIDES, body=HIDDEN)
)
add("coding gzip, chunked", "6.1", SHOULD_NOT, coded(b" gzip, chunked"))
add("coding chunked, chunked", "6.1", SHOULD_NOT, coded(b" chunked, chunked"))
add("coding chunked twice", "6.1", SHOULD_NOT, post(CHUNKED, CHUNKED, body=LAST))
add("cow, then chunked", "6.1", SHOULD_NOT, post(b"Transfer-Encoding: cow", CHUNKED, body=LAST))
add("chunked, then cow", "6.3", MUST_NOT, post(CHUNKED, b"Transfer-Encoding: cow", body=LAST))
add("coding Chunked", "7", MUST, coded(b" Chunked"))
add("coding \\tchunked\\t", "5", MUST, coded(b"\tchunked\t"))
add("coding , chunked", "9110, 5.6.1", MAY, coded(b" , chunked"))
add("an empty coding", "9110, 5.6.1", MAY, coded(b"", b""))
add("a folded coding", "5.2", MAY, coded(b"\r\n chunked"))
add("Transfer-Encoding : chunked", "5.1", MUST_NOT, post(b"Transfer-Encoding : chunked", body=LAST))
folded = post(b"X: a", b" Transfer-Encoding: chunked", HIDES, body=HIDDEN)
add("a coding after a space", "5.2", MAY, folded)
add("Transfer_Encoding", "6.3", MUST, post(b"Transfer_Encoding: chunked", HIDES, body=HIDDEN))
bare = post(b"X: a\rTransfer-Encoding: chunked", HIDES, body=HIDDEN)
add("a coding after a bare CR", "2.2", MAY, bare)
bare = post(b"X: a\nTransfer-Encoding: chunked", body=LAST)
add("a coding after a bare LF", "2.2", MAY, bare)

# Chunks
add("chunks", "7.1", MUST, chunked(b"3\r\nabc\r\nA\r\n0123456789\r\na\r\n0123456789\r\n" + LAST))
add("chunk size 0003", "7.1", MUST, chunked(b"0003\r\nabc\r\n000\r\n\r\n"))
hiding = b"%x\r\n%b\r\n" % (len(HIDDEN), HIDDEN)
add("a hidden request in a chunk", "7.1", MUST, chunked(hiding + LAST))
add("an extension", "7.1.1", MUST, chunked(b'3;a=b;c="d e";f\r\nabc\r\n0;g\r\n\r\n'))
add("white space about extensions", "7.1.1", MUST, chunked(b"3 ; a = b\r\nabc\r\n" + LAST))
add("an extension of 5,000", "7.1.1", MAY, chunked(b"3;a=%b\r\nabc\r\n" % (b"b" * 5000) + LAST))
add("an extension with an LF", "7.1.1", SHOULD_NOT, chunked(b"3;a\nabc\r\n" + LAST))
add("an extension with a CR", "7.1.1", SHOULD_NOT, chunked(b"3;a\rb\r\nabc\r\n" + LAST))
add("an extension with a NUL", "7.1.1", SHOULD_NOT, chunked(b"3;a\0b\r\nabc\r\n" + LAST))
add("an extension of nothing", "7.1.1", SHOULD_NOT, chunked(b"3;\r\nabc\r\n" + LAST))
add("a space after the size", "7.1", SHOULD_NOT, chunked(b"3 \r\nabc\r\n" + LAST))
add("a space after the last size", "7.1", SHOULD_NOT, chunked(b"3\r\nabc\r\n0 \r\n\r\n"))
for bad in ("+3", "-3", "0x3", " 3", "\t3", "3_", "g", "", "3,3", "\uff13", "3\x0b", "3.0", "3 3"):
    name = f"chunk size {ascii(bad)[1:-1]}"
    add(name, "7.1", SHOULD_NOT, chunked(bad.encode() + b"\r\nabc\r\n" + LAST))
add("a chunk size of 2**64 + 3", "7.1", MUST_NOT, chunked(b"%x\r\nabc\r\n" % (2**64 + 3) + LAST))
add("a chunk ended by LF", "2.2", SHOULD_NOT, chunked(b"3\r\nabc\n" + LAST))
add("a size ended by LF", "2.2", MAY, chunked(b"3\nabc\r\n" + LAST))
add("a size ended by CR CR LF", "7.1", SHOULD_NOT, chunked(b"3\r\r\nabc\r\n" + LAST))
add("a size ended by CR", "7.1", SHOULD_NOT, chunked(b"3\rabc\r\n" + LAST))
add("a chunk that is too long", "7.1", SHOULD_NOT, chunked(b"3\r\nabcd\r\n" + LAST))
add("a chunk that is too short", "7.1", SHOULD_NOT, chunked(b"3\r\nab\r\n" + LAST))
add("two bytes in place of CR LF", "7.1", SHOULD_NOT, chunked(b"3\r\nabcXX" + LAST))
add("no empty line at the end", "7.1", SHOULD_NOT, chunked(b"3\r\nabc\r\n0\r\n"))

# Trailers
add("a trailer", "7.1.2", MUST, chunked(b"3\r\nabc\r\n0\r\nX: a\r\nY: b\r\n\r\n"))
for field in (b"Host: y", b"Content-Length: 50", b"Transfer-Encoding: gzip", CHUNKED):
    name = f"{field.decode()} in a trailer"
    add(name, "7.1.2", MAY, chunked(b"3\r\nabc\r\n0\r\n" + field + b"\r\n\r\n"))
for field in (b"Connection: close", b"Expect: 100-continue", b"Upgrade: y"):
    name = f"{field.decode()} in a trailer"
    add(name, "7.1.2", MUST, chunked(b"3\r\nabc\r\n0\r\n" + field + b"\r\n\r\n"))
add("no colon in a trailer", "7.1.2", SHOULD_NOT, chunked(b"0\r\nX\r\n\r\n"))
add("a space before its colon", "5.1", MUST_NOT, chunked(b"0\r\nX : a\r\n\r\n"))
add("a folded trailer", "5.2", MAY, chunked(b"0\r\nX: a\r\n b\r\n\r\n"))
add("a trailer with a NUL", "9110, 5.5", MAY, chunked(b"0\r\nX: a\0\r\n\r\n"))
add("a trailer of 100,000", "9110, 5.4", MAY, chunked(b"0\r\nX: " + b"a" * 100_000 + b"\r\n\r\n"))
add("4,000 trailers", "9110, 5.4", MAY, chunked(b"0\r\n" + b"X: a\r\n" * 4000 + b"\r\n"))

# The connection
for last in (
    b"close",
    b"Close",
    b"keep-alive, close",
    b"close, keep-alive",
    b",close",
    b"x ,close",
):
    name = f"Connection: {last.decode()}"
    add(name, "9.6", MUST, get(b"Connection: " + last), is_last=True)
twice = get(b"Connection: keep-alive", b"Connection: close")
add("Connection twice", "9.6", MUST, twice, is_last=True)
for other in (b"closed", b"x-close", b"keep-alive", b"", b"x, y"):
    add(f"Connection: {other.decode()}", "9.3", MUST, get(b"Connection: " + other))
kept = head(b"GET / HTTP/1.0", b"Connection: keep-alive")
add("keep-alive in 1.0", "9.3", MAY, kept)
both = head(b"GET / HTTP/1.0", b"Connection: keep-alive, close")
add("keep-alive, close in 1.0", "9.3", MUST, both, is_last=True)
add("two pipelined", "9.3.2", MUST, get() + get(), good=2)
three = line(b"HEAD / HTTP/1.1") + length(b"3") + get()
add("three of different kinds", "9.3.2", MUST, three, good=3, methods=("HEAD", "POST", "GET"))
add("a HEAD", "9110, 9.3.2", MUST, line(b"HEAD / HTTP/1.1"), methods=("HEAD",))
bodied = head(b"HEAD / HTTP/1.1", b"Host: x", HIDES) + HIDDEN
add("a HEAD with a body", "6.3", MUST, bodied, methods=("HEAD",))
add("an empty line after a body", "2.2", SHOULD, length(b"3") + b"\r\n")
add("rubbish after a request", "2.2", SHOULD_NOT, get() + b"rubbish\r\n\r\n", then=True)
add("a refused one after a good one", "3.2", MUST_NOT, get() + host() + get(), then=True)
add("one after a refused one", "3.2", MUST_NOT, host() + get())
add("a body too long by two", "2.2", SHOULD_NOT, length(b"3", b"abcde"), then=True)
add("a body after no length", "6.3", SHOULD_NOT, post(body=b"a=b&c=d\r\n\r\n"), then=True)

# Expect
now = post(b"Expect: 100-continue", THREE, body=b"abc")
add("Expect: 100-continue", "9110, 10.1.1", MUST, now)
add("Expect: 100-Continue", "9110, 10.1.1", MUST, now.replace(b"con", b"Con"))
add("Expect without a body", "9110, 10.1.1", MUST, get(b"Expect: 100-continue"))
add("Expect and chunks", "9110, 10.1.1", MUST, chunked(LAST, b"Expect: 100-continue"))
add("Expect: something", "9110, 10.1.1", MAY, get(b"Expect: something"))
two = post(b"Expect: something", b"Expect: 100-continue", THREE, body=b"abc")
add("Expect twice", "9110, 10.1.1", MAY, two)
add("Expect in 1.0", "9110, 10.1.1", MUST, now.replace(b"1.1", b"1.0", 1), is_last=True)

# Upgrade
upgrade = (b"Connection: upgrade", b"Upgrade: x")
add("Upgrade", "9110, 7.8", MUST, get(*upgrade))
add("Upgrade to h2c", "9110, 7.8", MUST, get(upgrade[0], b"Upgrade: h2c"))
add("Upgrade and a body", "9110, 7.8", MUST, post(*upgrade, HIDES, body=HIDDEN))
add("Upgrade and chunks", "9110, 7.8", MUST, chunked(b"3\r\nabc\r\n" + LAST, *upgrade))
add("Upgrade, not a connection's", "9110, 7.8", MUST, get(upgrade[1]))
add("Connection: upgrade, no Upgrade", "9110, 7.8", MUST, get(upgrade[0]))
add("Upgrade in 1.0", "9110, 7.8", MUST, kept.replace(b"keep-alive", b"upgrade\r\n" + upgrade[1]))
