from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import include, path

from . import views

home = LoginView.as_view(template_name="home.html")

urlpatterns = [
    path("", home, name="home"),
    path("login/", home, name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("accounts/<int:pk>/", views.account, name="account"),
    path("alert-sources/new/", views.new_alert_source, name="new_alert_source"),
    path("schedules/", views.schedules, name="schedules"),
    path("ilert/", include("django_ilert_oauth.urls")),
    path("admin/", admin.site.urls),
]
