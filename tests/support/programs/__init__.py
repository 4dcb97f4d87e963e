"""What the tests run in processes of their own."""

import django
from django.apps import apps

if not apps.ready:
    django.setup()
