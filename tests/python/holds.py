"""An origin of Python's own HTTP server and gripcontrol: holds in both forms, and publishing."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from gripcontrol import (
    Channel,
    GripPubControl,
    HttpResponseFormat,
    HttpStreamFormat,
    Response,
    create_grip_channel_header,
    create_hold_response,
    create_hold_stream,
    parse_grip_uri,
    validate_sig,
)
from pubcontrol import Item

from program import grip_url

TEXT = {"Content-Type": "text/plain"}
INSTRUCT = {"Content-Type": "application/grip-instruct"}


def json_poll(_):
    """A long-poll whose answer on timeout has everything that an answer can have."""
    answer = Response(404, "Nothing Yet", {"Content-Type": "text/plain", "X-Poll": "1"}, "none\n")
    return INSTRUCT, create_hold_response("news", answer, timeout=1)


def json_wait(_):
    return INSTRUCT, create_hold_response(["news", Channel("weather")], "none\n")


def json_binary(_):
    return INSTRUCT, create_hold_response("news", Response(body=b"\xff\x00"), timeout=1)


def json_bare(_):
    return INSTRUCT, create_hold_response("news", timeout=1)


def json_stream(_):
    answer = Response(headers={"Content-Type": "text/plain"}, body="begin\n")
    return INSTRUCT, create_hold_stream(["news", "weather"], answer)


def poll(_):
    fields = {"Grip-Hold": "response", "Grip-Channel": create_grip_channel_header("news")}
    return {**TEXT, **fields}, "none\n"


def stream(_):
    channels = create_grip_channel_header([Channel("news"), Channel("weather")])
    fields = {"Grip-Hold": "stream", "Grip-Channel": channels}
    return {**TEXT, **fields}, "begin\n"


class Counter:
    """What a long-poll tells: a number, held back from those who know it."""

    value = 0

    @classmethod
    def poll(cls, handler):
        """Answers a client that is behind, holds one that is not."""
        query = parse_qs(urlsplit(handler.path).query)
        seen = int(query.get("seen", ["0"])[0])
        if seen != cls.value:
            return TEXT, "%d\n" % cls.value
        return INSTRUCT, create_hold_response(Channel("counter", str(seen)), "same\n")

    @classmethod
    def count(cls):
        """Counts, and says from and to what."""
        cls.value += 1
        return str(cls.value - 1), str(cls.value)


def publish(order):
    """Publishes to each kind of hold, in one item."""
    formats = []
    if "stream" in order:
        formats.append(HttpStreamFormat(order["stream"]))
    if "response" in order:
        formats.append(HttpResponseFormat(200, "OK", {"X-By": "python"}, order["response"]))
    publisher.publish(order["channel"], Item(formats), blocking=True)


def encoded(order):
    content = HttpStreamFormat(order["stream"].encode())
    publisher.publish_http_stream(order["channel"], content, blocking=True)


def close(order):
    publisher.publish_http_stream(order["channel"], HttpStreamFormat(close=True), blocking=True)


def hint(order):
    publisher.publish_http_response(
        order["channel"], HttpResponseFormat(action="hint"), blocking=True
    )


def count(_):
    """Counts, and publishes the number."""
    before, after = Counter.count()
    publisher.publish_http_response(
        "counter", after + "\n", id=after, prev_id=before, blocking=True
    )


def count_silently(_):
    Counter.count()


GET = {
    "/json/poll": json_poll,
    "/json/wait": json_wait,
    "/json/binary": json_binary,
    "/json/bare": json_bare,
    "/json/stream": json_stream,
    "/poll": poll,
    "/stream": stream,
    "/counter": Counter.poll,
}
POST = {
    "/publish": publish,
    "/encoded": encoded,
    "/close": close,
    "/hint": hint,
    "/count": count,
    "/count/silently": count_silently,
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        """Answers those who come through the hub."""
        signature = self.headers.get("Grip-Sig", "")
        if not validate_sig(signature, config["verify_key"], iss=config["verify_iss"]):
            return self.answer(501, TEXT, "not by a hub\n")
        fields, body = GET[urlsplit(self.path).path](self)
        return self.answer(200, fields, body)

    def do_POST(self):
        length = int(self.headers.get("Content-Length", "0"))
        POST[self.path](json.loads(self.rfile.read(length)))
        self.answer(200, TEXT, "done\n")

    def answer(self, status, fields, body):
        body = body.encode()
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
config = parse_grip_uri(grip_url(server.server_port))
publisher = GripPubControl(config)
server.serve_forever()
