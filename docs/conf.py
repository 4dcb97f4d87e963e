"""Sphinx: ``tox run -e docs``. Nothing here needs a network, a database or a setting of a site."""

from __future__ import annotations

import django
from django.conf import settings

settings.configure(
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.messages",
        "django.contrib.sessions",
        "django_ilert_oauth",
    ],
    USE_TZ=True,
)
django.setup()

import django_ilert_oauth  # noqa: E402

project = "django-ilert-oauth"
version = release = django_ilert_oauth.__version__
copyright = "the django-ilert-oauth contributors"

extensions = ["sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build"]
nitpicky = True
# Others' objects are not looked up: that would need a network.
nitpick_ignore_regex = [
    ("py:.*", r"(?!django_ilert_oauth\.).*"),
    ("py:class", r"django_ilert_oauth\.(oauth\.secret\.Secret|decorators\.View)"),
]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80

html_theme = "furo"
html_title = f"django-ilert-oauth {release}"
html_copy_source = False
copybutton_prompt_text = "$ "
