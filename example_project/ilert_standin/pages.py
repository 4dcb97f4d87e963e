from collections.abc import Iterable, Sequence

from markupsafe import Markup

from .people import Person
from .scopes import sentences

APP_NAME = "Example app"
STYLE = Markup(
    ":root{color-scheme:light dark;--text:#222;--soft:#555;--line:#ccc;--page:#fff;"
    "--strong:#0b57d0;--on-strong:#fff}"
    "@media(prefers-color-scheme:dark){:root{--text:#e6e6e6;--soft:#aaa;--line:#555;--page:#181a1b;"
    "--strong:#8ab4f8;--on-strong:#111}a{color:#8ab4f8}}"
    "body{font:16px/1.5 system-ui,sans-serif;max-width:34rem;margin:0 auto;padding:1rem;"
    "color:var(--text);background:var(--page)}"
    "header{border-bottom:1px solid var(--line);color:var(--soft)}"
    "button{font:inherit;padding:.4rem .9rem;margin:.2rem .4rem .2rem 0;border-radius:.3rem;"
    "border:1px solid var(--soft);color:inherit;background:none}"
    "button[value=allow]{color:var(--on-strong);background:var(--strong);"
    "border-color:var(--strong);font-weight:600}"
)
LAYOUT = Markup("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} - stand-in for ilert</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<header><p>This is a stand-in for ilert. Nothing here reaches the real one.</p></header>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
""")
FORM = Markup('<form method="post">\n{}\n</form>')
BUTTON = Markup('<button name="{}" value="{}">{}</button>')
HIDDEN = Markup('<input type="hidden" name="{}" value="{}">')
PARAGRAPH = Markup("<p>{}</p>")


def home() -> Markup:
    link = Markup('<p><a href="manage-applications">Manage applications</a></p>')
    return _page("Home", [link])


def error(message: str) -> Markup:
    return _page("That did not work", [PARAGRAPH.format(message)])


def log_in(people: Sequence[Person]) -> Markup:
    tenants = dict.fromkeys(person.tenant for person in people)
    return _page("Log in", [FORM.format(_lines(_choices(tenant, people) for tenant in tenants))])


def consent(person: Person, scope: str, redirect_uri: str) -> Markup:
    items = _lines(Markup("<li>{}</li>").format(line) for line in sentences(scope))
    buttons = [
        HIDDEN.format("shown_to", person.account),
        BUTTON.format("decision", "allow", "Allow"),
        BUTTON.format("decision", "deny", "Deny"),
    ]
    body = [
        _whose(person),
        PARAGRAPH.format(f"{APP_NAME} would like to:"),
        Markup("<ul>\n{}\n</ul>").format(items),
        FORM.format(_lines(buttons)),
        PARAGRAPH.format(f"Either way you go back to {redirect_uri}"),
    ]
    return _page(f"{APP_NAME} asks for access", body)


def manage_applications(person: Person, scopes: Sequence[str]) -> Markup:
    if not scopes:
        return _page("Manage applications", [_whose(person), PARAGRAPH.format("No application.")])
    times = "once" if len(scopes) == 1 else f"{len(scopes)} times"
    granted = " ".join(dict.fromkeys(name for scope in scopes for name in scope.split(" ")))
    body = [
        _whose(person),
        PARAGRAPH.format(f"{APP_NAME}: connected {times}, may use {granted}"),
        FORM.format(BUTTON.format("revoke", "yes", "Revoke")),
    ]
    return _page("Manage applications", body)


def _page(title: str, body: Iterable[Markup]) -> Markup:
    return LAYOUT.format(title=title, style=STYLE, body=_lines(body))


def _lines(parts: Iterable[Markup]) -> Markup:
    return Markup("\n").join(parts)


def _choices(tenant: str, people: Sequence[Person]) -> Markup:
    buttons = [
        BUTTON.format("account", person.account, f"{person.name} ({person.username})")
        for person in people
        if person.tenant == tenant
    ]
    return Markup("<h2>{}</h2>\n<p>{}</p>").format(tenant, _lines(buttons))


def _whose(person: Person) -> Markup:
    who = f"Logged in as {person.name} ({person.username} at {person.tenant})."
    switch = BUTTON.format("log_out", "yes", "Use another account")
    return FORM.format(Markup("<p>{} {}</p>").format(who, switch))
