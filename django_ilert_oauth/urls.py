from __future__ import annotations

from django.urls import path

from . import views

app_name = "ilert_oauth"

urlpatterns = [
    path("", views.accounts, name="accounts"),
    path("connect/", views.connect, name="connect"),
    path("choose/", views.choose, name="choose"),
    path("callback/", views.callback, name="callback"),
    path("<int:pk>/disconnect/", views.disconnect, name="disconnect"),
    path("<int:pk>/remove/", views.remove, name="remove"),
]
