"""Let this virtual environment also use what another one has: pip then installs here only what differs.

``.venv-new/bin/python .ci/layer.py .venv`` makes the packages of ``.venv`` importable in ``.venv-new``, after
those that are installed there. Both have the same version of Python.
"""

import sys
import sysconfig
from pathlib import Path

here = Path(sysconfig.get_path("purelib"))
below = Path(sys.argv[1]).resolve() / here.relative_to(sys.prefix)
if not below.is_dir():
    sys.exit(f"{below} does not exist: another version of Python?")
# As a package folder: the editable installations of the other one count, too.
(here / "below.pth").write_text(f"import site; site.addsitedir({str(below)!r})\n")
