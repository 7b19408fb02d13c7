"""A visitors' counter: every request is one more, kept in the Redis that the environment names."""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import redis

visitors = redis.Redis(host=os.environ["REDIS"])


class Counter(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"visitor %d\n" % visitors.incr("visitors")
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer(("", 8000), Counter).serve_forever()
