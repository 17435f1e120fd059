"""An application with django-eventstream in its reliable mode, as its documentation shows.

Usage: python events.py DATABASE wsgi|asgi
"""

import json
import logging
import socket
import sys

import django
from django.conf import settings
from django.core.management import call_command
from django.http import HttpResponse, JsonResponse
from django.urls import include, path

from program import grip_url

database, interface = sys.argv[1:]
listener = socket.create_server(("127.0.0.1", 0), backlog=100)


class NameFromHeader:
    """In place of a login: the client says who it is."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        from django.contrib.auth.models import AnonymousUser, User

        name = request.headers.get("X-User")
        request.user = User.objects.get(username=name) if name else AnonymousUser()
        return self.get_response(request)


settings.configure(
    SECRET_KEY="a secret of this application, longer than 32 bytes",
    ALLOWED_HOSTS=["*"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": database,
            "OPTIONS": {
                "timeout": 20,
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF",
            },
        }
    },
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    INSTALLED_APPS=[
        "django.contrib.contenttypes",
        "django.contrib.auth",
        "django_eventstream",
    ],
    MIDDLEWARE=["django_grip.GripMiddleware", "__main__.NameFromHeader"],
    ROOT_URLCONF="__main__",
    LOGGING_CONFIG=None,
    USE_TZ=True,
    GRIP_URL=grip_url(listener.getsockname()[1]),
    EVENTSTREAM_STORAGE_CLASS="django_eventstream.storage.DjangoModelStorage",
    EVENTSTREAM_CHANNELMANAGER_CLASS="channels.Channels",
)
logging.getLogger("django.request").setLevel(logging.ERROR)
django.setup()
call_command("migrate", verbosity=0)

from django.contrib.auth.models import User  # noqa: E402
from django_eventstream import channel_permission_changed, send_event  # noqa: E402
from django_eventstream.utils import get_storage, publish_event  # noqa: E402

import channels  # noqa: E402

User.objects.bulk_create([User(username="ann"), User(username="bob")])


def send(request):
    """Stores events and publishes them."""
    for event in json.loads(request.body):
        skipped = [str(User.objects.get(username=name).id) for name in event.get("skip", [])]
        send_event(
            event["channel"],
            event.get("type", "message"),
            event["data"],
            skip_user_ids=skipped,
            async_publish=False,
        )
    return HttpResponse("sent\n")


def store(request):
    """Stores events that nobody publishes, as if the hub could not be reached."""
    for event in json.loads(request.body):
        get_storage().append_event(event["channel"], "message", json.dumps(event["data"]))
    return HttpResponse("stored\n")


def late(request):
    """Publishes a stored event that others have overtaken."""
    event = json.loads(request.body)
    publish_event(
        event["channel"],
        "message",
        json.dumps(event["data"]),
        str(event["id"]),
        str(event["id"] - 1),
        blocking=True,
    )
    return HttpResponse("published\n")


def forbid(request):
    """Takes a channel away from a user who may be reading it."""
    order = json.loads(request.body)
    user = User.objects.get(username=order["user"])
    channels.forbidden.add((user.id, order["channel"]))
    channel_permission_changed(user, order["channel"])
    return HttpResponse("forbidden\n")


def grip(request):
    """What the library makes of a request."""
    return JsonResponse(
        {
            "proxied": request.grip.proxied,
            "signed": request.grip.signed,
            "features": sorted(request.grip.features),
        }
    )


urlpatterns = [
    path("events/", include("django_eventstream.urls")),
    path("send/", send),
    path("store/", store),
    path("late/", late),
    path("forbid/", forbid),
    path("grip/", grip),
]


def serve_wsgi():
    from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
    from django.core.wsgi import get_wsgi_application

    class Quiet(WSGIRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadedWSGIServer(("127.0.0.1", 0), Quiet, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    server.server_name, server.server_port = listener.getsockname()
    server.setup_environ()
    server.set_app(get_wsgi_application())
    server.serve_forever()


def serve_asgi():
    import uvicorn
    from django.core.asgi import get_asgi_application

    config = uvicorn.Config(get_asgi_application(), lifespan="off", log_level="warning")
    uvicorn.Server(config).run(sockets=[listener])


{"wsgi": serve_wsgi, "asgi": serve_asgi}[interface]()
