"""djangorestframework-api-key on SQLite, as its documentation sets it up. `python drf.py N FILE` makes the keys."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="bench",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["rest_framework", "rest_framework_api_key"],
    DATABASES={
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["BENCH_DB"], "CONN_MAX_AGE": None}
    },
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": [],
        "UNAUTHENTICATED_USER": None,
        "DEFAULT_PERMISSION_CLASSES": ["rest_framework_api_key.permissions.HasAPIKey"],
    },
)
django.setup()

from django.core.management import call_command  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.urls import path  # noqa: E402
from rest_framework.response import Response  # noqa: E402
from rest_framework.views import APIView  # noqa: E402
from rest_framework_api_key.models import APIKey  # noqa: E402


class Check(APIView):
    def get(self, _request: object) -> Response:
        return Response()


urlpatterns = [path("", Check.as_view())]


def seed(count: int, file: str) -> None:
    call_command("migrate", verbosity=0)
    keys, values = [], []
    for number in range(count):
        keys.append(APIKey(name=f"key-{number}"))
        values.append(APIKey.objects.assign_key(keys[-1]))
    APIKey.objects.bulk_create(keys, batch_size=2_000)
    Path(file).write_text("\n".join(values[:: max(1, count // 2_000)]), encoding="ascii")


if __name__ == "__main__":
    seed(int(sys.argv[1]), sys.argv[2])
else:
    app = get_wsgi_application()
