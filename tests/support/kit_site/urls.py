from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.urls import include, path

from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.session import IlertSession


@login_required
def sources(request: HttpRequest) -> HttpResponse:
    account = ConnectedAccount.objects.for_user(request.user).connected().get()
    with IlertSession(account) as ilert:
        return HttpResponse(", ".join(each["name"] for each in ilert.list("/api/alert-sources")))


urlpatterns = [path("sources/", sources), path("ilert/", include("django_ilert_oauth.urls"))]
