"""Publishes with the original Python library, exactly as its documentation shows."""

import sys

from gripcontrol import GripPubControl, HttpResponseFormat, HttpStreamFormat

control_uri, channel = sys.argv[1:]
publisher = GripPubControl({"control_uri": control_uri})

publisher.publish_http_stream(channel, "python stream\n", blocking=True)
publisher.publish_http_stream(
    channel, HttpStreamFormat("python ids\n"), id="2", prev_id="1", blocking=True
)
publisher.publish_http_response(
    channel,
    HttpResponseFormat(200, "OK", {"X-Library": "python"}, "python response\n"),
    blocking=True,
)

# The asynchronous way, which puts items together in one request.
failures = []
for number in range(5):
    publisher.publish_http_stream(
        channel,
        "python batch %d\n" % number,
        callback=lambda success, error: success or failures.append(error),
    )
publisher.finish()
sys.exit("; ".join(failures) or 0)
