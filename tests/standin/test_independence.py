import subprocess
import sys
from pathlib import Path

import ilert_standin


def test_it_imports_neither_django_nor_the_app() -> None:
    code = (
        "import sys, ilert_standin.__main__, ilert_standin.browser;"
        "assert not [name for name in sys.modules if name.startswith('django')]"
    )
    folder = Path(ilert_standin.__file__).parent.parent
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, timeout=10)
